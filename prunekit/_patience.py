"""Calling what a reader has written: it may take some seconds, and print some lines."""

from __future__ import annotations

import ctypes
import io
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
GRACE = 1.0  # seconds in which what is ended may end
AGAIN = 0.05  # seconds from one try to end it to the next


class _Ended(BaseException):
    """Raised in the thread of what is given up."""


class _Capped(io.TextIOBase):
    """Standard output, of which one thread may write so many characters; others write as before."""

    def __init__(self, out: TextIO, characters: int):
        self.out, self.rest, self.thread = out, characters, 0

    def write(self, text: str) -> int:
        if threading.get_ident() != self.thread:
            return self.out.write(text)
        self.out.write(text[: max(self.rest, 0)])
        self.rest -= len(text)
        if self.rest < 0:
            raise _Ended
        return len(text)

    def flush(self) -> None:
        self.out.flush()


def patiently(work: Callable[[], T], seconds: float, characters: int) -> T:
    """What `work` gives; its errors are raised.

    Raises TimeoutError, which says so, if it has not come back after so many seconds, if it prints
    more than so many characters, or if the reader interrupts it. It is ended then, again and again
    if it catches that; a call that never leaves C goes on in a thread that nobody waits for, and
    one that keeps Python's lock meanwhile, such as a sum of a huge range, is waited for.
    """
    result: list[Any] = []
    errors: list[BaseException] = []
    why, before = "", sys.stdout
    printed = _Capped(before, characters)

    def called() -> None:
        printed.thread = threading.get_ident()
        try:
            result.append(work())
        except BaseException as error:  # SystemExit, too
            errors.append(error)

    thread = threading.Thread(target=called, daemon=True)
    sys.stdout = printed
    try:
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            why = f"has not come back after {seconds:g} seconds: does a loop never end?"
    except KeyboardInterrupt:
        why = "was interrupted"
    ending = threading.Thread(target=_end, args=(thread, printed, before), daemon=True)
    ending.start()
    ending.join(GRACE)
    if printed.rest < 0:
        why = f"prints more than {characters:,} characters: does a loop never end?"
    if why:
        raise TimeoutError(why)
    if errors:
        raise errors[0]
    out: T = result[0]
    return out


def _end(thread: threading.Thread, printed: _Capped, before: TextIO) -> None:
    """End a thread, if it is not done, and only then give standard output back."""
    while thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Ended)
        )
        thread.join(AGAIN)
    if sys.stdout is printed:
        sys.stdout = before
