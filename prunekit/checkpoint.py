"""Models on disk: the tensors as safetensors, everything else as JSON beside them. No pickle.

``name.safetensors`` holds the model's own ``state_dict``, so that plain torch and safetensors can
load it; ``name.json`` holds what was said about it, and the checksum of the tensors. The same text
is in the metadata of the tensors: the moment in which these are renamed is the one in which a new
checkpoint takes the place of an older one, and who is killed right after it has lost nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunekit._arguments import checked
from prunekit._files import check_room, check_seal, replacing, seal, tensor_bytes

FORMAT = 2
OURS, BEFORE = "prunekit", "replaces"  # in the metadata: the JSON, and a checksum of the one before


def _pair(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    path = Path(path).expanduser()
    if not path.name:
        raise ValueError(f"checkpoint: the path must end with the name of a file, got {path}")
    if path.suffix in (".safetensors", ".json"):
        path = path.with_suffix("")
    return path.with_name(path.name + ".safetensors"), path.with_name(path.name + ".json")


def text_of(path: str | os.PathLike[str]) -> Path:
    """Where the JSON of a checkpoint is."""
    return _pair(path)[1]


@checked
def content_key(tensors: Mapping[str, Tensor]) -> str:
    """64 hex digits over names, types, shapes and contents of tensors, whatever their order."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        hashed.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor_bytes(tensor))
    return hashed.hexdigest()


@checked
def save(
    path: str | os.PathLike[str], model: nn.Module, info: dict[str, Any], *, half: bool = False
) -> Path:
    """Write ``path.safetensors`` and ``path.json``, over older ones if there are any.

    Killed at any moment, it leaves the older checkpoint or the new one. Tied weights are stored
    once; ``tied`` in the JSON says under which name. With `half`, floating-point tensors are stored
    with 16 bits; `load_into` gives them back the model's own type.

    Raises ValueError, before anything is written, for a model with extra state that is no tensor,
    and OSError that names the file where the disk is full.
    """
    file, text = _pair(path)
    if half:
        model = copy.deepcopy(model).half()
    tensors, tied = _apart(model)
    try:
        info = seal(info | {"tied": tied, "tensors": content_key(tensors)}, FORMAT)
        described = json.dumps(info, indent=1) + "\n"
    except (TypeError, ValueError) as error:
        raise TypeError(f"checkpoint: info must be plain JSON: {error}") from error
    needed = sum(tensor.nbytes for tensor in tensors.values()) + 2 * len(described)
    check_room(file, needed, "a checkpoint")
    metadata = {OURS: described, BEFORE: _checksum(text)}
    # The tensors come first into their place, and hold all that the JSON says.
    with replacing(text) as new_text, replacing(file) as new_file:
        save_file(tensors, str(new_file), metadata)
        new_text.write_text(described, encoding="utf-8")
    return file


def _apart(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model that are apart from each other, and other names of the same ones."""
    tensors: dict[str, Tensor] = {}
    known: dict[Any, str] = {}
    tied: dict[str, str] = {}
    storages: set[int] = set()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"checkpoint: {type(model).__name__} has extra state that is no tensor, "
                f"{name!r} is a {type(tensor).__name__}, and cannot be written without pickle. "
                "Let get_extra_state give a tensor, or save model.state_dict() with torch.save."
            )
        if tensor.layout is not torch.strided or tensor.is_meta:
            kind = "on the meta device" if tensor.is_meta else f"{tensor.layout}"
            raise ValueError(
                f"checkpoint: every tensor must be dense and have values, {name!r} of "
                f"{type(model).__name__} is {kind}. Make it dense, or a buffer with "
                "persistent=False."
            )
        if (same := known.setdefault(_place(tensor), name)) != name:
            tied[name] = same
            continue
        storage = tensor.untyped_storage().data_ptr()
        apart = tensor.detach().contiguous()
        if storage in storages and apart.data_ptr() == tensor.data_ptr():
            apart = apart.clone()  # several weights in one storage
        storages.add(storage)
        tensors[name] = apart
    return tensors, tied


def _place(tensor: Tensor) -> Any:
    """What tied weights have in common; an empty tensor or one without memory is only itself."""
    if not tensor.numel() or not tensor.data_ptr():
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _checksum(path: Path) -> str:
    """Of the bytes of a file; "" if there is none."""
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


@checked
def exists(path: str | os.PathLike[str]) -> bool:
    """Whether both files of a checkpoint are there."""
    return all(part.is_file() for part in _pair(path))


@checked
def read_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``path.json`` says. Raises ValueError that names it if it is missing or damaged."""
    file, text = _pair(path)
    what = f"checkpoint: {text}"
    try:
        content = text.read_bytes()
    except OSError as error:
        raise ValueError(f"{what} cannot be read: {error}") from error
    metadata = _metadata(file)
    if metadata.get(BEFORE) == hashlib.sha256(content).hexdigest() and OURS in metadata:
        # Its writer was killed between the two files: the tensors are the newer one, and know all.
        content, what = metadata[OURS].encode(), f"checkpoint: {file}"
    try:
        info = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} cannot be read: {error}") from error
    if not isinstance(info, dict):
        raise ValueError(f"{what} cannot be read: it holds no names")
    return check_seal(info, FORMAT, what)


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError):
        return {}


@checked
def load_into(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load the tensors into `model` and give back the info.

    Raises ValueError, with the model untouched, if a file is missing or damaged, the two do not
    belong together, or a name, shape or type does not fit.
    """
    file, text = _pair(path)
    info = read_info(text)
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise ValueError(f"checkpoint: {file} {why}: {error}") from error
    if "format" in info:
        whole = content_key(tensors) == info.get("tensors")
    else:  # the first form had a checksum of the file
        whole = _checksum(file) == info.get("sha256")
    if not whole:
        raise ValueError(f"checkpoint: {file} is damaged, or does not belong to {text}")
    own = model.state_dict()
    state = _with_tied(tensors, own, info.get("tied", {}))
    before = {
        n: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for n, value in own.items()
    }
    try:
        _check_types(state, own)
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        model.load_state_dict(before)
        message = " ".join(str(error).split())
        raise ValueError(
            f"checkpoint: {file} does not fit {type(model).__name__}: {message}"
        ) from error
    return info


def _with_tied(
    tensors: Mapping[str, Tensor], own: Mapping[str, Any], tied: Mapping[str, str]
) -> dict[str, Tensor]:
    """The tensors under all names that they have, by the file or by the model `own` is of."""
    state = dict(tensors)
    names: dict[Any, list[str]] = {}
    for name, value in own.items():
        if isinstance(value, Tensor):
            names.setdefault(_place(value), []).append(name)
    for group in names.values():
        if stored := [name for name in group if name in tensors]:
            state |= {name: tensors[stored[0]] for name in group if name not in tensors}
    return state | {n: state[same] for n, same in tied.items() if same in state and n not in state}


def _check_types(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> None:
    """Raise TypeError unless each tensor is of its own kind; the bits of floats may differ."""
    for name, value in state.items():
        mine = own.get(name)
        if not isinstance(mine, Tensor) or value.dtype == mine.dtype:
            continue
        if not (value.is_floating_point() and mine.is_floating_point()):
            raise TypeError(f"{name} is of {value.dtype}, the model's is of {mine.dtype}")
