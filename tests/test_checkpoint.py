"""Models on disk: back as they were, refused by name when damaged, read without this package."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from tiny import tiny_model
from torch import nn

from prunekit import checkpoint
from prunekit._random import LocalRandom


class Tied(nn.Module):
    """An embedding whose weight is that of the output layer, and a buffer."""

    def __init__(self, seed):
        super().__init__()
        with LocalRandom(seed):
            self.embed = nn.Embedding(7, 4)
            self.norm = nn.BatchNorm1d(4)
            self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return [*a] == [*b] and all(torch.equal(a[name], b[name]) for name in a)


def test_a_model_comes_back_as_it_was_with_its_info(tmp_path):
    saved, other = tiny_model(seed=0), tiny_model(seed=1)
    assert not equal(saved, other)
    path = checkpoint.save(tmp_path / "deep" / "run", saved, {"knobs": {"lr": 0.1}})
    assert path == tmp_path / "deep" / "run.safetensors"
    info = checkpoint.load_into(other, tmp_path / "deep" / "run")
    assert equal(saved, other)
    assert info["knobs"] == {"lr": 0.1}
    assert checkpoint.read_info(path) == info


def test_any_of_the_three_paths_names_the_pair_and_other_dots_stay(tmp_path):
    checkpoint.save(tmp_path / "v1.2", tiny_model(), {})
    assert {p.name for p in tmp_path.iterdir()} == {"v1.2.safetensors", "v1.2.json"}
    for name in ("v1.2", "v1.2.safetensors", "v1.2.json"):
        checkpoint.load_into(tiny_model(seed=1), tmp_path / name)


def test_tied_weights_and_buffers_come_back_and_stay_tied(tmp_path):
    saved, other = Tied(0), Tied(1)
    saved.norm.running_mean += 3
    checkpoint.save(tmp_path / "tied", saved, {})
    checkpoint.load_into(other, tmp_path / "tied")
    assert equal(saved, other)
    assert other.head.weight is other.embed.weight


def test_a_weight_that_is_not_contiguous_comes_back(tmp_path):
    saved, other = nn.Linear(3, 5), nn.Linear(3, 5)
    saved.weight = nn.Parameter(torch.arange(15.0).reshape(3, 5).t())
    checkpoint.save(tmp_path / "m", saved, {})
    checkpoint.load_into(other, tmp_path / "m")
    assert torch.equal(other.weight, saved.weight)


READER = """
import json, sys
from safetensors.torch import load_model
import torch
from torch import nn
model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
load_model(model, sys.argv[1])
print(json.dumps(model(torch.ones(1, 8)).tolist()))
assert "prunekit" not in sys.modules
"""


def test_another_process_reads_it_with_torch_and_safetensors_alone(tmp_path):
    model = tiny_model()
    path = checkpoint.save(tmp_path / "m", model, {})
    command = [sys.executable, "-c", READER, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    outputs = torch.tensor(json.loads(done.stdout))
    torch.testing.assert_close(outputs, model(torch.ones(1, 8)).detach())


def damaged_tensors(tensors, text):
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)


def truncated_tensors(tensors, text):
    tensors.write_bytes(tensors.read_bytes()[:-8])


def missing_tensors(tensors, text):
    tensors.unlink()


def missing_text(tensors, text):
    text.unlink()


def truncated_text(tensors, text):
    text.write_text(text.read_text()[:-5])


def text_without_names(tensors, text):
    text.write_text("3")


def text_of_another(tensors, text):
    checkpoint.save(text.with_name("other"), tiny_model(seed=5), {})
    text.write_text(text.with_name("other.json").read_text())


@pytest.mark.parametrize(
    ("harm", "file", "message"),
    [
        (damaged_tensors, "m.safetensors", "damaged"),
        (truncated_tensors, "m.safetensors", "damaged"),
        (missing_tensors, "m.safetensors", "missing"),
        (missing_text, "m.json", "cannot be read"),
        (truncated_text, "m.json", "cannot be read"),
        (text_without_names, "m.json", "cannot be read"),
        (text_of_another, "m.safetensors", "does not belong to"),
    ],
)
def test_a_damaged_pair_is_refused_by_name_and_the_model_stays(tmp_path, harm, file, message):
    checkpoint.save(tmp_path / "m", tiny_model(seed=0), {})
    harm(tmp_path / "m.safetensors", tmp_path / "m.json")
    model = tiny_model(seed=1)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message) as error:
        checkpoint.load_into(model, tmp_path / "m")
    assert str(tmp_path / file) in str(error.value)
    assert equal(model, before)


@pytest.mark.parametrize(
    ("foreign", "word"),
    [
        (nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)), "size mismatch"),
        (nn.Sequential(nn.Linear(8, 12)), "Missing key"),
        (nn.Sequential(*tiny_model(), nn.Linear(3, 2)), "Unexpected key"),
    ],
)
def test_a_foreign_checkpoint_is_refused_by_name_and_the_model_stays(tmp_path, foreign, word):
    checkpoint.save(tmp_path / "m", foreign, {})
    model = tiny_model(seed=1)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=rf"m\.safetensors does not fit Sequential: .*{word}"):
        checkpoint.load_into(model, tmp_path / "m")
    assert equal(model, before)


def test_what_is_no_safetensors_file_is_refused_though_its_checksum_is_right(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"not tensors")
    checksum = checkpoint._checksum(tmp_path / "m.safetensors")
    (tmp_path / "m.json").write_text(json.dumps({"sha256": checksum}))
    with pytest.raises(ValueError, match="does not fit Sequential"):
        checkpoint.load_into(tiny_model(), tmp_path / "m")


def test_a_save_that_fails_leaves_the_old_pair_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path / "m", tiny_model(seed=0), {})
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "m", tiny_model(seed=1), {"model": object()})
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "m.json"}
    model = tiny_model(seed=2)
    checkpoint.load_into(model, tmp_path / "m")
    assert equal(model, tiny_model(seed=0))


def test_half_the_bits_take_half_the_space_and_come_back_as_floats(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 50, 3), nn.BatchNorm2d(50), nn.Flatten(), nn.Linear(50, 9))
    model(torch.randn(4, 3, 3, 3))  # the norm has seen something
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole, half = (checkpoint.save(tmp_path / str(h), model, {}, half=h) for h in (False, True))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    other = copy.deepcopy(model)
    checkpoint.load_into(other, half)
    for name, tensor in other.state_dict().items():
        assert tensor.dtype == before[name].dtype
        expected = before[name].half().to(tensor.dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(tensor, expected)
    assert other[1].num_batches_tracked == 1
