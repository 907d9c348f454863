"""Models on disk: back as they were, refused by name when damaged, read without this package."""

import copy
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model
from torch import nn

from prunekit import checkpoint
from prunekit._files import seal
from prunekit._random import LocalRandom
from prunekit.mask import Mask

FIXTURES = Path(__file__).parent / "fixtures"  # what earlier versions wrote


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
    checksum = hashlib.sha256(b"not tensors").hexdigest()
    (tmp_path / "m.json").write_text(json.dumps({"sha256": checksum}))
    with pytest.raises(ValueError, match=r"m\.safetensors cannot be read"):
        checkpoint.load_into(tiny_model(), tmp_path / "m")


def test_a_save_that_fails_leaves_the_old_pair_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path / "m", tiny_model(seed=0), {})
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "m", tiny_model(seed=1), {"model": object()})
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "m.json"}
    model = tiny_model(seed=2)
    checkpoint.load_into(model, tmp_path / "m")
    assert equal(model, tiny_model(seed=0))


class Killed(BaseException):
    pass


def killed_at(monkeypatch, n):
    """From the n-th change of a file on, nothing happens any more. Gives back the changes."""
    done = []

    def dying(place, name):
        real = getattr(place, name)

        def change(*args, **named):
            if len(done) >= n:
                raise Killed
            done.append(name)
            return real(*args, **named)

        monkeypatch.setattr(place, name, change)

    for place, name in [
        (os, "replace"), (checkpoint, "save_file"),
        *((Path, name) for name in ("write_text", "chmod", "unlink", "open")),
    ]:  # fmt: skip
        dying(place, name)
    return done


def test_a_save_over_an_older_one_that_is_killed_leaves_the_one_or_the_other(tmp_path):
    models = [tiny_model(seed=0), tiny_model(seed=1)]
    found = []
    for n in range(30):
        folder = tmp_path / str(n)
        checkpoint.save(folder / "m", models[0], {"number": 0})
        with pytest.MonkeyPatch.context() as patch:
            done = killed_at(patch, n)
            try:
                checkpoint.save(folder / "m", models[1], {"number": 1})
            except Killed:
                pass
            else:
                break
        assert len(done) == n
        loaded = tiny_model(seed=2)
        info = checkpoint.load_into(loaded, folder / "m")
        assert checkpoint.read_info(folder / "m") == info
        assert equal(loaded, models[info["number"]])
        assert equal_to_plain(folder / "m.safetensors", models[info["number"]])
        found.append(info["number"])
        checkpoint.save(folder / "m", models[0], {"number": 2})  # and all goes on
        assert checkpoint.load_into(loaded, folder / "m")["number"] == 2
        assert equal(loaded, models[0])
    assert found == sorted(found)
    assert {*found} == {0, 1}


def equal_to_plain(path, model):
    plain = safetensors.torch.load_file(path)
    return all(torch.equal(tensor, plain[name]) for name, tensor in model.state_dict().items())


def test_every_flipped_bit_is_refused_by_name_or_changes_nothing(tmp_path):
    checkpoint.save(tmp_path / "m", nn.Linear(2, 2), {"knobs": {"lr": 0.1}})
    expected = checkpoint.read_info(tmp_path / "m")
    weights = safetensors.torch.load_file(tmp_path / "m.safetensors")
    for name in ("m.json", "m.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for place in range(0, len(whole), 7):
            harmed = bytearray(whole)
            harmed[place] ^= 1 << place % 8
            (tmp_path / name).write_bytes(harmed)
            model = nn.Linear(2, 2)
            told = ""
            try:
                info = checkpoint.load_into(model, tmp_path / "m")
            except ValueError as error:
                told = str(error)
            if not told:
                assert info == expected
                assert all(torch.equal(weights[n], p) for n, p in model.state_dict().items())
            assert not told or str(tmp_path / name) in told
        (tmp_path / name).write_bytes(whole)


def test_another_type_of_number_is_refused_and_other_bits_of_floats_are_not(tmp_path):
    class Counting(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            self.register_buffer("n", torch.ones(2, dtype=dtype))

    checkpoint.save(tmp_path / "m", Counting(torch.float64), {})
    checkpoint.load_into(Counting(torch.float32), tmp_path / "m")
    with pytest.raises(ValueError, match=r"m\.safetensors does not fit .*n is of torch.float64"):
        checkpoint.load_into(Counting(torch.int64), tmp_path / "m")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '{"format": "2"}', '{"seal": 1}'])
def test_what_is_no_description_is_refused_by_name(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint: .*m\.json"):
        checkpoint.read_info(tmp_path / "m")


@pytest.mark.parametrize("form", ["format_1", "format_2"])
def test_a_newer_format_is_refused_by_name_and_every_other_is_read(tmp_path, form):
    checkpoint.save(tmp_path / "m", tiny_model(), {})
    newer = seal(json.loads((tmp_path / "m.json").read_text()), checkpoint.FORMAT + 1)
    (tmp_path / "m.json").write_text(json.dumps(newer))
    with pytest.raises(ValueError, match=r"m\.json is of a newer format, 3; .*Update prunekit"):
        checkpoint.read_info(tmp_path / "m")
    model = fixture_model()
    info = checkpoint.load_into(model, FIXTURES / form / "report")
    assert (info["method"], info["sparsity"]) == ("magnitude", 0.5)
    assert int((model[0].weight != 0).sum() + (model[3].weight != 0).sum()) == 21


def fixture_model():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def test_tied_weights_are_read_by_plain_torch_as_the_docstring_says(tmp_path):
    saved, other = Tied(0), Tied(1)
    file = checkpoint.save(tmp_path / "tied", saved, {})
    info = json.loads((tmp_path / "tied.json").read_text())
    assert info["tied"] == {"head.weight": "embed.weight"}
    state = safetensors.torch.load_file(file)
    state |= {name: state[same] for name, same in info["tied"].items()}
    other.load_state_dict(state)
    assert equal(saved, other)
    safetensors.torch.load_model(other, file)


def test_weights_in_one_storage_and_untied_ones_come_back(tmp_path):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            flat = torch.randn(12)
            self.a, self.b = nn.Parameter(flat[:4]), nn.Parameter(flat[4:].view(2, 4))

    for saved, other in [(Flat(), Flat()), (nn.LSTM(3, 4), nn.LSTM(3, 4)), (Tied(0), apart())]:
        checkpoint.save(tmp_path / "m", saved, {})
        checkpoint.load_into(other, tmp_path / "m")
        assert equal(saved, other)


def apart():
    model = Tied(1)
    model.head.weight = nn.Parameter(torch.zeros(7, 4))
    return model


class Told(nn.Linear):
    """A layer with extra state."""

    said = torch.tensor([3])

    def get_extra_state(self):
        return self.said

    def set_extra_state(self, said):
        self.said = said


def test_extra_state_is_saved_where_it_is_a_tensor_and_refused_before_else(tmp_path):
    saved, other = Told(2, 3), Told(2, 3)
    saved.said = torch.tensor([5, 6])
    checkpoint.save(tmp_path / "m", saved, {})
    checkpoint.load_into(other, tmp_path / "m")
    assert torch.equal(other.said, saved.said)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    saved.said = {"calls": 1}
    with pytest.raises(
        ValueError, match=r"extra state that is no tensor, '_extra_state' is a dict"
    ):
        checkpoint.save(tmp_path / "m", saved, {})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 500))
    with pytest.raises(OSError, match="needs about .* bytes, the disk has 500") as error:
        checkpoint.save(tmp_path / "m", tiny_model(), {})
    assert error.value.filename == str(tmp_path / "m.safetensors")
    assert not [*tmp_path.iterdir()]


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


@pytest.mark.parametrize(
    ("buffer", "kind"),
    [
        (torch.eye(2).to_sparse(), "torch.sparse_coo"),
        (torch.empty(2, device="meta"), "on the meta"),
    ],
)
def test_a_tensor_that_cannot_be_written_is_refused_by_name(tmp_path, buffer, kind):
    model = tiny_model()
    model.register_buffer("odd", buffer)
    with pytest.raises(ValueError, match=f"'odd' of Sequential is {kind}"):
        checkpoint.save(tmp_path / "model", model, {})
    assert not [*tmp_path.iterdir()]


# ---------------------------------------------------------------------------------- packed tensors


@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 10**6))
def test_packed_places_come_back(n, density, seed):
    keep = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < density
    assert torch.equal(checkpoint.unpack(checkpoint.pack(keep), (n,)), keep)


@pytest.mark.parametrize("keep", [torch.zeros(70_000), torch.ones(70_000), torch.eye(300)])
def test_long_gaps_and_patterns_come_back_in_little(keep):
    keep = keep.bool()
    packed = checkpoint.pack(keep)
    assert torch.equal(checkpoint.unpack(packed, keep.shape), keep)
    assert len(packed) < 700


@pytest.mark.parametrize("density", [0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 0.95])
def test_random_places_and_their_numbers_take_hardly_more_than_they_must(density, tmp_path):
    layers = [(300, 784), (100, 300), (50, 20, 5, 5), (64,)]
    generator = torch.Generator().manual_seed(7)
    keeps = {f"{i}": torch.rand(n, generator=generator) < density for i, n in enumerate(layers)}
    model = nn.ParameterDict({n: nn.Parameter(torch.randn(k.shape) * k) for n, k in keeps.items()})
    checkpoint.save(tmp_path / "m", model, {}, mask=Mask(keeps))
    least = 0.0  # bits
    for keep in keeps.values():
        n, k = keep.numel(), int(keep.sum())
        share = [p for p in (k / n, 1 - k / n) if p]
        least += n * -sum(p * math.log2(p) for p in share) + 32 * k
    stored = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert 8 * sum(a.nbytes for a in stored.values()) < 1.1 * least
    other = nn.ParameterDict(
        {name: nn.Parameter(torch.randn(k.shape)) for name, k in keeps.items()}
    )
    checkpoint.load_into(other, tmp_path / "m")
    assert equal(model, other)


@pytest.mark.parametrize("damage", [b"", b"\x09", b"\x00", b"\x01\x00", b"\x02\xff\xff", b"\x03"])
def test_damaged_places_are_refused(damage):
    with pytest.raises(ValueError, match="the packed places are damaged"):
        checkpoint.unpack(damage, (100,))


def test_a_mask_that_is_not_applied_or_of_another_model_is_refused(tmp_path):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"removes weights of 0\.weight that are not 0"):
        checkpoint.save(tmp_path / "m", model, {}, mask={"0.weight": torch.zeros(12, 8).bool()})
    with pytest.raises(ValueError, match=r"the mask has 0\.weight \(3,\), the model not"):
        checkpoint.save(tmp_path / "m", model, {}, mask={"0.weight": torch.zeros(3).bool()})
    assert not [*tmp_path.iterdir()]
