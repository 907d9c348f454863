"""Filters as pictures, without a browser: what is sent, and the picture that needs no script."""

import base64
import json
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from prunekit import Mask, pretrained, score
from prunekit.looks import NEGATIVE, POSITIVE
from prunekit.widgets import FilterView


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, (2, 3)), nn.Flatten(), nn.Linear(3, 2))


def test_the_first_filters_of_lenet_are_shown_as_they_are():
    net = pretrained("lenet_5")
    shown = FilterView(net).filters
    w = net.conv1.weight.detach()
    assert (shown["layer"], shown["inputs"], shown["size"]) == ("conv1.weight", 1, [5, 5])
    pictures = torch.tensor(shown["pictures"]).reshape(20, 5, 5) / 100 * w.abs().max()
    assert torch.allclose(pictures, w[:, 0], atol=0.006 * float(w.abs().max()))
    assert shown["norms"] == pytest.approx(w.abs().sum((1, 2, 3)).tolist(), rel=1e-3)
    assert shown["left"] == [1] * 20
    assert shown["scores"] is None
    assert len(json.dumps(shown)) < 4_000


def test_a_filter_of_several_inputs_is_their_mean_over_what_is_kept():
    net = convolutions()
    keep = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    keep[0] = False  # a removed filter is shown as it was
    keep[1, 0] = False  # an input of a filter
    keep[2, :, 1, 1] = False  # a place
    shown = FilterView(net, mask=Mask({"0.weight": keep})).filters
    assert shown["left"] == [0, 0.5, round(16 / 18, 4), 1]
    w = net[0].weight.detach()
    means = torch.stack([w[0].mean(0), w[1, 1] / 2, w[2].mean(0), w[3].mean(0)])
    seen = torch.tensor([[value is not None for value in one] for one in shown["pictures"]])
    assert (~seen).nonzero().tolist() == [[2, 4]]
    values = torch.tensor([[value or 0 for value in one] for one in shown["pictures"]])
    expected = (100 * means / means.where(seen.reshape(4, 3, 3), 0).abs().max()).reshape(4, 9)
    assert torch.allclose(values.float(), expected.where(seen, 0), atol=0.51)


def test_scores_are_one_a_filter_or_summed_over_its_weights():
    net = convolutions()
    scores = score.magnitude(net, Mask.ones(net))
    shown = FilterView(net, "1.weight", scores).filters
    assert shown["size"] == [2, 3]
    assert shown["scores"] == pytest.approx(scores["1.weight"].sum((1, 2, 3)).tolist(), rel=1e-3)
    own = torch.tensor([1.0, 3.0, 2.0])
    assert FilterView(net, "1.weight", own).filters["scores"] == [1, 3, 2]


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
    assert FilterView(net).filters["pictures"] == [[0] * 9] * 2


def picture(view):
    data = view.fallback().split("base64,")[1].split('"')[0]
    return ElementTree.fromstring(base64.b64decode(data))


def test_the_still_picture_has_a_square_a_weight_and_crosses_out_what_is_removed():
    net = convolutions()
    keep = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    keep[1] = False
    view = FilterView(net, mask=Mask({"0.weight": keep}))
    *squares, frames, crosses = picture(view)
    drawn = dict.fromkeys((POSITIVE, NEGATIVE), 0)
    for path in squares:
        drawn[path.attrib["fill"]] += path.attrib["d"].count("M")
    flat = [value for one in view.filters["pictures"] for value in one]
    assert drawn == {POSITIVE: sum(v >= 0 for v in flat), NEGATIVE: sum(v < 0 for v in flat)}
    assert frames.attrib["d"].count("M") == 4
    assert crosses.attrib["d"].count("M") == 1
    assert 'alt="4 filters of 0.weight, 3 kept"' in view.fallback()
    assert max(float(path.attrib["fill-opacity"]) for path in squares) == 1


def test_its_data_are_left_in_the_notebook_where_they_may_be():
    view = FilterView(convolutions(), stored=True)
    assert view.lasting() == {"filters": view.filters}
    passing = FilterView(convolutions())
    assert passing.lasting() is None
    assert passing.fallback() == view.fallback()
    assert repr(view) == "FilterView(0.weight, 4 filters)"
