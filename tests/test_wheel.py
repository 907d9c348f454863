"""A wheel that turns, without a browser: its slices and its picks."""

from collections import Counter

import pytest
import torch

from prunekit import select
from prunekit.widgets import Wheel
from prunekit.widgets.wheel import picks

SIZES = torch.tensor([0.9, 0.1, 0.5, 0.3])


def test_picks_are_those_of_torch_without_replacement_and_all_that_have_a_slice():
    slices = 1 - SIZES / SIZES.max()
    shown = Wheel(SIZES, {"lin": slices}, seed=7).shown
    own = torch.multinomial(slices, 3, generator=torch.Generator().manual_seed(7)).tolist()
    assert shown["wheels"][0]["picks"] == own
    assert {*own} == {1, 2, 3}  # the largest has no slice
    assert sum(shown["wheels"][0]["slices"]) == pytest.approx(1, abs=1e-3)
    assert shown["sizes"] == pytest.approx(SIZES.tolist(), abs=1e-4)


def test_first_picks_have_the_chances_of_the_slices():
    slices = select.log_wheel(SIZES, "rank", 2).exp()
    first = Counter(picks(slices, seed)[0] for seed in range(2_000))
    for weight, chance in enumerate(slices.tolist()):
        assert first[weight] / 2_000 == pytest.approx(chance, abs=4 * (0.25 / 2_000) ** 0.5)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"a": torch.ones(3)}, {"a": -SIZES}, {"a": SIZES / 0}, {"a": torch.zeros(4)}],
)
def test_slices_that_make_no_wheel_are_refused(wrong):
    with pytest.raises(ValueError, match="^Wheel: "):
        Wheel(SIZES, wrong)


def test_a_very_thin_slice_is_still_there():
    (wheel,) = Wheel(SIZES, {"steep": torch.tensor([1e-7, 1.0, 1e-5, 1e-3])}).shown["wheels"]
    assert sorted(wheel["picks"]) == [0, 1, 2, 3]
    assert min(wheel["slices"]) == pytest.approx(1e-7, rel=1e-2)
