"""Pictures of weights in both themes: the strongest stand out, filters are found and told apart."""

from io import BytesIO

import numpy as np
import pytest
import torch
from conftest import both_themes, drawn_alone
from matplotlib.pyplot import imread
from torch import nn

from prunekit import Mask, pretrained
from prunekit.widgets import FilterView, MaskView

pytestmark = both_themes


@pytest.fixture
def show(tab, tmp_path):
    def opened(view, **values):
        return drawn_alone(tab, tmp_path, view, values)

    return opened


def luminance(element):
    """WCAG's relative luminance of each pixel of the page where an element is, (h, w)."""
    colour = imread(BytesIO(element.screenshot()))[..., :3]
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def page_of(tab):
    dark = tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    return 0.0056 if dark else 1.0


def test_the_stronger_a_weight_the_more_it_stands_out_from_the_page(show):
    layer = nn.Linear(5, 1)
    layer.weight.data = torch.tensor([[1.0, 0.5, 0.0, -0.5, -1.0]])
    layer = nn.Sequential(layer)
    keep = torch.tensor([[True] * 5])
    view = MaskView(layer, Mask({"0.weight": keep}))
    tab = show(
        view, layers=view.layers, layer=view.layer, shown=view.shown, kept=view.kept, verdict="",
        brushed="",
    )  # fmt: skip
    seen = luminance(tab.locator("canvas"))
    middle = seen[len(seen) // 2]
    places = [int((i + 0.5) * len(middle) / 5) for i in range(5)]
    far = [contrast(middle[place], page_of(tab)) for place in places]
    # A weight of half the largest size has the full colour already.
    assert min(far[0], far[1], far[3], far[4]) >= 3
    assert 1 < far[2] < 1.5


def filters():
    net = pretrained("lenet_5")
    keep = torch.ones(20, 1, 5, 5, dtype=torch.bool)
    keep[[1, 7]] = False
    scores = torch.arange(20.0)
    return FilterView(net, scores=scores, mask=Mask({"conv1.weight": keep}))


def test_removed_filters_are_crossed_out_and_stand_back_in_both_themes(show):
    view = filters()
    tab = show(view, filters=view.filters)
    tiles = tab.locator(".pk-filter").all()
    assert len(tiles) == 20
    page, ink = page_of(tab), 0.178  # of the grey that is read on both pages
    for i, tile in enumerate(tiles):
        seen = luminance(tile)[2:-2, 2:-2]  # without its border
        on_cross = np.concatenate([np.diag(seen), np.diag(seen[::-1])])
        crossed = np.mean([contrast(value, ink) < 1.5 for value in on_cross]) > 0.5
        assert crossed == (i in (1, 7))
        if i not in (1, 7):
            assert max(contrast(value, page) for value in (seen.min(), seen.max())) > 1.8


def test_a_filter_is_read_by_pointer_by_keys_and_by_name(show):
    view = filters()
    tab = show(view, filters=view.filters)
    words = tab.locator(".pk-words")
    tab.locator(".pk-filter >> nth=7").hover()
    norm = pretrained("lenet_5").conv1.weight[7].abs().sum().item()
    said = f"filter 7: removed; score 7, rank 13 of 20; L1 norm {norm:.4g}"
    assert words.inner_text() == said
    assert tab.get_by_role("option", name=said).count() == 1
    assert tab.get_by_role("listbox", name="conv1.weight: 18 of 20 filters kept").count() == 1
    tab.locator(".pk-filter >> nth=7").focus()
    for key, number in (
        ("ArrowRight", 8), ("ArrowLeft", 7), ("End", 19), ("Home", 0), ("ArrowLeft", 0),
    ):  # fmt: skip
        tab.keyboard.press(key)
        assert words.inner_text().startswith(f"filter {number}: ")
        assert tab.locator("[aria-selected=true]").count() == 1
    tab.keyboard.press("ArrowDown")
    row = int(tab.locator(".pk-view").get_attribute("data-selected"))
    boxes = [tab.locator(f".pk-filter >> nth={i}").bounding_box() for i in (0, row)]
    assert boxes[0]["x"] == boxes[1]["x"]
    assert boxes[0]["y"] < boxes[1]["y"]
