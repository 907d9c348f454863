"""Journal: what a killed run had already computed.

A method is deterministic given its seed, so a run is resumed by running it again on the original
model: `search.costs` and `train.fit` ask the journal first, all the rest simply happens again.

A journal is a folder: ``log.txt``, one line an entry (checksum and JSON; the first two are the
header, written twice), ``fit-KEY.safetensors``, one file a fit, replaced at every epoch, and a lock
file. A line or a fit that is damaged is computed anew, and a warning says so.
"""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import platform
import re
import warnings
import weakref
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunekit import __version__
from prunekit._arguments import Kind, checked
from prunekit._files import (
    NewerFormat,
    check_room,
    check_seal,
    check_version,
    describe,
    home,
    remove_left_over,
    replacing,
    seal,
    tensor_bytes,
)
from prunekit._modules import device_of, named_tensors, state_key, structure
from prunekit._source import code_key
from prunekit.knobs import shown

Entry = dict[str, Any]
Key = Annotated[
    str, Kind("a word", lambda key: isinstance(key, str) and bool(re.fullmatch(r"[\w.-]+", key)))
]
FORMAT = 2  # of the log and of the files of fits
WIDTH = 60  # characters of a value in an error


@checked
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

    @checked
    def __init__(self, path: str | os.PathLike[str], *, any_code: bool = False):
        bare = os.fspath(path) == Path(path).name  # "mine", and not "./mine"
        path = Path(path).expanduser()
        self.path = home() / "journals" / path if bare else path
        self.any_code = any_code
        self.environments: list[Entry] = []
        self.codes: list[str] = []
        self.precisions: list[str] = []  # what "auto" became, in the fits of this run
        self._values: dict[str, float] = {}
        self._log: FileIO | None = None
        self._lock = _new_lock(self.path / "lock")

    @property
    def is_open(self) -> bool:
        return self._log is not None

    @checked
    def open(
        self,
        method: Callable[..., Any],
        knobs: Mapping[str, Any],
        seed: int,
        model: nn.Module,
        data: Any,
        before: Mapping[str, Any] = {},
    ) -> None:
        """Lock the journal and read it, or start it; `before` are knobs of runs of when there were
        no such knobs.

        Raises ValueError if it is another run's, `Locked` if another run has it open.
        """
        if not hasattr(method, "__qualname__"):
            raise TypeError(f"journal: method must be a function with a name, got {shown(method)}")
        who = method.__name__
        if self.is_open:
            raise Locked(f"journal {self.path}: is in use by another run")
        if not all(hasattr(data, name) for name in ("loss", "metric", "augment")):
            raise TypeError(f"journal: data must be a prunekit Data, got {shown(data)}")
        functions = {name: getattr(data, name) for name in ("loss", "metric", "augment")}
        header = {
            "method": who,
            "function": f"{method.__module__}.{method.__qualname__}",
            "knobs": {name: _told(who, f"the knob {name}", v) for name, v in knobs.items()},
            "seed": seed,
            "prunekit": __version__,
            "model": structure(model),
            "weights": state_key(model),
            **{name: _told(who, f"the data's {name}", f) for name, f in functions.items()},
            "data": data.key,
            "code": code_key(method, *filter(callable, knobs.values()), model, *functions.values()),
        }
        if not data.key:
            raise ValueError(f"{who}: data needs a key (a checksum) for a run to be journalled")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except TimeoutError:  # which filelock's own is
            raise Locked(f"journal {self.path}: is in use by another run") from None
        try:
            told = {name: _told(who, name, v) for name, v in before.items() if name in knobs}
            self._read(header, model, told)
            for left_over in self.path.glob(".fit-*.tmp"):  # nobody else writes these
                left_over.unlink(missing_ok=True)
            remove_left_over(self.path)
            check_room(self.path, _fit_bytes(model, knobs), f"{who}: a fit in the journal")
            self._log = FileIO(self._log_path, "a")
            _opened.add(self)
            if not self._log_path.stat().st_size:
                for _ in range(2):  # it decides for all the others
                    self._append({"header": header, "format": FORMAT})
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

    @property
    def _log_path(self) -> Path:
        return self.path / "log.txt"

    def _let_go(self) -> None:
        """In a forked child: close what it inherited, and leave the lock to the parent."""
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._lock.is_locked:  # older versions of filelock know nothing of forks
            context = self._lock._context
            os.close(context.lock_file_fd)
            context.lock_file_fd, context.lock_counter = None, 0

    def _read(self, header: Entry, model: nn.Module, before: Entry) -> None:
        """Read what is whole. Lines that are not are dropped, with a word unless a kill tore them.

        Raises ValueError if it is another run's, or if that cannot be told.
        """
        self._values, self.environments, self.codes, self.precisions = {}, [], [], []
        path = self._log_path
        if not path.exists():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        entries = [_parse(line) for line in lines]
        if entries and not lines[-1].endswith(b"\n"):  # torn by a kill: it never happened
            torn = len(lines.pop())
            entries.pop()
        else:
            torn = 0
        was = next((entry for entry in entries if entry and "header" in entry), None)
        if was is not None:
            version = was.get("format", 1)
            check_version(version, FORMAT, f"journal {path}")
            if version == 1:  # the first headers said less
                was["header"]["function"] = header["function"]
                header = header | {"model": structure(model, first=True)}
            if isinstance(knobs := was["header"].get("knobs"), dict):
                was["header"]["knobs"] = before | knobs
            self._compare(was["header"], header)
        elif entries:
            raise ValueError(
                f"journal {path}: its header, line 1, is damaged: whose run it is cannot be told. "
                f"Put a copy of the file in its place, or delete {self.path} to start anew."
            )
        if damaged := [number for number, entry in enumerate(entries, 1) if entry is None]:
            warnings.warn(
                f"journal {path}: dropped what is damaged, line {', '.join(map(str, damaged))} of "
                f"{len(entries)}; what it recorded is computed anew",
                stacklevel=2,
            )
            with replacing(path) as beside:
                whole = zip(lines, entries, strict=True)
                beside.write_bytes(b"".join(line for line, entry in whole if entry is not None))
        elif torn:
            os.truncate(path, sum(map(len, lines)))
        for entry in entries:
            self._take(entry or {})

    def _take(self, entry: Entry) -> None:
        if "environment" in entry:
            self.environments.append(entry["environment"])
        elif "code" in entry:
            self.codes.append(entry["code"])
        elif "precision" in entry:
            self.precisions.append(entry["precision"])
        elif "k" in entry:
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
                    f"now {_short(expected)}). Choose another journal, delete this one, or go on "
                    "under the new code with Journal(..., any_code=True)."
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
        """Write a whole line, or none. Raises OSError that names the file, as on a full disk."""
        if self._log is None:
            raise ValueError(
                f"journal {self.path}: is not open. Hand it to a method, with "
                "run=Run(journal=...): the method opens it."
            )
        line, end = _line(entry), self._log_path.stat().st_size
        try:
            while line:
                line = line[self._log.write(line) :]
        except OSError as error:
            self._log.truncate(end)
            number = error.errno or errno.EIO
            raise OSError(number, os.strerror(number), str(self._log_path)) from error

    @checked
    def note_precision(self, form: str) -> None:
        """Record what "auto" became in a fit."""
        if form not in self.precisions:
            self.precisions.append(form)
            self._append({"precision": form})

    # -- evaluations

    @checked
    def get(self, key: str) -> float | None:
        """The recorded cost of a candidate, or None."""
        return self._values.get(key)

    @checked
    def put(self, key: str, value: float) -> None:
        """Record the cost of a candidate."""
        value = value if type(value) in (int, float) else float(value)
        self._values[key] = value
        self._append({"k": key, "v": value})

    # -- fits

    def _fit_path(self, key: str) -> Path:
        return self.path / f"fit-{key}.safetensors"

    @checked
    def load_fit(self, key: Key) -> Fit | None:
        """The recorded state of a fit; None if there is none that can be read."""
        path = self._fit_path(key)
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
                about = json.loads(file.metadata()["fit"])
            _check_fit(about, key, tensors, f"journal {path}")
            masks = {
                int(name[5:]): tensors.pop(name).numpy().tobytes()
                for name in list(tensors)
                if name.startswith("mask.")
            }
        except (FileNotFoundError, NewerFormat):
            if path.exists():
                raise
            return None
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            warnings.warn(
                f"journal {path}: this fit starts anew, its file is damaged: {error}", stacklevel=2
            )
            return None
        return Fit(about["epoch"], about["metrics"], masks, tensors, about["extra"])

    @checked
    def save_fit(self, key: Key, fit: Fit) -> None:
        """Put `fit` in the place of what was recorded before."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in fit.tensors.items()}
        for epoch, packed in fit.masks.items():
            tensors[f"mask.{epoch}"] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
        about = {"epoch": fit.epoch, "metrics": fit.metrics, "extra": fit.extra}
        about = seal(about | {"key": key, "crc": _crc(tensors, FORMAT)}, FORMAT)
        with replacing(self._fit_path(key)) as beside:
            save_file(tensors, str(beside), {"fit": json.dumps(about)})

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"


def _check_fit(about: Any, key: str, tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise ValueError unless all that was recorded of a fit is as it was written."""
    about = check_seal(about, FORMAT, what)
    if about.get("crc") != _crc(tensors, about.get("format", 1)):
        raise ValueError("its tensors do not fit their checksum")
    if about.get("key", key) != key:
        raise ValueError("it is another fit's")
    types = {"epoch": int, "metrics": list, "extra": dict}  # the first form sealed tensors alone
    if any(type(about.get(name)) is not kind for name, kind in types.items()):
        raise ValueError(f"it lacks one of {[*types]}")
    if len(about["metrics"]) != about["epoch"]:
        raise ValueError("it has not as many metrics as epochs")


def _crc(tensors: Mapping[str, Tensor], version: int) -> int:
    """Over names and contents, and since the second format over types and shapes."""
    crc = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        head = name if version == 1 else f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        crc = zlib.crc32(tensor_bytes(tensor), zlib.crc32(head.encode(), crc))
    return crc


def _told(who: str, what: str, value: Any) -> str:
    """The description of what goes into the header. Raises TypeError that says what has none."""
    try:
        return describe(value)
    except TypeError as error:
        raise TypeError(
            f"{who}: with a journal, {what} must have a name or content to know it by: {error}"
        ) from error


def _fit_bytes(model: nn.Module, knobs: Mapping[str, Any]) -> int:
    """About what the file of a fit takes: the weights, and what the optimiser holds of each."""
    if knobs.get("epochs", 1) == 0:
        return 0
    numbers = 3 if str(knobs.get("optimizer", "")).startswith("adam") else 2
    return numbers * sum(tensor.nbytes for tensor in named_tensors(model).values())


# The journals that this process has open: a child that is forked has no part in them.
_opened: weakref.WeakSet[Journal] = weakref.WeakSet()


def _new_lock(path: Path) -> Any:
    import filelock

    _leave_to_parents()  # after filelock, which may have a hand in it too
    return filelock.FileLock(str(path), thread_local=False)


@functools.cache
def _leave_to_parents() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_all)


def _leave_all() -> None:
    for journal in list(_opened):
        journal._let_go()


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
