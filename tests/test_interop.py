"""From and to other tools: torch's pruning is an oracle of masks, ONNX Runtime one of networks."""

import builtins
import copy

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn
from torch.nn.utils import prune as torch_prune

from prunekit import Data, magnitude, models, prune
from prunekit._modules import call
from prunekit.baselines.filters import filters
from prunekit.interop import from_torch_prune, to_onnx, to_torch_prune
from prunekit.mask import Mask


def pruned():
    return prune(magnitude, tiny_residual(), tiny_images(), sparsity=0.6, bar=False)


def test_torch_prunes_the_same_weights_and_gives_the_mask_back():
    report, data = pruned(), tiny_images()
    model, x = tiny_residual().eval(), data.example
    assert to_torch_prune(model, report.mask) is model
    assert torch_prune.is_pruned(model)
    with torch.no_grad():
        assert torch.equal(model(x), report.model(x))
    names = [name for name, _ in report.model.named_parameters()]
    assert from_torch_prune(model) == report.mask
    assert not torch_prune.is_pruned(model)
    assert {name for name, _ in model.named_parameters()} == {*names}
    with torch.no_grad():
        assert torch.equal(model(x), report.model(x))


def test_masks_of_torch_are_taken_over_where_it_pruned_twice():
    model = tiny_model()
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    torch_prune.ln_structured(model[0], "weight", 2, n=2, dim=0)
    torch_prune.random_unstructured(model[2], "bias", 1)
    want = {"0.weight": model[0].weight != 0, "2.bias": model[2].bias_mask.bool()}
    mask = from_torch_prune(model)
    assert {*mask} == {*want}
    assert all(torch.equal(mask[name], keep) for name, keep in want.items())
    again = prune(magnitude, model, tiny_data(), sparsity=0.8, bar=False)
    assert not (again.mask["0.weight"] & ~mask["0.weight"]).any()  # nothing returns


def test_what_torch_cannot_mask_is_refused_before_anything_changes():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    tied = Tied()
    keep = torch.rand(4, 4) < 0.5
    with pytest.raises(ValueError, match=r"a.weight is also b.weight"):
        to_torch_prune(tied, Mask({"a.weight": keep}))
    model = tiny_model()
    with pytest.raises(ValueError, match="has no masks of torch"):
        from_torch_prune(model)
    with pytest.raises(ValueError, match="must have shape"):
        to_torch_prune(model, Mask({"0.weight": keep}))
    torch_prune.identity(model[2], "weight")
    with pytest.raises(ValueError, match="has masks of torch already"):
        to_torch_prune(model, Mask({"0.weight": torch.ones(12, 8, dtype=torch.bool)}))
    assert not torch_prune.is_pruned(model[0])


# ------------------------------------------------------------------------------------------- ONNX


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x, y):
        return {"sum": self.a(x) + self.b(y), "x": self.a(x)}


X, Y = torch.rand(3, 4), torch.rand(3, 5)
NETS = {
    "residual": (tiny_residual, lambda: tiny_images().splits["validation"][0][:4].float()),
    "two inputs": (Sum, lambda: (X, Y)),
    "by name": (Sum, lambda: {"y": Y, "x": X}),
}


def test_an_input_that_is_called_as_an_operator_has_another_name(tmp_path):
    class Joins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(9, 2)

        def forward(self, x, cat):
            return self.a(torch.cat([x, cat], 1))

    path = to_onnx(Joins(), {"x": X, "cat": Y}, tmp_path / "net.onnx")
    assert [i.name for i in ort.InferenceSession(str(path)).get_inputs()] == ["x", "cat_input"]


@pytest.mark.parametrize("name", NETS)
def test_onnx_runtime_answers_alike_for_any_number_of_examples(name, tmp_path):
    made, example = NETS[name]
    model, x = made().train(), example()
    before = copy.deepcopy(model.state_dict())
    path = to_onnx(model, x, tmp_path / "net.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    assert model.training
    assert all(torch.equal(a, before[n]) for n, a in model.state_dict().items())
    session = ort.InferenceSession(str(path))
    parts = x if isinstance(x, (tuple, dict)) else (x,)
    named = parts if isinstance(parts, dict) else {f"x{i}": a for i, a in enumerate(parts)}
    more = {n: torch.cat([a, a.flip(0), a]) for n, a in named.items()}
    got = session.run(None, {n: a.numpy() for n, a in more.items()})
    with torch.no_grad():
        want = call(model.eval(), more if isinstance(x, dict) else (*more.values(),))
    want = [*want.values()] if isinstance(want, dict) else [want]
    for a, b in zip(want, got, strict=True):
        assert np.allclose(a.numpy(), b, rtol=1e-4, atol=1e-5)


def test_a_shrunk_network_is_smaller_in_onnx_and_a_masked_one_is_not(tmp_path):
    model, data = models.build("vgg_small"), tiny_digits()
    report = prune(filters, model, data, share=0.5, bar=False)
    x = data.splits["train"][0][:2]
    sizes = {
        name: to_onnx(net, x, tmp_path / name).stat().st_size
        for name, net in {"dense": model, "masked": report.model, "cut": report.shrink()}.items()
    }
    assert sizes["masked"] == sizes["dense"]
    assert sizes["cut"] < 0.5 * sizes["dense"]


def tiny_digits():
    return Data.of((torch.rand(30, 1, 28, 28), torch.arange(30) % 10), 0.4)


def test_what_cannot_be_exported_leaves_no_file(tmp_path, monkeypatch):
    class Counts(nn.Linear):
        def forward(self, x):
            return super().forward(x[: int(x.sum() > 0) + 1])

    for model, x, why in (
        (tiny_model(), torch.rand(1, 8), "two examples or more"),
        (Counts(8, 3), torch.rand(3, 8), "Counts cannot be exported"),
    ):
        with pytest.raises(ValueError, match=why):
            to_onnx(model, x, tmp_path / "net.onnx")
    monkeypatch.setattr("prunekit.interop.CLOSE", -1.0)
    with pytest.raises(ValueError, match="Sequential answers otherwise in ONNX Runtime"):
        to_onnx(tiny_model(), torch.rand(3, 8), tmp_path / "net.onnx")
    assert [*tmp_path.iterdir()] == []


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError("none", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'prunekit\[onnx\]'"):
        to_onnx(tiny_model(), torch.rand(3, 8), tmp_path / "net.onnx")
