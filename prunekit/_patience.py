"""Calling what a reader has written: it may take some seconds, and print some lines."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
GRACE = 1.0  # seconds in which what was interrupted may end


class _Ended(BaseException):
    """Raised in the thread of what is given up."""


class _Capped(io.TextIOBase):
    """Writes through to `out`, so many characters and no more."""

    def __init__(self, out: TextIO, characters: int):
        self.out, self.rest = out, characters

    def write(self, text: str) -> int:
        self.out.write(text[: self.rest])
        self.rest -= len(text)
        if self.rest < 0:
            raise _Ended
        return len(text)

    def flush(self) -> None:
        self.out.flush()


def patiently(work: Callable[[], T], seconds: float, characters: int) -> T:
    """What `work` gives; its errors are raised.

    Raises TimeoutError, which says so, if it has not come back after so many seconds, if it prints
    more than so many characters, or if the reader interrupts it. It is ended then; what cannot be,
    such as a call that never leaves C, goes on in a thread that nobody waits for.
    """
    result: list[Any] = []
    errors: list[BaseException] = []

    def called() -> None:
        try:
            result.append(work())
        except BaseException as error:  # SystemExit, too
            errors.append(error)

    thread, why = threading.Thread(target=called, daemon=True), ""
    printed = _Capped(sys.stdout, characters)
    with contextlib.redirect_stdout(printed):
        thread.start()
        try:
            thread.join(seconds)
            if thread.is_alive():
                why = f"has not come back after {seconds:g} seconds: does a loop never end?"
        except KeyboardInterrupt:
            why = "was interrupted"
        if thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Ended)
            )
            thread.join(GRACE)
    if printed.rest < 0:
        why = f"prints more than {characters:,} characters: does a loop never end?"
    if why:
        raise TimeoutError(why)
    if errors:
        raise errors[0]
    out: T = result[0]
    return out
