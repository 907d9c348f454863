"""Memory between batches: kept, and given back."""

import platform
import sys

import pytest
import torch

from prunekit._memory import give_back

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc",
    reason="another system's memory",
)
SIZE, PAGE = 20 * 2**20, resource.getpagesize()


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def batch():
    return [torch.ones(SIZE, dtype=torch.uint8) for _ in range(3)]


def test_the_next_batch_uses_the_pages_of_the_last():
    batch()
    before = faults()
    for _ in range(20):
        batch()
    assert faults() - before < 2 * 3 * SIZE / PAGE  # and not twenty times as many


def test_what_is_given_back_is_not_kept():
    batch()
    give_back()
    before = faults()
    batch()
    assert faults() - before > SIZE / PAGE / 600  # or huge pages, of 512
