"""Keys of code: what changes them, and what does not."""

import functools
import importlib.util
import subprocess
import sys
import textwrap

import pytest
from tiny import tiny_model
from torch.nn import functional as F

from prunekit import _source
from prunekit._source import code_key
from prunekit.baselines.magnitude import magnitude

BEFORE = '''
"""A module."""
import math
from torch import nn

SCALE = 2.0

def helper(x):
    """Twice."""
    return SCALE * deeper(x)

def deeper(x):
    return math.sqrt(x)

def unused(x):
    return x + 1

def loss(outputs, y):
    """The loss."""
    # which is none
    return helper(outputs - y)

class Net(nn.Module):
    """A net."""

    def forward(self, x):
        return x.relu()
'''


@pytest.fixture
def load(tmp_path, monkeypatch):
    """The module of a text, under one name whatever the text."""
    count = iter(range(100))

    def from_text(text):
        path = tmp_path / f"{next(count)}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("written", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "written", module)
        spec.loader.exec_module(module)
        return module

    return from_text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# which is none", "# which is another comment"),
        ('"""The loss."""', '"""The loss, told better."""'),
        ('"""A net."""', ""),
        ("return x + 1", "return x + 2"),  # nobody calls it
        ("SCALE * deeper(x)", "SCALE * (deeper(x))"),
        ("\n\ndef deeper", "\n\n\n\ndef deeper"),
    ],
)
def test_what_changes_nothing_gives_the_same_key(load, old, new):
    before = code_key(load(BEFORE).loss), code_key(load(BEFORE).Net())
    after = load(BEFORE.replace(old, new))
    assert (code_key(after.loss), code_key(after.Net())) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("helper(outputs - y)", "helper(y - outputs)"),
        ("SCALE * deeper(x)", "SCALE + deeper(x)"),
        ("math.sqrt(x)", "math.exp(x)"),  # what a helper calls
        ("SCALE = 2.0", "SCALE = 3.0"),
    ],
)
def test_a_change_of_a_function_its_helpers_or_their_constants_gives_another_key(load, old, new):
    before = code_key(load(BEFORE).loss)
    assert code_key(load(BEFORE.replace(old, new)).loss) != before


def test_a_change_of_a_models_forward_gives_another_key(load):
    before = code_key(load(BEFORE).Net())
    assert code_key(load(BEFORE.replace("relu", "sin")).Net()) != before


def test_partial_functions_and_bound_methods_are_read_too(load):
    text = BEFORE + "\nclass Distill:\n    def loss(self, o, y):\n        return o - y\n"
    keys = [
        (code_key(module.Distill().loss), code_key(functools.partial(module.loss, y=1)))
        for module in map(load, (text, text.replace("return o - y", "return y - o")))
    ]
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1]
    changed = load(text.replace("outputs - y", "y - outputs"))
    assert code_key(functools.partial(changed.loss, y=1)) != keys[0][1]


def test_torch_is_known_by_its_names_and_a_method_by_its_own_module():
    assert code_key(F.cross_entropy) == code_key()
    assert code_key(magnitude, tiny_model()) == code_key(magnitude, tiny_model())
    assert code_key(magnitude) != code_key()


TYPED = textwrap.dedent("""
    from prunekit._source import code_key
    exec("def loss(o, y): return o - y")
    print(code_key(loss), code_key(loss), sep="|")
""")


def test_what_has_no_source_says_so_and_is_the_same_in_its_own_process_alone():
    keys = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", TYPED], capture_output=True, text=True)
        first, second = done.stdout.strip().split("|")
        assert first == second, done.stderr
        assert first.startswith(_source.UNREADABLE)
        keys.append(first)
    assert keys[0] != keys[1]
