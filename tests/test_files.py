"""Whole files, keys that depend on content alone, and a light import."""

import dataclasses
import enum
import functools
import json
import math
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_data, tiny_model
from torch import nn
from torch.nn import functional as F

from prunekit import _files
from prunekit._files import check_seal, describe, digest, read_json, replacing, seal, try_place
from prunekit._modules import state_key
from prunekit.datasets import crop_and_mirror
from prunekit.mask import Mask

# ------------------------------------------------------------------------------------- whole files


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with replacing(path) as beside:
        beside.write_text("new")
        assert not path.exists()
        assert beside.parent == path.parent  # else the renaming could copy
    assert path.read_text() == "new"
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as beside:
        beside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "b.txt"
    with replacing(path) as one, replacing(path) as two:
        assert one != two
        one.write_text("1")
        two.write_text("2")
    assert path.read_text() == "1"  # the outer block ends last


posix = pytest.mark.skipif(os.name != "posix", reason="rights and links of Unix")


@pytest.fixture
def umask():
    before = os.umask(0o077)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_rights_are_what_the_umask_leaves_and_a_file_keeps_its_own(tmp_path, umask):
    for mask, expected in ((0o077, 0o600), (0o027, 0o640), (0o022, 0o644)):
        umask(mask)
        path = tmp_path / oct(mask)
        with replacing(path) as beside:
            beside.unlink()
            beside.write_text("made anew by the writer")
            beside.chmod(0o604)
        assert mode(path) == expected
    path.chmod(0o620)
    with replacing(path) as beside:
        assert mode(beside) == 0o620
        beside.write_text("new")
    assert (mode(path), path.read_text()) == (0o620, "new")


@posix
def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    for there in (True, False):
        if there:
            (tmp_path / "real" / "True").write_text("old")
        link = tmp_path / f"link {there}"
        link.symlink_to(tmp_path / "real" / str(there))
        with replacing(link) as beside:
            beside.write_text("new")
        assert link.is_symlink()
        assert (tmp_path / "real" / str(there)).read_text() == "new"


DIES = """
import os, signal, sys
from prunekit._files import replacing
with replacing(sys.argv[1]) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_what_killed_writers_left_goes_and_what_living_ones_write_stays(tmp_path):
    path, other = tmp_path / "a.txt", tmp_path / "a.txt.b"
    for target in (path, other):
        subprocess.run([sys.executable, "-c", DIES, str(target)])
    elsewhere = tmp_path / ".a.txt.012345-1-abcdef.tmp"  # another machine's
    first = tmp_path / ".a.txt.0123abcd.tmp"  # as the first version called them
    foreign = tmp_path / ".a.txt.mine.tmp"
    for file in (elsewhere, first, foreign):
        file.write_text("being written")
    assert len([*tmp_path.iterdir()]) == 5
    with replacing(path) as one, replacing(path) as two:
        assert one.exists()
        assert {*tmp_path.glob(".a.txt.*")} == {one, two, elsewhere, first, foreign} | {
            *tmp_path.glob(".a.txt.b*")
        }
        assert len([*tmp_path.glob(".a.txt.b*")]) == 1
    long_ago = time.time() - 2 * _files.LONGEST
    for file in (elsewhere, first, foreign):
        os.utime(file, (long_ago, long_ago))
    _files.remove_left_over(tmp_path, "a.txt")
    assert {*tmp_path.glob(".a.txt.*")} == {foreign, *tmp_path.glob(".a.txt.b*")}


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy, torch
from safetensors.torch import save_file
from prunekit._files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
for name, write in {
    "text": lambda path: path.write_text("x" * 1000),
    "tensors": lambda path: save_file({"x": torch.zeros(1000)}, str(path)),
    "arrays": lambda path: numpy.savez(path.open("wb"), numpy.zeros(1000)),
}.items():
    path = Path(sys.argv[1], name)
    path.write_text("old")
    try:
        with replacing(path) as beside:
            write(beside)
    except OSError as error:
        assert (error.filename, error.errno) == (str(path), 27), error
    else:
        raise AssertionError
    assert path.read_text() == "old"
assert len([*Path(sys.argv[1]).iterdir()]) == 3
"""


@posix
def test_a_full_disk_is_an_error_of_the_system_with_the_files_name(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_another_files_error_keeps_its_name(tmp_path):
    with pytest.raises(OSError) as error, replacing(tmp_path / "a"):
        (tmp_path / "nowhere" / "b").read_text()
    assert error.value.filename == str(tmp_path / "nowhere" / "b")


def test_every_flipped_bit_of_a_sealed_record_is_told(tmp_path):
    path = tmp_path / "r.json"
    record = seal({"knobs": {"lr": 0.1, "ignore": [1, None]}, "format": 9}, 2)
    whole = json.dumps(record).encode()
    path.write_bytes(whole)
    assert read_json(path, 2, "record") == record
    assert record["format"] == 2
    for place in range(len(whole)):
        for bit in (0, 2, 5):
            harmed = bytearray(whole)
            harmed[place] ^= 1 << bit
            path.write_bytes(harmed)
            told = f"record {path}"
            try:
                assert read_json(path, 2, "record") == record
            except ValueError as error:
                told = str(error)
            assert told.startswith(f"record {path}")


def test_a_newer_format_is_refused_and_the_first_has_no_seal(tmp_path):
    with pytest.raises(ValueError, match="it is of a newer format, 3; this prunekit knows .* 2"):
        check_seal(seal({}, 3), 2, "it")
    assert check_seal({"a": 1}, 2, "it") == {"a": 1}


def test_home_is_the_variable_else_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path))
    assert _files.home() == tmp_path
    monkeypatch.delenv("PRUNEKIT_HOME")
    assert _files.home().is_absolute()
    assert "prunekit" in str(_files.home())


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "old.txt").write_text("old")
    for name in ("new.txt", "old.txt", "some/deep/folder/new.txt"):
        try_place(tmp_path / name, 1000)
    assert [path.name for path in tmp_path.rglob("*")] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".", "is a folder"),
        ("file/a", "Not a directory"),
        ("file/deep/a", "Not a directory"),
        ("a" * 250, "File name too long"),
        ("new/" + "a" * 250, "File name too long"),
        pytest.param(
            "/proc/a/b", "cannot be written",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="has no /proc"),
        ),
        pytest.param(
            "/dev/null", "no regular file",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="has no /dev"),
        ),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_written_is_named(tmp_path, name, said):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=said) as raised:
        try_place(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_a_disk_without_room_is_told_with_its_numbers(tmp_path):
    with pytest.raises(OSError, match=r"needs about 1,000,000,000,000,000,000 bytes, .* left"):
        try_place(tmp_path / "large", 10**18)


# -------------------------------------------------------------------------------------------- keys

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def marked(thing):
    """The thing with the type of every leaf, so that 1, 1.0 and True differ under ==, as do ±0."""
    if isinstance(thing, dict):
        return {name: marked(value) for name, value in thing.items()}
    if isinstance(thing, list):
        return [marked(value) for value in thing]
    return type(thing).__name__, thing, isinstance(thing, float) and math.copysign(1, thing)


@given(PLAIN, PLAIN)
def test_keys_are_equal_exactly_for_equal_contents(a, b):
    assert (digest(a) == digest(b)) == (marked(a) == marked(b))


ALL_DIFFERENT = [
    None, True, 1, 1.0, "1", 0.0, -0.0, [1, 2], [[1], 2], ["1, 2"], {"a": 1}, {"a": "1"}, [],
    torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 2.0]]),
    torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([1, 2]), torch.tensor(1.0),
    torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.zeros(0), torch.zeros(0, 2),
    np.arange(3), np.arange(4), crop_and_mirror, describe, functools.partial(describe, 1),
    functools.partial(describe, 2), functools.partial(describe, thing=1), {1, 2}, {1, 3},
    Mask({"w": torch.tensor([True, False])}), Mask({"w": torch.tensor([True, True])}),
]  # fmt: skip


def test_different_contents_have_different_keys():
    assert len({digest(thing) for thing in ALL_DIFFERENT}) == len(ALL_DIFFERENT)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1, 2), [1, 2]),
        (np.float64(0.1), 0.1),
        (np.int32(3), 3),
        (torch.tensor([[0, 2], [1, 3]]), torch.arange(4).reshape(2, 2).T),  # not contiguous
        (torch.ones(2), torch.ones(2, requires_grad=True)),
        (np.arange(3), torch.arange(3)),
        ({"b", "a", "c"}, frozenset(["c", "b", "a"])),
    ],
)  # fmt: skip
def test_equal_contents_have_equal_keys(a, b):
    assert digest(a) == digest(b)


def test_where_one_part_ends_matters():
    assert digest("a", "b") != digest("ab") != digest(["a", "b"])


CONTENT = """
import functools, torch
from prunekit._files import digest
from prunekit.datasets import crop_and_mirror
key = digest({"b": torch.arange(4), "a": (1, "x")}, set("abcdefghijkl"),
             functools.partial(crop_and_mirror, padding=2))
"""


def test_keys_are_the_same_in_every_process(monkeypatch):
    here = {}
    exec(CONTENT, here)
    monkeypatch.setenv("PYTHONHASHSEED", "1")  # sets come in another order
    command = [sys.executable, "-c", CONTENT + "print(key)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here["key"]
    assert len(here["key"]) == 16


# Things that compute: what they hold is in their keys.


class Distill:
    """A loss of its own state, as a bound method, a callable object or a class method."""

    scale = 1.0

    def __init__(self, temperature, teacher=None):
        self.temperature, self.teacher = temperature, teacher

    @functools.cached_property
    def sharp(self):
        return 1 / self.temperature

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs / self.temperature, targets)

    __call__ = loss

    @classmethod
    def plain(cls, outputs, targets):
        return F.cross_entropy(outputs, targets)

    def __repr__(self):
        return "Distill"


class Softer(Distill):
    pass


@dataclasses.dataclass
class Weighted:
    weights: object
    hidden: object = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    value: object


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Own(nn.Module):
    """A loss module with an attribute that its repr does not show, and one that is a layer."""

    def __init__(self, secret=0.0, layers=("key", "value")):
        super().__init__()
        self._secret = secret
        for name in layers:
            setattr(self, name, nn.Identity())


class Terms(dict):
    def __call__(self, outputs, targets):
        return sum(weight * F.cross_entropy(outputs, targets) for weight in self.values())


class Sums(Terms):
    pass


def cross_entropy(outputs, targets):
    return F.cross_entropy(outputs, targets, label_smoothing=0.3)


def smoothing(amount):
    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets, label_smoothing=amount)

    return loss


def disguised(amount):
    """A function that holds values and bears the name of another, as decorators make them."""
    return functools.wraps(cross_entropy)(smoothing(amount))


def also(amount):
    """As `disguised`, by other code."""

    @functools.wraps(cross_entropy)
    def loss(outputs, targets):
        return amount * cross_entropy(outputs, targets)

    return loss


@functools.lru_cache
def cached(outputs, targets):
    return 0.0


@functools.lru_cache
def cached_too(outputs, targets):
    return 0.0


def hooked(*hooks):
    module = nn.Identity()
    for hook in hooks:
        module.register_forward_hook(hook)
    return module


def buffered(value):
    module = nn.Identity()
    module.register_buffer("b", torch.full((1000,), value))
    module.b[500] += value
    return module


def circular(value):
    loss = Distill(value)
    loss.teacher = [loss, {"loss": loss.loss}]
    return loss


LONG = torch.zeros(2_000)
CHANGED = LONG.clone()
CHANGED[1_000] = 1  # a repr shows neither

FAMILIES = [
    lambda: [cross_entropy, F.cross_entropy, F.mse_loss, torch.relu, torch.sigmoid, math.sqrt,
             cached, cached_too, np.add, np.multiply, disguised(0.1), disguised(0.2), also(0.1)],
    lambda: [Distill(1).loss, Distill(8).loss, Distill(1), Distill(8), Distill(1.0), Softer(1),
             Softer(1).loss, Distill.plain, Distill.loss, Distill, Softer],
    lambda: [Distill(1, LONG), Distill(1, CHANGED), Distill(1, LONG.numpy()[:5]),
             Distill(1, [Distill(2)]), Distill(1, [Distill(3)])],
    lambda: [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1), nn.NLLLoss(),
             nn.CrossEntropyLoss(weight=LONG), nn.CrossEntropyLoss(weight=CHANGED)],
    lambda: [nn.Dropout(0.1), nn.Dropout(0.2), nn.Dropout(0.1).eval(), nn.Dropout1d(0.1)],
    lambda: [tiny_model(), tiny_model(seed=1), nn.Sequential(tiny_model()), tiny_model().half()],
    lambda: [Own(), Own(1.0), Own(layers=("value", "key")), Own(layers=("key",))],
    lambda: [buffered(1.0), buffered(2.0), nn.Identity()],
    lambda: [hooked(), hooked(cross_entropy), hooked(F.relu), hooked(F.relu, F.relu)],
    lambda: [Weighted(LONG), Weighted(CHANGED), Weighted(LONG, 1), Slotted(1), Slotted(2)],
    lambda: [*Colour, Colour, 1, PurePosixPath("a"), PurePosixPath("b"), torch.float32,
             torch.float64, torch.device("cpu"), torch.device("meta"), range(3), range(4)],
    lambda: [Terms(a=1), Terms(a=2), Sums(a=1), dict(a=1), deque([LONG]), deque([CHANGED])],
    lambda: [circular(1), circular(2)],
    lambda: [np.array(3), np.array([3]), np.array([[3]]), np.array(["a"]), np.array(["b"]),
             np.array([LONG, None], dtype=object), np.array([CHANGED, None], dtype=object)],
    lambda: [{1: "a", "1": "a"}, {1: "a", "1": "b"}, {F.relu: 1}, {F.gelu: 1}],
    lambda: [np.random.RandomState(0), np.random.RandomState(1), np.random.default_rng(0)],
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_what_computes_differently_has_another_key_and_what_computes_alike_the_same(family):
    keys = [digest(thing) for thing in family()]
    assert len({*keys}) == len(keys)
    assert [digest(thing) for thing in family()] == keys
    assert not re.search("0x[0-9a-f]{6}", "".join(map(describe, family())))


def test_what_was_only_worked_out_changes_no_key():
    loss = Distill(2)
    key = digest(loss)
    assert loss.sharp == 0.5
    assert digest(loss) == key


def test_a_layer_called_key_is_no_key():
    assert digest(Own()) != digest(Own(secret=2))


@torch.no_grad()
def decorated(outputs):
    return outputs


def local():
    class Local:
        pass

    return Local()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lambda x: x, r"a function .* name of its own, got .*functools\.partial"),
        (lambda: functools.partial(lambda x: x, 1), r"a function .* name of its own, got .*lambda"),
        (
            lambda: functools.lru_cache(lambda x: x),
            r"a function .* name of its own, got .*lru_cache",
        ),
        (lambda: smoothing(0.1), r"a function .* name of its own, got .*smoothing.*top level"),
        (local, r"a class .* name of its own, got .*Local.*define it with class at the top"),
        (lambda: Distill(1, lambda x: x).loss, r"Distill\.teacher: a function .*top level"),
        (lambda: Distill(1, [Distill(threading.Lock())]), r"temperature: .*key, or content.*lock"),
        (lambda: (i for i in range(3)), r"needs a key, or content that can be read, got <gen"),
        (object, "needs a key or content, got <object"),
        (lambda: torch.zeros(3, device="meta"), "a value for each element, got .* on meta"),
        (lambda: functools.reduce(lambda x, _: [x], range(10_000)), "must not be nested so deep"),
    ],
)
def test_what_has_no_content_that_can_be_told_is_refused_with_its_place(make, message):
    with pytest.raises(TypeError, match=message):
        digest({"f": make()})


def test_a_decorated_function_is_known_by_its_place():
    assert describe(decorated) == f"{__name__}.decorated"


def test_the_state_key_sees_every_parameter_and_buffer_and_nothing_else():
    model = torch.nn.Sequential(tiny_model(), torch.nn.BatchNorm1d(3))
    keys = [state_key(model)]
    model.train()[0][0].weight.requires_grad_(False)
    assert state_key(model) == keys[0]
    with torch.no_grad():
        model[0][2].bias[1] += 1
    keys.append(state_key(model))
    model[1].running_mean[0] += 1
    keys.append(state_key(model))
    assert len(set(keys)) == 3


def test_data_is_described_by_its_key():
    assert describe(tiny_data()) == describe(tiny_data()) != describe(tiny_data(seed=1))


# ---------------------------------------------------------------------------------- a light import

HEAVY = ("matplotlib", "seaborn", "pandas", "IPython", "ipywidgets", "anywidget", "jupyter",
         "ipykernel", "nbformat", "nbclient", "nbconvert", "torchvision")  # fmt: skip


def test_the_import_draws_in_nothing_heavy_and_has_no_side_effects():
    code = (
        "import sys, torch; threads = torch.get_num_threads(); state = torch.get_rng_state();"
        "import prunekit;"
        "assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state);"
        f"print([m for m in sys.modules if m.split('.')[0].startswith({HEAVY!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_public_name_is_there():
    import prunekit

    assert sorted(prunekit.__all__) == prunekit.__all__
    assert all(getattr(prunekit, name) is not None for name in prunekit.__all__)
