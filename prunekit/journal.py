"""Journal: what a killed run had already computed.

A method is deterministic given its seed, so a run is resumed by running it again on the original
model: `search.costs` and `train.fit` ask the journal first, all the rest simply happens again.

A journal is a folder: ``log.txt``, one line an entry (checksum and JSON; the first is the header),
``fit-KEY.safetensors``, one file a fit, replaced at every epoch, and a lock file.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import platform
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunekit import __version__
from prunekit._files import describe, home, replacing, tensor_bytes
from prunekit._modules import device_of, state_key, structure
from prunekit._source import code_key

Entry = dict[str, Any]
WIDTH = 60  # characters of a value in an error


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """What can change the last bits of a result: versions, processor, threads, accelerator."""
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    about = {
        "prunekit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": bool(able.get("avx512_bf16") or able.get("amx_bf16")),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }
    if device is not None and device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(device)
        about["cuda"] = torch.version.cuda
    elif device is not None and device.type != "cpu":
        about["device"] = str(device)
    return about


@functools.cache
def _processor() -> str:
    """The processor by name; its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


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


class Locked(ValueError):
    """Another run has the journal open."""


class Journal:
    """A journal in the folder `path`; a bare name lies under ``PRUNEKIT_HOME/journals``.

    Hand it to a method with ``run=Run(journal=Journal("mine"))``: the outermost method opens it,
    and refuses one that belongs to another run, or whose code has changed since (code that is
    written alike but for comments and docstrings is the same). Not shared: while open it is locked.

    With ``any_code=True`` a run goes on under changed code; `codes` then lists all that it had.
    """

    def __init__(self, path: str | os.PathLike[str], *, any_code: bool = False):
        import filelock

        bare = os.fspath(path) == Path(path).name  # "mine", and not "./mine"
        path = Path(path)
        self.path = home() / "journals" / path if bare else path
        self.any_code = any_code
        self.environments: list[Entry] = []
        self.codes: list[str] = []
        self.precisions: list[str] = []  # what "auto" became, in the fits of this run
        self._values: dict[str, float] = {}
        self._log: BinaryIO | None = None
        self._lock = filelock.FileLock(str(self.path / "lock"), thread_local=False)

    @property
    def is_open(self) -> bool:
        return self._log is not None

    def open(
        self,
        method: Callable[..., Any],
        knobs: Mapping[str, Any],
        seed: int,
        model: nn.Module,
        data: Any,
    ) -> None:
        """Lock the journal and read it, or start it. Raises ValueError if it is another run's,
        `Locked` if another run has it open."""
        who = method.__name__
        if self.is_open:
            raise Locked(f"journal {self.path}: is in use by another run")
        if not data.key:
            raise ValueError(f"{who}: data needs a key (a checksum) for a run to be journalled")
        functions = {name: getattr(data, name) for name in ("loss", "metric", "augment")}
        header = {
            "method": who,
            "knobs": {name: describe(value) for name, value in knobs.items()},
            "seed": seed,
            "prunekit": __version__,
            "model": structure(model),
            "weights": state_key(model),
            **{name: describe(function) for name, function in functions.items()},
            "data": data.key,
            "code": code_key(method, *filter(callable, knobs.values()), model, *functions.values()),
        }
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except TimeoutError:  # which filelock's own is
            raise Locked(f"journal {self.path}: is in use by another run") from None
        try:
            self._read(header)
            self._log = (self.path / "log.txt").open("ab")
            if not self._log.tell():
                self._append({"header": header})
            if not self.codes or self.codes[-1] != header["code"]:
                self.codes.append(header["code"])
                self._append({"code": header["code"]})
            here = environment(device_of(model))
            if not self.environments or self.environments[-1] != here:
                self.environments.append(here)
                self._append({"environment": here})
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
        self._values, self.environments, self.codes, self.precisions = {}, [], [], []
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
            elif "code" in entry:
                self.codes.append(entry["code"])
            elif "precision" in entry:
                self.precisions.append(entry["precision"])
            else:
                self._values[entry["k"]] = entry["v"]

    def _compare(self, was: Entry, now: Entry) -> None:
        """Raise ValueError that names what differs between two headers, and what to do."""
        for name, expected in now.items():
            recorded = was.get(name)
            if recorded == expected or (name == "code" and self.any_code):
                continue
            if name == "code":
                raise ValueError(
                    f"journal {self.path}: the code of {now['method']}, its loss, metric, "
                    f"augmentation or model has changed since ({_short(str(recorded))}, "
                    f"now {_short(expected)}). Choose another journal or delete this one."
                )
            if name == "knobs" and isinstance(recorded, dict):
                name = next(
                    k for k in {**expected, **recorded} if recorded.get(k) != expected.get(k)
                )
                recorded, expected = recorded.get(name), expected.get(name)
            was_line, now_line = _first_difference(recorded, expected)
            raise ValueError(
                f"journal {self.path}: belongs to another run, its {name} is {was_line}, this "
                f"run's is {now_line}. Choose another journal or delete this one."
            )

    def _append(self, entry: Entry) -> None:
        if self._log is None:
            raise ValueError(
                f"journal {self.path}: is not open. Hand it to a method, with "
                "run=Run(journal=...): the method opens it."
            )
        self._log.write(_line(entry))
        self._log.flush()

    def note_precision(self, form: str) -> None:
        """Record what "auto" became in a fit."""
        if form not in self.precisions:
            self.precisions.append(form)
            self._append({"precision": form})

    # -- evaluations

    def get(self, key: str) -> float | None:
        """The recorded cost of a candidate, or None."""
        return self._values.get(key)

    def put(self, key: str, value: float) -> None:
        """Record the cost of a candidate."""
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


def _first_difference(was: Any, now: Any) -> tuple[str, str]:
    """Two values, shortened so that what differs is seen: of several lines, the first that do."""
    texts = [str(value) for value in (was, now)]
    for before, after in itertools.zip_longest(*map(str.splitlines, texts), fillvalue="nothing"):
        if before != after:
            pairs = enumerate(zip(before, after, strict=False))
            same = next((i for i, (a, b) in pairs if a != b), min(len(before), len(after)))
            start = max(same - WIDTH // 2, 0)
            return _short(before[start:], start > 0), _short(after[start:], start > 0)
    return _short(texts[0]), _short(texts[1])


def _short(text: str, cut: bool = False) -> str:
    text = "…" * cut + " ".join(text.split())
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
