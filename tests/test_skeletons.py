"""Skeletons under lines, without a browser: what is sent."""

import copy

import pytest
import torch
from tiny import tiny_images, tiny_residual

from prunekit import experiments, prune, stripes
from prunekit.methods.cdp_dtc import cdp_dtc
from prunekit.widgets import Skeletons, views

LAYER = "features.3.weight"


def test_the_view_trains_without_a_cut_and_shows_each_epoch():
    model, data = tiny_residual(), tiny_images()
    shown = views.of(cdp_dtc, model, data, layer="conv2.weight", epochs=2).shown
    assert (shown["layer"], shown["shape"]) == ("conv2", [3, 3])
    assert len(shown["names"]) == len(shown["runs"]) == len({*shown["names"]}) == 3
    training = dict(epochs=2, lr=0.1, batch=64, schedule="steps", weight_decay=1e-4)
    pressure = stripes.pressure(2, **training)
    report = prune(cdp_dtc, model, data, bar=False, delta=0.0, keep="last",
                   skeletons_of=("conv2.weight",), **training | pressure)  # fmt: skip
    told = [step.info["skeletons"]["conv2.weight"] for step in report.history[:-1]]
    first, *others = torch.tensor(shown["runs"][0])
    assert torch.equal(first, torch.ones(4, 9))
    for skeletons, step in zip(others, told, strict=True):
        assert torch.equal(skeletons, torch.tensor(step).abs())


def test_a_recorded_training_is_shown_as_it_was():
    cells = experiments.recorded("cdp-dtc-skeletons")
    shown = Skeletons.recorded(cells, LAYER).shown
    assert shown["names"][0] == "λ = 0"
    assert (len(shown["filters"]), len(shown["runs"][0][0])) == (8, 16)
    for cell, steps in zip(cells, shown["runs"], strict=True):
        last = experiments.rows(cell)[-2]["info"]["skeletons"][LAYER]
        assert torch.equal(torch.tensor(steps[-1]), torch.tensor(last).abs())
        assert len(steps) == cell["knobs"]["epochs"] + 1


def test_the_recorded_trainings_show_what_the_notebook_says_of_them():
    none, once, *_ = experiments.recorded("cdp-dtc-skeletons")
    assert none["knobs"]["strength"] == 0
    assert none["knobs"]["skeleton_decay"] == pytest.approx(89, abs=0.5)
    sizes = Skeletons.recorded([once, none], LAYER).shown["runs"]
    last, alone = (torch.tensor(steps[-1]) for steps in sizes)
    own = last > stripes.thresholds(last, 0.05, "dtc")[:, None]
    assert (last.numel(), int(own.sum()), int(own.any(1).sum())) == (144, 23, 8)
    one_line = last > last.flatten().sort(descending=True).values[23]  # as many
    assert (int(one_line.sum()), int(one_line.any(1).sum())) == (23, 12)
    lines = stripes.thresholds(alone, 0.05, "dtc")
    assert float(lines.max() / lines.min()) < 1.05  # a line for each is one line for all
    sixth, eighth = (torch.tensor(sizes[0][epoch]) for epoch in (6, 8))
    spread = [stripes.thresholds(s, 0.05, "dtc") for s in (sixth, eighth)]
    assert float(spread[0].max() / spread[0].min()) < 1.2 < float(spread[1].max() / spread[1].min())


def test_filters_are_drawn_from_the_weakest_to_the_strongest():
    sizes = torch.rand(20, 3, 3)
    drawn = torch.tensor(Skeletons("conv", {"a": [sizes]}).shown["filters"])
    norms = sizes.flatten(1).sum(1)
    assert torch.equal(norms[drawn], norms[drawn].sort().values)
    assert {*drawn[[0, -1]].tolist()} == {int(norms.argmin()), int(norms.argmax())}


@pytest.mark.parametrize("shapes", [[(2, 3, 3), (3, 3, 3)], [(2, 9)], [(0, 3, 3)], []])
def test_skeletons_of_no_one_layer_are_refused(shapes):
    with pytest.raises(ValueError, match="Skeletons: runs must hold skeletons"):
        Skeletons("conv", {"a": [torch.rand(shape) for shape in shapes]})


def test_cells_that_tell_no_skeletons_are_refused():
    lengths = experiments.recorded("cdp-dtc-lengths")
    cell = copy.deepcopy(experiments.where(lengths, arm="6 epochs, pressure 0.3")[0])
    with pytest.raises(ValueError, match="'6 epochs, pressure 0.3', seed 0, tells no skeletons"):
        Skeletons.recorded([cell], LAYER)
