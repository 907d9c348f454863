"""Files that are never half-written, and keys that depend on content alone."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def home() -> Path:
    """Where journals and downloaded data lie: `PRUNEKIT_HOME`, else the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("PRUNEKIT_HOME") or user_cache_path("prunekit"))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        beside.chmod(0o644)  # some writers make files that only their owner can read
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


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


def describe(thing: Any) -> str:
    """A text that is equal for equal contents, in every process: the basis of all keys.

    Functions are described by where they stand, partial functions by what they hold, tensors and
    masks by their bytes. Raises TypeError for a function without a name of its own.
    """
    if isinstance(thing, Tensor):
        content = hashlib.blake2b(tensor_bytes(thing), digest_size=8).hexdigest()
        return f"{thing.dtype}{tuple(thing.shape)}{content}"
    if isinstance(thing, np.ndarray):
        return describe(torch.from_numpy(np.ascontiguousarray(thing)))
    if isinstance(thing, functools.partial):
        return f"{describe(thing.func)}({describe(thing.args)}, {describe(thing.keywords)})"
    if hasattr(thing, "key"):
        return f"{type(thing).__name__}:{thing.key}"
    if isinstance(thing, Mapping):
        return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in sorted(thing.items())) + "}"
    if isinstance(thing, (set, frozenset)):
        return "{" + ", ".join(sorted(map(describe, thing))) + "}"
    if isinstance(thing, (list, tuple)):
        return "[" + ", ".join(map(describe, thing)) + "]"
    if callable(thing):
        name = getattr(thing, "__qualname__", None)
        if name is None or "<" in name or inspect.ismethod(thing):
            raise TypeError(
                f"a function that goes into a journal needs a name of its own, got {thing!r}; "
                "define it with def at the top level of a module, or use functools.partial"
            )
        return f"{thing.__module__}.{name}"
    if isinstance(thing, np.generic):
        return repr(thing.item())
    if repr(thing) == object.__repr__(thing):
        raise TypeError(f"what goes into a journal needs a key or a repr of its own, got {thing!r}")
    return repr(thing)
