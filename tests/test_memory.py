"""Memory between batches: kept, and given back."""

import os
import platform
import sys
from pathlib import Path

import pytest
import torch

from prunekit import _memory
from prunekit._memory import CHOSEN, give_back, keep_freed

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc",
    reason="another system's memory",
)
SIZE, PAGE = 20 * 2**20, resource.getpagesize()


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident():
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def batch():
    return [torch.ones(SIZE, dtype=torch.uint8) for _ in range(3)]


@pytest.mark.skipif(any(name in os.environ for name in CHOSEN), reason="somebody chose otherwise")
def test_the_next_batch_uses_the_pages_of_the_last():
    for _ in range(5):  # until its places are found
        batch()
    before = faults()
    for _ in range(20):
        batch()
    assert faults() - before < 3 * SIZE / PAGE  # and not twenty times as many


@pytest.mark.parametrize("name", CHOSEN)
def test_who_chose_otherwise_is_left_alone(name, monkeypatch):
    asked = []
    monkeypatch.setattr(_memory, "_OPTION", lambda *option: asked.append(option))
    for other in CHOSEN:
        monkeypatch.delenv(other, raising=False)
    keep_freed()
    assert len(asked) == 2
    monkeypatch.setenv(name, "1")
    keep_freed()
    assert len(asked) == 2


@pytest.mark.skipif(any(name in os.environ for name in CHOSEN), reason="somebody chose otherwise")
def test_what_is_given_back_is_not_kept():
    batch()
    before = resident()
    give_back()
    assert before - resident() > 2 * SIZE
