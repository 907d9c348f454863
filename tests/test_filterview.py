"""Filters as pictures, without a browser: what is sent, and the picture that needs no script."""

import base64
from xml.etree import ElementTree

import pytest
import scipy.stats
import torch
from tiny import tiny_images, tiny_residual
from torch import nn

from prunekit import Mask, pretrained, score, surgery
from prunekit.looks import NEGATIVE, POSITIVE
from prunekit.widgets import FilterView
from prunekit.widgets.filters import pictures


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, (2, 3)), nn.Flatten(), nn.Linear(3, 2))


def test_the_first_filters_of_lenet_are_shown_as_they_are():
    net = pretrained("lenet_5")
    w = net.conv1.weight.detach()
    means, there = pictures(w, torch.ones_like(w, dtype=torch.bool))
    assert torch.allclose(means, w[:, 0] / w.abs().max())
    assert there.all()
    shown = FilterView(net).filters
    norms = w.abs().sum((1, 2, 3)).tolist()
    told = [tile["says"] for tile in shown["tiles"]]
    assert told == [f"filter {i}: kept; L1 norm {norm:.4g}" for i, norm in enumerate(norms)]
    assert (shown["says"], shown["note"]) == ("conv1.weight: 20 of 20 filters kept", "")
    assert len(shown["picture"]) < 16_000


def test_a_filter_of_several_inputs_is_their_mean_over_what_is_kept():
    net = convolutions()
    keep = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    keep[0] = False  # a removed filter is shown as it was
    keep[1, 0] = False  # an input of a filter
    keep[2, :, 1, 1] = False  # a place
    w = net[0].weight.detach()
    means, there = pictures(w, keep)
    assert (~there).nonzero().tolist() == [[2, 1, 1]]
    expected = torch.stack([w[0].mean(0), w[1, 1] / 2, w[2].mean(0), w[3].mean(0)]) * there
    assert torch.allclose(means, expected / expected.abs().max())
    shown = FilterView(net, mask=Mask({"0.weight": keep})).filters
    told = [tile["says"].partition("; L1")[0] for tile in shown["tiles"]]
    left = ("removed", "kept; 9 of 18 weights left", "kept; 16 of 18 weights left", "kept")
    assert told == [f"filter {i}: {words}" for i, words in enumerate(left)]
    assert shown["note"] == "each filter is the mean over its 2 inputs"


def test_scores_are_one_a_filter_or_summed_over_its_weights():
    net = convolutions()
    scores = score.magnitude(net, Mask.ones(net))
    told = [tile["says"] for tile in FilterView(net, "1.weight", scores).filters["tiles"]]
    sums = scores["1.weight"].sum((1, 2, 3))
    ranks = scipy.stats.rankdata(-sums, method="min")
    for i, says in enumerate(told):
        assert f"score {sums[i]:.4g}, rank {ranks[i]:.0f} of 3;" in says
    own = FilterView(net, "1.weight", torch.tensor([1.0, 3.0, 1.0])).filters["tiles"]
    assert ["score 1, rank 2 of 3" in tile["says"] for tile in own] == [True, False, True]


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (dict(layer="3.weight"), "has no filters"),
        (dict(scores=torch.ones(3)), "4 filters need as many scores"),
        (dict(scores={"1.weight": torch.ones(3)}), "no scores of 0.weight"),
        (dict(mask=Mask({"x": torch.ones(2, 2).bool()})), "has no parameter"),
    ],
)
def test_what_does_not_fit_is_refused(given, wrong):
    with pytest.raises(ValueError, match=wrong):
        FilterView(convolutions(), **given)
    with pytest.raises(ValueError, match="has no filters"):
        FilterView(nn.Linear(3, 2))


def test_weights_of_zero_are_drawn():
    net = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(net.weight)
    assert FilterView(net).filters["picture"].count(b"h1v1h-1z") == 18


def picture(view):
    data = view.fallback().split("base64,")[1].split('"')[0]
    return ElementTree.fromstring(base64.b64decode(data))


def test_the_picture_has_a_square_a_weight_and_crosses_out_what_is_removed():
    net = convolutions()
    keep = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    keep[1] = False
    view = FilterView(net, mask=Mask({"0.weight": keep}))
    root = picture(view)
    *squares, kept, removed = root
    count = dict.fromkeys((POSITIVE, NEGATIVE), 0)
    for path in squares:
        count[path.attrib["fill"]] += path.attrib["d"].count("M")
    means, _ = pictures(net[0].weight.detach(), keep)
    negative = int((means < 0).sum())
    assert count == {POSITIVE: 36 - negative, NEGATIVE: negative}
    assert (kept.attrib["d"].count("M"), removed.attrib["d"].count("M")) == (3, 1)
    assert 'alt="0.weight: 3 of 4 filters kept"' in view.fallback()
    assert max(float(path.attrib["fill-opacity"]) for path in squares) == 1
    left, top, wide, high = view.filters["tiles"][1]["place"]
    size = float(root.attrib["viewBox"].split()[2]), float(root.attrib["viewBox"].split()[3])
    corner = f"M{left * size[0] / 100:.0f} {top * size[1] / 100:.0f}h3v3"
    assert removed.attrib["d"].startswith(corner)
    assert (round(wide * size[0]), round(high * size[1])) == (300, 300)


def test_its_data_are_left_in_the_notebook_where_they_may_be():
    view = FilterView(convolutions(), stored=True)
    assert view.lasting() == {"filters": view.filters}
    passing = FilterView(convolutions())
    assert passing.lasting() is None
    assert passing.fallback() == view.fallback()
    assert repr(view) == "FilterView(0.weight: 4 of 4 filters kept)"


def test_what_goes_with_a_filter_is_told():
    model, x = tiny_residual(), tiny_images().example
    groups = surgery.groups(model, x)
    keep = torch.ones(model.conv2.weight.shape, dtype=torch.bool)
    keep[1] = False
    mask = surgery.couple(model, Mask({"conv2.weight": keep}), groups)
    words = [
        t["says"]
        for t in FilterView(model, "conv2.weight", mask=mask, groups=groups).filters["tiles"]
    ]
    assert "filter 1: removed" in words[1]
    assert words[1].endswith(
        "; takes along number 1 of bn2.weight, number 1 of bn2.bias and input 1 of conv3.weight"
    )
    assert words[0].endswith(
        "; would take along number 0 of bn2.weight, number 0 of bn2.bias and input 0 of conv3.weight"
    )
    # It is what coupling removes.
    lost = {name: int((~kept).sum()) for name, kept in mask.items() if not kept.all()}
    assert {*lost} == {"conv2.weight", *groups_told(groups.along("conv2.weight", 1))}
    both = groups.along("conv1.weight", 0)
    assert "filter 0 of conv3.weight" in both
    assert groups.along("fc.weight", 0) == []  # a class
    for name, i in (("fc.weight", 99), ("bn1.weight", 0), ("none", 0)):
        with pytest.raises(ValueError, match="has no filter"):
            groups.along(name, i)


def groups_told(words):
    return {text.rpartition(" ")[2] for text in words}
