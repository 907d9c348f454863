"""Whole files, sealed over what they hold, and keys that depend on content alone."""

from __future__ import annotations

import copyreg
import errno
import functools
import hashlib
import inspect
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn


def home() -> Path:
    """Where journals and downloaded data lie: `PRUNEKIT_HOME`, else the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("PRUNEKIT_HOME") or user_cache_path("prunekit"))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    A link is written through. A new file has the rights that the umask leaves, one that was there
    keeps its own. What killed writers of the same file left beside it is removed.

    Raises OSError with the name of the file if it cannot be written, as on a full disk.
    """
    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{secrets.token_hex(3)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left_over(path.parent, path.name)
        beside.open("xb").close()
        mode = stat.S_IMODE((path if path.exists() else beside).stat().st_mode)
        _set_mode(beside, mode)  # before there is anything to read
        yield beside
        _set_mode(beside, mode)  # some writers make a file of their own
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        told = getattr(error, "filename", None)
        number = _system_error(error) if told in (None, str(beside)) else None
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def _system_error(error: Exception) -> int | None:
    """The number of an error of the system; safetensors tells it in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\((?:os error|Os \{ code:) (\d+)", str(error))
    return int(found[1]) if found else None


def _set_mode(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


_HOST = hashlib.blake2b(platform.node().encode(), digest_size=3).hexdigest()
_LEFT_OVER = re.compile(r"\.(?P<name>.+)\.((?P<host>[0-9a-f]{6})-(?P<pid>\d+)-)?[0-9a-f]{6,8}\.tmp")
LONGEST = 24 * 60 * 60  # seconds that nobody needs to write one file


def remove_left_over(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files in a folder, or those of the file `name`, whose writers are dead.

    A writer is dead if its process is, or, where that cannot be told (another machine's, Windows),
    if its file is older than a day.
    """
    for path in folder.glob(".*.tmp"):
        found = _LEFT_OVER.fullmatch(path.name)
        if found is None or name not in (None, found["name"]):
            continue
        try:
            old = time.time() - path.stat().st_mtime > LONGEST
            here = found["host"] == _HOST and os.name == "posix"
            if old or (here and not _runs(int(found["pid"]))):
                path.unlink()
        except OSError:  # another start removed it, or may not
            continue


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        pass
    return True


def check_room(path: Path, needed: int, what: str) -> None:
    """Raise OSError that names the file if the disk has less room than `needed` bytes."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        text = f"{what} needs about {needed:,} bytes, the disk has {free:,} left; make room"
        raise OSError(errno.ENOSPC, text, str(path))


def seal(record: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A record as plain JSON, with the version of its format and a checksum over all of it."""
    own = {name: value for name, value in record.items() if name not in ("format", "seal")}
    plain = json.loads(json.dumps({"format": version} | own))
    return plain | {"seal": _sealed(plain)}


def check_seal(record: Any, version: int, what: str) -> dict[str, Any]:
    """The record if it is whole; one without format and seal is of the first version.

    Raises ValueError that begins with `what`, the kind and name of the file.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{what} is damaged: it holds no record")
    if "format" not in record and "seal" not in record:
        return record
    check_version(record.get("format"), version, what)
    if record.get("seal") != _sealed({k: v for k, v in record.items() if k != "seal"}):
        raise ValueError(f"{what} is damaged: its content does not fit its checksum")
    return record


class NewerFormat(ValueError):
    """A file is of a format that this version does not know yet."""


def check_version(found: Any, known: int, what: str) -> None:
    """Raise ValueError that begins with `what`, or `NewerFormat`, unless the format is known."""
    if type(found) is not int or found < 1:
        raise ValueError(f"{what} is damaged: its format is {found!r}")
    if found > known:
        raise NewerFormat(
            f"{what} is of a newer format, {found}; this prunekit knows those up to {known}. "
            "Update prunekit."
        )


def read_json(path: Path, version: int, what: str) -> dict[str, Any]:
    """The record in a file, checked as by `check_seal`. Raises ValueError that names the file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} {path} cannot be read: {error}") from error
    return check_seal(record, version, f"{what} {path}")


def _sealed(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def try_place(path: str | os.PathLike[str], needs: int = 0) -> None:
    """Find out that a file of about `needs` bytes can be written at `path`, before the work for it.

    Leaves nothing behind. Raises OSError that names the path, and what is wrong with it.
    """
    path, made = Path(path), list[Path]()
    if path.is_dir() or (path.exists() and not path.is_file()):
        kind = "a folder" if path.is_dir() else "no regular file"
        raise OSError(f"{path} is {kind}, and a file is to be written there. Pass another name.")
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        for folder in reversed(path.parents):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        beside.write_bytes(bytes(4096))
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error.strerror}. Pass a folder where you may write."
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink()
        for folder in reversed(made):
            folder.rmdir()
    check_room(path, needs, "the file")


def tensor_bytes(tensor: Tensor) -> Any:
    """The content of a tensor, row after row, for hashing."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else b""


def digest(*parts: Any) -> str:
    """16 hex digits over the contents of the parts (see `describe`)."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        hashed.update(describe(part).encode())
        hashed.update(b"\0")
    return hashed.hexdigest()


_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_OF_TORCH = {*vars(nn.Module())} - {"training"}  # a module's layers, hooks and the like


def describe(thing: Any) -> str:
    """A text that is equal for equal contents, in every process: the basis of all keys.

    Functions and classes are described by module and qualified name, bound methods and partial
    functions by what they hold as well, tensors and arrays by their bytes. Objects with a `key`, a
    text, are described by class and key (modules excepted); all others by class and content: what
    pickle would keep of them, without what `functools.cached_property` worked out.

    Raises TypeError that names what has no such description: a lambda, a function or class defined
    in a function, an open file, a lock.
    """
    try:
        return _text(thing, ())
    except RecursionError as error:
        raise TypeError(
            f"what goes into a journal must not be nested so deep, got {type(thing).__name__}"
        ) from error


def _text(thing: Any, above: tuple[int, ...]) -> str:
    """`describe` inside the things with these ids; who holds itself is named by its depth there."""
    if type(thing) in _PLAIN:
        return repr(thing)
    if isinstance(thing, Tensor):
        return _tensor(thing)
    if isinstance(thing, np.ndarray):
        return _array(thing)
    if isinstance(thing, np.generic):
        return repr(thing.item())
    if isinstance(thing, type):
        return _place(thing)
    if id(thing) in above:
        return f"<{above.index(id(thing))}>"
    above = (*above, id(thing))
    if isinstance(thing, FunctionType):
        return _function(thing, above)
    if isinstance(thing, functools.partial):
        parts = [_text(part, above) for part in (thing.func, thing.args, thing.keywords)]
        return f"{parts[0]}({parts[1]}, {parts[2]})"
    if inspect.ismethod(thing):
        return f"{_text(thing.__func__, above)}({_text(thing.__self__, above)})"
    if isinstance(thing, BuiltinFunctionType) and isinstance(thing.__self__, ModuleType):
        return f"{thing.__self__.__name__}.{thing.__qualname__}"
    if not isinstance(thing, nn.Module) and isinstance(getattr(thing, "key", None), str):
        return f"{type(thing).__module__}.{type(thing).__qualname__}:{thing.key}"
    if callable(thing):  # content alone does not say what it does
        return _object(thing, above)
    if isinstance(thing, Mapping):
        items = sorted((_text(k, above), _text(v, above)) for k, v in thing.items())
        return "{" + ", ".join(f"{k}: {v}" for k, v in items) + "}"
    if isinstance(thing, (set, frozenset)):
        return "{" + ", ".join(sorted(_texts(thing, above))) + "}"
    if isinstance(thing, (list, tuple)):
        return "[" + ", ".join(_texts(thing, above)) + "]"
    return _object(thing, above)


def _texts(things: Iterable[Any], above: tuple[int, ...]) -> list[str]:
    return [_text(thing, above) for thing in things]


def _tensor(thing: Tensor) -> str:
    try:
        content = hashlib.blake2b(tensor_bytes(thing), digest_size=8).hexdigest()
    except (RuntimeError, NotImplementedError) as error:
        raise TypeError(
            f"journal: a tensor needs a value for each element, got {thing.layout} "
            f"on {thing.device}"
        ) from error
    return f"{thing.dtype}{tuple(thing.shape)}{content}"


def _array(thing: np.ndarray) -> str:
    try:
        return _tensor(torch.from_numpy(thing.copy(order="C")))
    except (TypeError, ValueError):  # texts, objects: what torch has no type for
        return f"{thing.dtype}{thing.shape}{_text(thing.tolist(), ())}"


def _function(thing: FunctionType, above: tuple[int, ...]) -> str:
    """Where it stands; if another stands there and it closes over values, its code and these too.

    Decorators give functions the name of the one that they wrap.
    """
    place = _place(thing)
    if not thing.__closure__ or _stands_at(thing.__module__, thing.__qualname__) is thing:
        return place
    held = [cell.cell_contents for cell in thing.__closure__]
    code = f"{thing.__globals__['__name__']}.{thing.__code__.co_qualname}"
    return f"{place}:{code}{_text(held, above)}"


def _place(thing: Any) -> str:
    """Module and name of a function or class that can be told from others by it."""
    if "<" in thing.__qualname__:
        raise _nameless(thing)
    return f"{thing.__module__}.{thing.__qualname__}"


def _nameless(thing: Any) -> TypeError:
    if isinstance(thing, type):
        kind, fix = "class", "define it with class at the top level of a module"
    else:
        kind = "function"
        fix = "define it with def at the top level of a module, or use functools.partial"
    return TypeError(
        f"a {kind} that goes into a journal needs a name of its own, got {thing!r}; {fix}"
    )


def _stands_at(module: str, name: str) -> Any:
    place: Any = sys.modules.get(module)
    for part in name.split("."):
        place = getattr(place, part, None)
    return getattr(place, "__func__", place)  # a class method's


def _object(thing: Any, above: tuple[int, ...]) -> str:
    """Class and content of an object, as pickle takes it apart."""
    if type(thing) is object:
        raise TypeError(f"what goes into a journal needs a key or content, got {thing!r}")
    try:
        apart = copyreg.dispatch_table.get(type(thing))
        parts = apart(thing) if apart else thing.__reduce_ex__(4)
    except Exception as error:
        raise TypeError(
            f"what goes into a journal needs a key, or content that can be read, got {thing!r}: "
            f"{error}"
        ) from error
    if isinstance(parts, str):  # the name of what there is once, such as a cached function
        if "<" in parts:
            raise _nameless(thing)
        return f"{_place(type(thing))}:{getattr(thing, '__module__', None)}.{parts}"
    make, args, state, entries, items = (*parts, None, None, None)[:5]
    texts = [_text(make, above), _text(args, above)]
    if isinstance(state, dict):
        texts += _attributes(thing, state, above)
    elif state is not None:
        texts.append(_text(state, above))
    rest = [[*part] for part in (entries, items) if part is not None]
    return " ".join(["<", *texts, *_texts(rest, above), ">"])


def _attributes(thing: Any, state: dict[str, Any], above: tuple[int, ...]) -> list[str]:
    """An object's attributes by name; of what torch keeps for itself in a module, what is set."""
    texts = []
    for name, value in sorted(state.items()):
        if isinstance(getattr(type(thing), name, None), functools.cached_property):
            continue
        if isinstance(thing, nn.Module) and name in _OF_TORCH:
            if not value:
                continue
            if isinstance(value, dict):  # layers in their order; hooks without their numbers
                value = [(k, v) if isinstance(k, str) else v for k, v in value.items()]
        try:
            texts.append(f"{name}={_text(value, above)}")
        except TypeError as error:
            raise TypeError(f"{type(thing).__qualname__}.{name}: {error}") from error
    return texts
