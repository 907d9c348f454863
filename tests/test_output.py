"""What a widget leaves in a notebook's file: the same bytes each time, and enough to be shown."""

import base64
import json

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual

from prunekit import Mask, datasets, magnitude, models, prune
from prunekit.methods.cdp_dtc import cdp_dtc
from prunekit.methods.filter_clustering import filter_clustering
from prunekit.methods.optimal_threshold import optimal_threshold
from prunekit.methods.roulette import roulette
from prunekit.widgets import (
    GeneMap,
    Guess,
    Instant,
    LineageView,
    MaskView,
    Panel,
    Playground,
    Replay,
    Sketch,
    Wheel,
    views,
)
from prunekit.widgets.maskview import small
from prunekit.widgets.output import HOW, MIME, drawn


def gene_map(**more):
    return GeneMap([1, 2], [1, 2], [[5, 6], [7, 8]], [[True, False]] * 2, x="a", y="b", **more)


def run():
    return prune(roulette, tiny_model(), tiny_data(), branches=3, sparsity=0.4, bar=False)


def sketch():
    return Sketch("How?", lambda report: [], ("x", 0, 1), ("y", 0, 1))


STORED = {
    "Replay": lambda **more: Replay(run(), **more),
    "LineageView": lambda **more: LineageView(run(), **more),
    "GeneMap": gene_map,
    "MaskView": lambda **more: MaskView(tiny_model(), **more),
    "Thresholds": lambda **more: views.of(
        optimal_threshold, tiny_model(), tiny_data(), stride=0.3, **more
    ),
    "Piles": lambda **more: views.of(filter_clustering, tiny_model(), tiny_data(), **more),
    "Playground": lambda **more: Playground(
        models.build("lenet_300_100"), datasets.mnist_small().fewer(validation=100), **more
    ),
    "Wheel": lambda **more: Wheel(torch.tensor([0.5, 0.1]), {"flat": torch.ones(2)}, **more),
    "Skeletons": lambda **more: views.of(cdp_dtc, tiny_residual(), tiny_images(), epochs=1, **more),
}
OTHERS = {
    "Guess": lambda: Guess("How many?", lambda report: 1.0),
    "Instant": lambda: Instant(lambda x: f"<svg aria-label='{x:.0f}'></svg>", "<b>", x=(0, 1, 0)),
    "views": lambda: views.of(magnitude, tiny_model(), tiny_data()),
    "Panel": lambda: Panel(magnitude, tiny_model(), tiny_data(), guess=sketch()),
    "Sketch": sketch,
}


def left(widget):
    bundle = widget._repr_mimebundle_()
    return bundle[0] if isinstance(bundle, tuple) else bundle  # anywidget adds what is about it


@pytest.mark.parametrize("name", STORED)
def test_its_data_are_left_only_where_one_says_so(name):
    shown = left(STORED[name](stored=True))[MIME]
    assert (shown["format"], shown["view"]) == (1, name)
    assert shown["data"]
    assert json.loads(json.dumps(shown)) == shown
    assert left(STORED[name]())[MIME] == {"format": 1, "view": "", "data": {}}


@pytest.mark.parametrize("view", [Replay, LineageView])
def test_the_data_of_a_recorded_run_are_left_unless_one_says_no(view):
    assert left(view("roulette"))[MIME]["view"] == view.__name__
    assert left(view("roulette", stored=False))[MIME]["view"] == ""


@pytest.mark.parametrize("name", STORED | OTHERS)
def test_what_is_left_is_the_same_each_time_and_says_how_to_go_on(name):
    make = STORED.get(name) or OTHERS[name]
    more = {"stored": True} if name in STORED else {}
    one, other = left(make(**more)), left(make(**more))
    for kind in ("text/html", "text/plain", MIME):
        assert one[kind] == other[kind]
    assert HOW in one["text/html"]
    assert name in {"Guess"} or "data:image/" in one["text/html"]
    assert not pyplot.get_fignums()  # a figure that is open is shown by the notebook once more


def test_the_picture_of_a_view_has_no_svg_which_an_untrusted_page_would_leave_out():
    told = drawn('<p>a</p><svg aria-label="&lt;b&gt;"><path stroke="currentColor"/></svg><p>b</p>')
    before, image, after = told.partition("<img")[0], told, told.rpartition(">")[0]
    assert before == "<p>a</p>"
    assert 'alt="&lt;b&gt;"' in image
    assert "<svg" not in told
    assert after.endswith("<p>b</p")
    svg = base64.b64decode(told.split("base64,")[1].split('"')[0]).decode()
    assert "currentColor" not in svg
    assert svg.startswith('<svg xmlns="')


def test_a_weight_in_a_byte_is_near_and_of_the_same_sign():
    weights = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)).numpy() * 0.03
    told = small(weights)
    q = np.frombuffer(told["weights"], "i1").astype(float)
    back = (q * np.abs(q) * told["scale"]).reshape(weights.shape)
    largest = np.abs(weights).max()
    bound = np.sqrt(np.abs(weights) * largest) / 127 + largest / (2 * 127) ** 2
    assert (np.abs(back - weights) <= bound + 1e-9).all()
    assert (back * weights >= 0).all()
    assert np.abs(back).max() == pytest.approx(largest)


def test_a_mask_is_left_as_it_is_with_the_parts_that_are_not_shown():
    model = tiny_model()
    mask = Mask({n: torch.rand(p.shape) > 0.5 for n, p in model.named_parameters()})
    data = left(MaskView(model, mask, stored=True))[MIME]["data"]
    kept = data["rest"][0]
    for name, layer in data["stored"].items():
        bits = np.frombuffer(base64.b64decode(layer["bits"]["base64"]), np.uint8)
        kept += int(np.unpackbits(bits)[: mask[name].numel()].sum())
    assert kept == mask.kept
