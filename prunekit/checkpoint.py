"""Models on disk: the tensors as safetensors, everything else as JSON beside them. No pickle.

``name.safetensors`` holds the model's own ``state_dict`` and nothing more, so that plain torch and
safetensors can load it; ``name.json`` holds what was said about it and the checksum of the tensors.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from prunekit._files import replacing


def _pair(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    path = Path(path)
    if path.suffix in (".safetensors", ".json"):
        path = path.with_suffix("")
    return path.with_name(path.name + ".safetensors"), path.with_name(path.name + ".json")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(
    path: str | os.PathLike[str], model: nn.Module, info: dict[str, Any], *, half: bool = False
) -> Path:
    """Write ``path.safetensors`` and ``path.json``; each appears whole or not at all.

    With `half`, floating-point tensors are stored with 16 bits; `load_into` gives them back the
    model's own type.
    """
    tensors, text = _pair(path)
    if half:
        model = copy.deepcopy(model).half()
    with replacing(text) as new_text, replacing(tensors) as new_tensors:
        save_model(model, str(new_tensors))
        described = json.dumps(info | {"sha256": _checksum(new_tensors)}, indent=1)
        new_text.write_text(described + "\n", encoding="utf-8")
    return tensors


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether both files of a checkpoint are there."""
    return all(part.is_file() for part in _pair(path))


def read_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``path.json`` says. Raises ValueError if it is missing or damaged."""
    _, text = _pair(path)
    try:
        return dict(json.loads(text.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:  # TypeError: JSON, but no object
        raise ValueError(f"checkpoint: {text} cannot be read: {error}") from error


def load_into(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load the tensors into `model` and give back the info.

    Raises ValueError, with the model untouched, if a file is missing or damaged, the two do not
    belong together, or a name or shape does not fit.
    """
    tensors, text = _pair(path)
    info = read_info(text)
    if not tensors.is_file() or _checksum(tensors) != info.get("sha256"):
        raise ValueError(f"checkpoint: {tensors} is missing, damaged, or does not belong to {text}")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        load_model(model, str(tensors))
    except (RuntimeError, SafetensorError) as error:
        model.load_state_dict(before)
        message = " ".join(str(error).split())
        raise ValueError(
            f"checkpoint: {tensors} does not fit {type(model).__name__}: {message}"
        ) from error
    return info
