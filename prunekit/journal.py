"""Journal: what a killed run had already computed.

A method is deterministic given its seed, so a run is resumed by running it again on the original
model: `search.evaluate` and `train.fit` ask the journal first, all the rest simply happens again.

A journal is a folder: ``log.txt``, one line an entry (checksum and JSON; the first is the header),
``fit-KEY.safetensors``, one file a fit, replaced at every epoch, and a lock file.
"""

from __future__ import annotations

import json
import os
import platform
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunekit import __version__
from prunekit._files import describe, home, replacing, tensor_bytes
from prunekit._modules import state_key

Entry = dict[str, Any]


def environment() -> dict[str, Any]:
    """What can change the last bits of a result: versions, processor, threads."""
    return {
        "prunekit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }


def _line(entry: Entry) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> Entry | None:
    """The entry of a whole, undamaged line, else None."""
    if not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    text = line[9:-1]
    return json.loads(text) if line[:8] == b"%08x" % zlib.crc32(text) else None


@dataclass
class Fit:
    """How far a fit got: its last finished epoch, and what is needed to go on from there.

    `metrics` and `masks` have one entry an epoch (a mask only where it changed, as bytes);
    `tensors` are the weights, buffers and optimiser state; `extra` is the state that is no tensor.
    """

    epoch: int
    metrics: list[dict[str, float]]
    masks: dict[int, bytes] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


class Journal:
    """A journal in the folder `path`; a bare name lies under ``PRUNEKIT_HOME/journals``.

    Hand it to a method with ``run=Run(journal=Journal("mine"))``: the outermost method opens it,
    and refuses one that belongs to another run. Not shared: while open it is locked.
    """

    def __init__(self, path: str | os.PathLike[str]):
        import filelock

        bare = os.fspath(path) == Path(path).name  # "mine", and not "./mine"
        path = Path(path)
        self.path = home() / "journals" / path if bare else path
        self.environments: list[Entry] = []
        self._values: dict[str, float] = {}
        self._log: BinaryIO | None = None
        self._lock = filelock.FileLock(str(self.path / "lock"), thread_local=False)

    @property
    def is_open(self) -> bool:
        return self._log is not None

    def open(
        self, method: str, knobs: Mapping[str, Any], seed: int, model: nn.Module, data: Any
    ) -> None:
        """Lock the journal and read it, or start it. Raises ValueError if it is another run's."""
        if self.is_open:
            raise ValueError(f"journal {self.path}: is in use by another run")
        if not getattr(data, "key", None):
            raise ValueError(f"{method}: data needs a key (a checksum) for a run to be journalled")
        header = {
            "method": method,
            "knobs": {name: describe(value) for name, value in knobs.items()},
            "seed": seed,
            "prunekit": __version__,
            "model": str(model),
            "weights": state_key(model),
            "data": data.key,
        }
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except TimeoutError:  # which filelock's own is
            raise ValueError(f"journal {self.path}: is in use by another run") from None
        try:
            self._read(header)
            self._log = (self.path / "log.txt").open("ab")
            if not self._log.tell():
                self._append({"header": header})
            if not self.environments or self.environments[-1] != environment():
                self.environments.append(environment())
                self._append({"environment": environment()})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        log, self._log = self._log, None
        try:
            if log is not None:
                log.close()
        finally:
            self._lock.release()

    def _read(self, header: Entry) -> None:
        self._values, self.environments = {}, []
        path = self.path / "log.txt"
        if not path.exists():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        entries = [_parse(line) for line in lines]
        if entries and entries[-1] is None:  # torn by a kill: this entry never happened
            del entries[-1]
            os.truncate(path, sum(map(len, lines[:-1])))
        if None in entries:
            raise ValueError(
                f"journal {path}: line {entries.index(None) + 1} is damaged. Delete it."
            )
        for number, entry in enumerate(entries):
            assert entry is not None
            if number == 0:
                self._compare(entry.get("header", {}), header)
            elif "environment" in entry:
                self.environments.append(entry["environment"])
            else:
                self._values[entry["k"]] = entry["v"]

    def _compare(self, found: Entry, header: Entry) -> None:
        for name, expected in header.items():
            if found.get(name) == expected:
                continue
            was = found.get(name)
            if name == "knobs" and isinstance(was, dict):
                name = next(k for k in {**expected, **was} if was.get(k) != expected.get(k))
                was, expected = was.get(name), expected.get(name)
            raise ValueError(
                f"journal {self.path}: belongs to another run, its {name} is {_short(was)}, this "
                f"run's is {_short(expected)}. Choose another journal or delete this one."
            )

    def _append(self, entry: Entry) -> None:
        assert self._log is not None
        self._log.write(_line(entry))
        self._log.flush()

    # -- evaluations

    def get(self, key: str) -> float | None:
        """The recorded result of an evaluation, or None."""
        return self._values.get(key)

    def put(self, key: str, value: float) -> None:
        """Record the result of an evaluation: errors as int, or the metric as float."""
        self._values[key] = value
        self._append({"k": key, "v": value})

    # -- fits

    def _fit_path(self, key: str) -> Path:
        return self.path / f"fit-{key}.safetensors"

    def load_fit(self, key: str) -> Fit | None:
        """The recorded state of a fit; None if there is none that can be read."""
        path = self._fit_path(key)
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
                about = json.loads(file.metadata()["fit"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        if about["crc"] != _crc(tensors):
            return None
        masks = {
            int(name[5:]): tensors.pop(name).numpy().tobytes()
            for name in list(tensors)
            if name.startswith("mask.")
        }
        return Fit(about["epoch"], about["metrics"], masks, tensors, about["extra"])

    def save_fit(self, key: str, fit: Fit) -> None:
        """Put `fit` in the place of what was recorded before."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in fit.tensors.items()}
        for epoch, packed in fit.masks.items():
            tensors[f"mask.{epoch}"] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
        about = {"epoch": fit.epoch, "metrics": fit.metrics, "extra": fit.extra}
        about["crc"] = _crc(tensors)
        with replacing(self._fit_path(key)) as beside:
            save_file(tensors, str(beside), {"fit": json.dumps(about)})

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"


def _crc(tensors: Mapping[str, Tensor]) -> int:
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensor_bytes(tensors[name]), zlib.crc32(name.encode(), crc))
    return crc


def _short(value: Any, width: int = 60) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"
