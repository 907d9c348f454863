"""Whole files, keys that depend on content alone, and a light import."""

import functools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_data, tiny_model

from prunekit import _files
from prunekit._files import describe, digest, replacing
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


def test_home_is_the_variable_else_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path))
    assert _files.home() == tmp_path
    monkeypatch.delenv("PRUNEKIT_HOME")
    assert _files.home().is_absolute()
    assert "prunekit" in str(_files.home())


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


@pytest.mark.parametrize("function", [lambda x: x, functools.partial(lambda x: x, 1)])
def test_a_function_without_a_name_of_its_own_is_refused(function):
    with pytest.raises(TypeError, match=r"needs a name of its own, got .*functools\.partial"):
        digest({"f": function})


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
