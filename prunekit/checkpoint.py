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
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
    path: str | os.PathLike[str],
    model: nn.Module,
    info: dict[str, Any],
    *,
    half: bool = False,
    mask: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write ``path.safetensors`` and ``path.json``, over older ones if there are any.

    Killed at any moment, it leaves the older checkpoint or the new one. Tied weights are stored
    once; ``tied`` in the JSON says under which name. With `half`, floating-point tensors are stored
    with 16 bits; `load_into` gives them back the model's own type. With `mask`, by names what is
    kept, a weight takes about as much as a code for its place can: of the masked tensors the kept
    numbers are stored alone, `(k,)`, and beside them where they belong (see `pack`).

    Raises ValueError, before anything is written, for a model with extra state that is no tensor,
    and for a mask that is not applied to it, and OSError that names the file where the disk is
    full.
    """
    file, text = _pair(path)
    if half:
        model = copy.deepcopy(model).half()
    tensors, tied = _apart(model)
    told: dict[str, Any] = {"tied": tied}
    if mask is not None:
        tensors, told["packed"] = _packed(tensors, mask, tied)
    try:
        info = seal(info | told | {"tensors": content_key(tensors)}, FORMAT)
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


# ---------------------------------------------------------------------------------- packed tensors

PLACES = " places"  # what the name of the places of a tensor's kept numbers ends with
_LONG = 255  # a gap of so many or more goes on in the next byte


@checked
def pack(keep: Tensor) -> bytes:
    """Where the True entries of a bool tensor are, in nearly as few bits as a random one needs.

    A byte says how, the rest follows: a bit an entry; the same deflated, which finds patterns; or
    the gaps between entries that are True, or those that are False, in Huffman's code. Of n
    entries, k of them True at random, n H(k / n) bits are the least, H the binary entropy.
    """
    if keep.dtype != torch.bool:
        raise TypeError(f"pack: keep must be a bool tensor, got {keep.dtype}")
    bits = keep.detach().cpu().numpy().reshape(-1)
    plain = np.packbits(bits).tobytes()
    forms = [
        plain,
        _deflated(plain, zlib.Z_DEFAULT_STRATEGY),
        _deflated(_gaps(bits), zlib.Z_HUFFMAN_ONLY),
        _deflated(_gaps(~bits), zlib.Z_HUFFMAN_ONLY),
    ]
    best = min(range(len(forms)), key=lambda form: len(forms[form]))
    return bytes([best]) + forms[best]


@checked
def unpack(packed: bytes, shape: Sequence[int]) -> Tensor:
    """Turns `pack` around. Raises ValueError for bytes that do not fit the shape."""
    n = math.prod(shape)
    try:
        form, rest = packed[0], packed[1:]
        if form > 3:
            raise ValueError(f"there is no form {form}")
        if form:
            stream = zlib.decompressobj(-zlib.MAX_WBITS)
            rest = stream.decompress(rest, 2 * n + 16)
            if not stream.eof:
                raise ValueError("they are cut short, or too many")
        if form < 2:
            if len(rest) != (n + 7) // 8:
                raise ValueError(f"{len(rest)} bytes are not {n} bits")
            bits = np.unpackbits(np.frombuffer(rest, np.uint8), count=n).astype(bool)
        else:
            bytes_ = np.frombuffer(rest, np.uint8)
            ends = np.flatnonzero(bytes_ < _LONG)
            at = np.cumsum(bytes_.astype(np.int64))[ends] + np.arange(len(ends))
            if len(at) and at[-1] >= n:
                raise ValueError(f"place {at[-1]} is beyond {n}")
            bits = np.full(n, form == 3)
            bits[at] = form == 2
    except (ValueError, IndexError, zlib.error) as error:
        raise ValueError(f"unpack: the packed places are damaged: {error}") from error
    return torch.from_numpy(bits).reshape(tuple(shape))


def _deflated(plain: bytes, strategy: int) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    return stream.compress(plain) + stream.flush()


def _gaps(bits: np.ndarray) -> bytes:
    """How many False stand before each True; one that is long takes several bytes."""
    gaps = np.diff(np.flatnonzero(bits), prepend=-1) - 1
    more = gaps // _LONG
    told = np.full(int((more + 1).sum()), _LONG, np.uint8)
    told[np.cumsum(more + 1) - 1] = gaps % _LONG
    return told.tobytes()


def _packed(
    tensors: dict[str, Tensor], mask: Mapping[str, Tensor], tied: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """The kept numbers and their places, in the place of masked tensors, whose shapes come too."""
    packed, shapes = dict(tensors), dict[str, list[int]]()
    for name, keep in mask.items():
        own = tied.get(name, name)
        if keep.dtype != torch.bool:
            raise TypeError(f"checkpoint: the mask of {name} must be bool, got {keep.dtype}")
        if own not in tensors or tensors[own].shape != keep.shape:
            raise ValueError(f"checkpoint: the mask has {name} {tuple(keep.shape)}, the model not")
        a = tensors[own]
        if bool((a[~keep.to(a.device)] != 0).any()):
            raise ValueError(
                f"checkpoint: the mask removes weights of {name} that are not 0. Apply it first."
            )
        shapes[own] = [*a.shape]
        packed[own] = a[keep.to(a.device)].contiguous()
        packed[own + PLACES] = torch.frombuffer(bytearray(pack(keep)), dtype=torch.uint8)
    return packed, shapes


def _unpacked(tensors: dict[str, Tensor], shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Turns `_packed` around."""
    whole = dict(tensors)
    for name, shape in shapes.items():
        keep = unpack(whole.pop(name + PLACES).numpy().tobytes(), shape)
        if int(keep.sum()) != whole[name].numel():
            raise ValueError(f"unpack: {whole[name].numel()} numbers have {int(keep.sum())} places")
        full = torch.zeros(shape, dtype=whole[name].dtype)
        full[keep] = whole[name]
        whole[name] = full
    return whole


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
    try:
        tensors = _unpacked(tensors, info.get("packed", {}))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"checkpoint: {file} is damaged: {error}") from error
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
