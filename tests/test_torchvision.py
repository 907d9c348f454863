"""torchvision is imported also where its compiled operators do not fit torch."""

import subprocess
import sys

import pytest

from prunekit import _torchvision

# A stand-in for torchvision: it looks its operators up when imported, as torchvision does.
STAND_IN = """
import torch
def absent(name):
    try:
        getattr(torch.ops.torchvision, name)
    except AttributeError:
        raise RuntimeError(f"operator torchvision::{name} does not exist") from None
from . import inner
absent("nms")
absent("qnms")
torch.library.register_fake("torchvision::nms", lambda dets, scores, iou: dets)
"""

MEND = """
import sys
try:
    import torchvision
except RuntimeError as error:
    print(error)
from prunekit._torchvision import torchvision
found = torchvision()
assert found is torchvision() is sys.modules["torchvision"]
print(found.__file__)
"""


def run(code, *path):
    code = f"import sys; sys.path[:0] = {list(map(str, path))!r}\n" + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_torchvision_whose_operators_are_missing_is_imported(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN)
    (package / "inner.py").write_text("")
    done = run(MEND, tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "operator torchvision::nms does not exist",
        str(package / "__init__.py"),
    ]


def test_another_failure_is_not_hidden(monkeypatch):
    attempts = []

    def burn_once(name):
        attempts.append(name)
        if len(attempts) == 1:
            raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(_torchvision.importlib, "import_module", burn_once)
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        _torchvision.torchvision()


def test_a_missing_torchvision_is_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="torchvision"):
        _torchvision.torchvision()


def test_data_sets_transforms_and_models_of_the_installed_one_work():
    code = (
        "import torch; torch.set_num_threads(1);"
        "from prunekit._torchvision import torchvision; tv = torchvision();"
        "x = tv.transforms.Pad(2)(torch.zeros(1, 3, 28, 28)); assert x.shape[-1] == 32;"
        "assert len(tv.models.resnet18(weights=None).state_dict()) == 122;"
        "assert len(tv.datasets.FakeData(3)) == 3"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
