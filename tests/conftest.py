"""What all tests share: one thread, a home of their own, the data sets."""

import os

import pytest
import torch
from hypothesis import settings

from prunekit import data

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)

# No deadline: a busy machine is not a failure. The same examples everywhere.
settings.register_profile("prunekit", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("prunekit")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """`PRUNEKIT_HOME` is a temporary folder: no test reads or writes the user's own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEKIT_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits():
    """The embedded sample of MNIST."""
    return data.mnist_small()


@pytest.fixture(scope="session")
def data_root():
    """The folder with the full data sets. Skips without one, fails if one is required."""
    root = os.environ.get("PRUNEKIT_DATA")
    if not root:
        if os.environ.get("PRUNEKIT_REQUIRE_DATA") == "1":
            pytest.fail("PRUNEKIT_REQUIRE_DATA=1, but PRUNEKIT_DATA is not set")
        pytest.skip("needs the full MNIST in PRUNEKIT_DATA")
    return root


@pytest.fixture(scope="session")
def full_mnist(data_root):
    """All of MNIST. A root that was given but lacks the files is an error, not a skip."""
    return data.mnist()
