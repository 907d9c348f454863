"""Looking into masks without a browser: what is sent, and what a brush does."""

import asyncio
import copy
import time

import numpy as np
import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit import Mask, evaluate
from prunekit._modules import state_key
from prunekit.widgets import MaskView
from prunekit.widgets.running import Latest

NAMES = ["0.weight", "2.weight"]


def bits(view):
    assert view.kept["layer"] == view.shown["layer"]
    n = view.shown["rows"] * view.shown["columns"]
    return np.unpackbits(np.frombuffer(view.kept["bits"], np.uint8), count=n).astype(bool)


def numbers(view):
    return np.frombuffer(view.shown["weights"], np.float32)


def brush(view, weights, keep=False, layer="0.weight"):
    view._handle_custom_msg({"layer": layer, "weights": weights, "keep": keep}, [])


def test_it_sends_the_weights_and_the_mask_of_the_chosen_layer():
    model = tiny_model()
    mask = Mask({n: p.detach().abs() > 0.1 for n, p in model.named_parameters() if p.ndim > 1})
    view = MaskView(model, mask)
    assert view.layers == NAMES
    for name in (*NAMES[::-1], NAMES[0]):
        view.layer = name
        w = model.get_parameter(name).detach().numpy()
        assert (view.shown["rows"], view.shown["columns"]) == w.shape
        assert view.shown["layer"] == name
        assert np.array_equal(numbers(view), w.reshape(-1))
        assert np.array_equal(bits(view), mask[name].numpy().reshape(-1))
    assert repr(view) == "MaskView(Sequential, 2 layers)"


def test_kernels_are_rows_of_their_outputs():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    view = MaskView(model)
    assert (view.shown["rows"], view.shown["columns"]) == (4, 18)
    assert view.shown["across"] == "place in the kernels"
    assert np.array_equal(numbers(view), model[0].weight.detach().numpy().reshape(-1))


def test_a_brush_removes_and_puts_back_and_the_model_stays():
    model = tiny_model()
    before = state_key(model)
    view, data = MaskView(model, data=(data := tiny_data())), data
    brush(view, [0, 5, 95])
    assert (~view.mask["0.weight"].flatten()).nonzero().flatten().tolist() == [0, 5, 95]
    assert np.array_equal(bits(view), view.mask["0.weight"].numpy().reshape(-1))
    accuracy = evaluate(model, data, mask=view.mask)
    assert f"validation accuracy {accuracy:.3f} ±" in view.verdict
    assert f"sparsity {view.mask.sparsity:.3f}" in view.verdict
    brush(view, [5], keep=True)
    assert view.mask.total - view.mask.kept == 2
    assert state_key(model) == before


def test_a_stroke_on_a_layer_that_is_no_longer_shown_changes_that_layer_alone():
    view = MaskView(tiny_model())
    view.layer = "2.weight"
    brush(view, [95], layer="0.weight")
    assert not view.mask["0.weight"].flatten()[95]
    assert bool(view.mask["2.weight"].all())
    assert bits(view).all()


def undo(view):
    view._handle_custom_msg({"undo": True}, [])


def test_undo_takes_back_stroke_after_stroke_exactly():
    view, draw, seen = MaskView(tiny_model()), torch.Generator().manual_seed(0), []
    for number in range(20):
        view.layer = layer = NAMES[number % 3 % 2]
        over = torch.randint(view.mask[layer].numel(), (30,), generator=draw).tolist()
        before = {name: keep.clone() for name, keep in view.mask.items()}
        brush(view, over, keep=number % 4 == 3, layer=layer)
        if any((before[name] != view.mask[name]).any() for name in NAMES):
            seen.append((layer, before))
    assert len(seen) > 15
    view.layer = NAMES[0]  # what was done on another layer is taken back too
    while seen:
        layer, before = seen.pop()
        assert view.brushed == layer
        undo(view)
        assert all((view.mask[name] == before[name]).all() for name in NAMES)
        assert np.array_equal(bits(view), before[NAMES[0]].numpy().reshape(-1))
    assert view.brushed == ""
    undo(view)  # nothing is left to take back
    assert view.mask.sparsity == 0


def test_a_stroke_that_changes_nothing_is_not_taken_back():
    view = MaskView(tiny_model())
    brush(view, [1, 2])
    brush(view, [1, 2])
    brush(view, [3], keep=True)
    undo(view)
    assert view.mask.sparsity == 0
    assert view.brushed == ""


def test_a_verdict_is_told_again_even_if_its_words_are_the_same():
    view, told = MaskView(tiny_model(), data=tiny_data()), []
    view.observe(lambda change: told.append(change["new"]), "verdict")
    brush(view, [])
    assert told[0] == "…"
    assert told[-1] == view.verdict != "…"


def test_without_data_only_the_sparsity_is_told():
    view = MaskView(tiny_model())
    brush(view, [*range(96)])
    assert view.verdict == f"sparsity {96 / 132:.3f}"


@pytest.mark.parametrize("sent", [
    dict(layer="nothing", weights=[0]), dict(layer="0.weight", weights=[96]),
    dict(layer="0.weight", weights=[-1]), dict(weights=[0]),
])  # fmt: skip
def test_what_is_not_there_is_said_and_nothing_changes(sent):
    view = MaskView(tiny_model())
    view._handle_custom_msg(sent, [])
    assert "there are no such weights" in view.verdict
    assert view.mask.sparsity == 0
    view.layer = "3.weight"
    assert view.verdict == "there is no layer 3.weight"


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="has no parameter"):
        MaskView(tiny_model(), Mask({"x": torch.ones(2, 2).bool()}))
    with pytest.raises(ValueError, match="no layer with rows and columns"):
        MaskView(tiny_model(), Mask({"0.bias": torch.ones(12).bool()}))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_of_width_0_have_no_picture():
    model = nn.Sequential(nn.Linear(8, 0), nn.Linear(0, 3), nn.Linear(3, 2))
    view = MaskView(model)
    assert view.layers == ["2.weight"]
    brush(view, [0], layer="0.weight")
    assert "there are no such weights" in view.verdict
    with pytest.raises(ValueError, match="width 0 is empty"):
        MaskView(model[:2])


def test_a_metric_that_fails_is_said_in_the_view():
    data = copy.copy(tiny_data())

    def broken(outputs, targets):
        raise RuntimeError("no figure today")

    data.metric = broken
    assert "cannot be computed: no figure today" in MaskView(tiny_model(), data=data).verdict


def test_of_many_requests_the_newest_is_answered_and_none_waits_in_a_queue():
    async def drag():
        seen, began = [], []

        def work(n):
            began.append(n)
            time.sleep(0.05)
            return n

        latest = Latest(work, seen.append)
        for n in range(40):
            latest(n)
            await asyncio.sleep(0.005)
        while latest.busy:
            await asyncio.sleep(0.01)
        return seen, began

    seen, began = asyncio.run(drag())
    assert seen == began
    assert seen[-1] == 39
    assert seen == sorted(seen)
    assert len(seen) < 15


def test_an_error_does_not_stop_later_requests():
    seen = []
    latest = Latest(lambda n: 1 // n, seen.append)
    latest(0)
    latest(1)
    assert isinstance(seen[0], ZeroDivisionError)
    assert seen[1] == 1
