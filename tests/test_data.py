"""Data: what is refused, what a batch looks like, and the named data sets against their source."""

import copy
import itertools
import json
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny import tiny_data, tiny_model
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from prunekit import data as room
from prunekit import datasets as named
from prunekit import experiments, fit
from prunekit._files import describe
from prunekit.data import (
    Data,
    _in_255,
    accuracy,
    hold_out,
    ranks,
    spearman,
    squared_error,
    wrap,
    wrong,
)
from prunekit.datasets import crop_and_mirror
from prunekit.examples import leaves
from prunekit.experiments.noisy_labels import NOISES, noisy
from prunekit.trial import try_out


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(n=6, classes=3):
    return torch.arange(2.0 * n).reshape(n, 2), torch.arange(n) % classes


def splits(**changes):
    return {"train": pair(), "validation": pair(3), "test": pair(3)} | changes


# ------------------------------------------------------------------------------- what is refused


NAN, INF = torch.tensor([[1.0], [torch.nan]]), torch.tensor([[torch.inf]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (torch.zeros(4, 2), torch.zeros(3))}, "as many inputs as targets.* 4 and 3"),
        ({"test": (torch.zeros(0, 2), torch.zeros(0))}, "test: .*at least one, got 0 and 0"),
        ({"train": (NAN, torch.arange(2))}, "train: inputs.* 1 values"),
        ({"test": (INF, torch.arange(1))}, "test: inputs must be finite, 1"),
        ({"test": (torch.ones(2, 2), NAN.flatten())}, "test: targets must be finite, 1"),
        ({"validation": (torch.ones(1, 2), torch.tensor([-1]))}, r"in \[0, 2\], got -1"),
        ({"train": (torch.ones(2, 2), torch.tensor([0, 2]))}, "class 1 of 3 has none.*from 0"),
        ({"test": (torch.ones(1, 2), torch.tensor([3]))}, "class 3 of 4 has none"),
    ],
)
def test_bad_examples_are_refused_by_split_rule_and_value(changes, message):
    with pytest.raises(ValueError, match=f"data mine.*{message}"):
        Data(splits(**changes), name="mine")


@pytest.mark.parametrize(
    "metric",
    [F.mse_loss, F.cross_entropy, F.kl_div, F.binary_cross_entropy_with_logits, nn.L1Loss()],
    ids=lambda x: getattr(x, "__name__", type(x).__name__),
)
def test_a_loss_of_torch_is_no_metric(metric):
    class Own:
        batches, loss = tiny_data().batches, staticmethod(F.cross_entropy)

    Own.metric = staticmethod(metric)

    class Negative(nn.MSELoss):
        def forward(self, outputs, y):
            return -super().forward(outputs, y)

    assert Data(tiny_data().splits, metric=Negative()).metric_name
    for made in (lambda: Data(tiny_data().splits, metric=metric), lambda: wrap(Own())):
        with pytest.raises(ValueError, match="metric must be larger for better networks, .* is sm"):
            made()


def test_a_label_beyond_the_given_classes_is_refused():
    with pytest.raises(ValueError, match=r"data mine, train: labels must be in \[0, 1\], got 2"):
        Data(splits(), name="mine", classes=("a", "b"))


LABELS = torch.arange(12) % 3


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (1_700_000_000 + LABELS, r"class 0 of 1700000003 has none. Renumber .*torch.unique"),
        (LABELS * 10**12, "class 1 of 2000000000001 has none"),
        (LABELS[:, None], r"labels must be \(n,\), got \(12, 1\). Pass y.squeeze\(1\)"),
        (torch.eye(3)[LABELS].long(), r"a single 1, such as \[1, 0, 0\]. Pass y.argmax\(1\)"),
        (LABELS.float(), r"got floats. .* They are whole: pass y.long\(\)"),
        (LABELS + 0.5, "got floats. .*outputs and targets.$"),
        (LABELS - 100, r"labels must be in \[0, 0\], got -100"),
    ],
)
@pytest.mark.parametrize("validation", [0.25, None])
def test_labels_of_other_forms_are_refused_before_a_table_is_made(y, message, validation):
    x = torch.zeros(12, 2)
    with pytest.raises(ValueError, match=f"data mine, train: .*{message}"):
        Data.of((x, y), validation or (x, y), name="mine")


def test_probabilities_to_validate_by_are_refused_with_what_to_pass():
    y = torch.eye(3)[LABELS]
    with pytest.raises(ValueError, match=r"validation: .* got floats.*pass y.argmax\(1\)"):
        Data.of((torch.zeros(12, 2), y), 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tset": pair(3)}, r"splits must be of \['train', 'validation', 'test'\], got 'tset'"),
        ({"train": torch.zeros(3, 2)}, r"train: must be a pair \(x, y\), got a Tensor"),
        ({"test": (torch.zeros(3, 1), LABELS[:3])}, r"test: .*float32 \(1,\), .*float32 \(2,\)"),
        ({"test": (torch.zeros(3, 2).double(), LABELS[:3])}, r"test: inputs .*one form.*float64"),
        ({"test": ((torch.zeros(3, 2),) * 2, LABELS[:3])}, "test: inputs must be of one form"),
    ],
)
def test_splits_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=f"data mine.*{message}"):
        Data(splits(**changes), name="mine")


def test_numbers_to_be_met_must_be_of_one_shape_in_all_splits():
    x = torch.zeros(3, 2)
    parts = {"train": (x, x[:, 0]), "validation": (x, x[:, :1])}
    with pytest.raises(ValueError, match=r"validation: targets .* one shape .*\(1,\), .*\(\)"):
        Data(parts, metric=lambda outputs, targets: 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(metric="accuracy"), r"metric must be a function of \(outputs, targets\), got 'acc"),
        (dict(metric=None), "metric must be a function .* got None"),
        (dict(metric=lambda outputs: 0.0), r"metric must be .*\(outputs\): too many positional"),
        (dict(loss=3), "loss must be a function .* got 3"),
        (dict(loss=nn.CrossEntropyLoss), r"the class CrossEntropyLoss. .*CrossEntropyLoss\(\)"),
        (dict(augment="flip"), r"augment must be a function of \(x, generator\), got 'flip'"),
        (dict(augment=lambda x: x), "augment must be a function"),
        (dict(classes=3), "classes must be the names in the order of their labels, got 3"),
        (dict(classes={"a": 1, "b": 0, "c": 2}), "classes must be the names in the order"),
        (dict(classes="ab"), r"labels must be in \[0, 1\], got 2"),
        (dict(classes="abcd"), "class 3 of 4 has none"),
        (dict(name=None), "name must be a text, got None"),
        (dict(transform=3), r"has no setting 'transform', only \['name', 'classes', .*'key'\]"),
        (dict(splits=3), "has no setting 'splits'"),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=f"data.*{message}"):
        Data.of(pair(), pair(), **settings)


def test_data_are_not_made_of_data():
    with pytest.raises(TypeError, match="must be made of data sets or tensors, got Data.tiny: 120"):
        Data.of(tiny_data())
    with pytest.raises(TypeError, match=r"splits must map .*got a tuple. Data.of\(\(x, y\)\)"):
        Data(pair())


def test_class_names_may_be_numbers_and_arrays():
    for classes in ([0, 1, 2], np.array(["0", "1", "2"]), iter("012")):
        assert Data(splits(), classes=classes).classes == ("0", "1", "2")


def test_a_loss_that_is_an_object_and_a_partial_function_are_taken():
    for loss in (nn.CrossEntropyLoss(), partial(nn.functional.cross_entropy, label_smoothing=0.1)):
        assert Data(splits(), loss=loss).loss is loss


@pytest.mark.parametrize("lost", ["train", "validation"])
def test_a_split_that_methods_need_is_missed(lost):
    rest = {split: pair for split, pair in splits().items() if split != lost}
    with pytest.raises(ValueError, match=f"must be a {lost} split, got"):
        Data(rest)


def test_a_test_split_may_be_missing_until_it_is_asked_for():
    data = Data({"train": pair(), "validation": pair()})
    with pytest.raises(ValueError, match=r"has no test split, only \['train', 'validation'\]"):
        next(data.batches("test", 2))


# --------------------------------------------------------------------------------------- batches


def test_without_a_generator_batches_are_the_split_in_order():
    data = tiny_data()
    xs, ys = zip(*data.batches("validation", 7), strict=True)
    assert [len(y) for y in ys] == [7] * 8 + [4]
    assert torch.equal(torch.cat(xs), data.splits["validation"][0])
    assert torch.equal(torch.cat(ys), data.splits["validation"][1])


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_training_batches_are_a_shuffle_without_a_last_single_example(n, size, seed):
    x = torch.arange(float(n))[:, None]
    data = Data({"train": (x, x), "validation": (x, x)}, metric=lambda outputs, y: 0.0)
    batches = [y.flatten().tolist() for _, y in data.batches("train", size, generator(seed))]
    seen = [*itertools.chain(*batches)]
    dropped = int(size > 1 and n > 1 and n % size == 1)
    assert len(seen) == len(set(seen)) == n - dropped
    again = [y.flatten().tolist() for _, y in data.batches("train", size, generator(seed))]
    assert again == batches
    assert data.minibatches(size) == len(batches)


def test_a_shuffle_is_drawn_from_its_generator_alone():
    data, state = tiny_data(), torch.get_rng_state()
    first = next(data.batches("train", 120, generator(1)))[1]
    other = next(data.batches("train", 120, generator(2)))[1]
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_bytes_are_scaled_and_normalised_a_channel_at_a_time():
    x = torch.randint(0, 256, (4, 2, 3, 3), dtype=torch.uint8, generator=generator())
    y = torch.tensor([0, 1, 0, 1])
    data = Data({"train": (x, y), "validation": (x, y)}, mean=(0.5, 0.25), std=(0.5, 2.0))
    batch, _ = next(data.batches("validation", 4))
    for c, (mean, std) in enumerate([(0.5, 0.5), (0.25, 2.0)]):
        torch.testing.assert_close(batch[:, c], (x[:, c].float() / 255 - mean) / std)
    assert data.splits["train"][0].dtype == torch.uint8


FORMS = [list, tuple, np.array, torch.tensor, lambda v: np.array(v, "f4"), pandas.Series]


@pytest.mark.parametrize("form", FORMS)
def test_mean_and_deviation_may_be_of_any_form(form):
    x, y = torch.randint(0, 256, (6, 2, 3, 3), dtype=torch.uint8, generator=generator()), pair()[1]
    made = [
        Data(
            {"train": (x, y), "validation": (x, y)}, mean=make([0.5, 0.25]), std=make([0.5, 0.125])
        )
        for make in (form, tuple)
    ]
    assert made[0].key == made[1].key
    assert torch.equal(*(data.normalise(x) for data in made))
    one = [
        Data({"train": (x, y), "validation": (x, y)}, mean=mean, std=0.5).normalise(x)
        for mean in (0.25, [0.25, 0.25], torch.tensor(0.25), np.float32(0.25))
    ]
    assert all(torch.equal(one[0], other) for other in one)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(mean=[0.5] * 3), r"mean must have one value a channel \(2\)"),
        (dict(mean=[[0.5], [0.5]]), "mean must have one value a channel"),
        (dict(mean=[]), "mean must have one value a channel"),
        (dict(mean=[np.nan, 0.5]), "mean must be finite"),
        (dict(mean=125), r"mean must be in \[0, 1\].* got 125. Divide mean and std by 255"),
        (dict(mean="a"), "mean must be numbers, one a channel, got 'a'"),
        (dict(mean=True), "mean must be numbers"),
        (dict(std=0), "std must be above 0, got 0"),
        (dict(std=[0.5, -1]), "std must be above 0"),
        (dict(std=np.inf), "std must be finite"),
        (dict(std=np.nan), "std must be finite"),
    ],
)
def test_means_and_deviations_that_are_none_are_refused(settings, message):
    x, y = torch.zeros(6, 2, 3, 3, dtype=torch.uint8), pair()[1]
    with pytest.raises((ValueError, TypeError), match=f"data mine: {message}"):
        Data.of((x, y), (x, y), name="mine", **settings)


def test_a_mean_of_inputs_that_are_used_as_they_are_is_refused():
    with pytest.raises(ValueError, match=r"mean is for .*uint8.* got float32 \(2,\). Normalise th"):
        Data(splits(), mean=(0.5,))


def test_bytes_without_channels_are_scaled_too():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8)
    data = Data({"train": (x, LABELS[:3]), "validation": (x, LABELS[:3])})
    assert torch.equal(data.normalise(x), torch.tensor([0, 0.2, 1]))


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "3", None])
def test_sizes_that_are_none_are_refused(size):
    data = tiny_data()
    for ask in (lambda: next(data.batches("train", size)), lambda: data.minibatches(size)):
        with pytest.raises(ValueError, match="data tiny: size must be a whole number above 0, got"):
            ask()


def test_the_default_device_and_type_change_nothing():
    def all_of(data):
        draws = generator(2)
        batches = [part for _ in range(2) for part in data.batches("train", 3, draws)]
        parts = data.fewer(train=7), data.take("train", torch.tensor([3, 1], device="cpu"))
        kept = [part.splits["train"] for part in parts]
        return [*batches, *kept, data.normalised.splits["validation"]], data.key

    def made():
        _in_255.cache_clear()
        x = torch.arange(320, dtype=torch.uint8, device="cpu").reshape(10, 2, 4, 4)
        y = torch.arange(10, device="cpu") % 3
        return Data.of((x, y), 0.2, mean=(0.5, 0.25), std=0.5, augment=crop_and_mirror)

    before, key = all_of(made())
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            after, again = all_of(made())
    finally:
        torch.set_default_dtype(torch.float32)
    assert key == again
    for a, b in zip(leaves(before), leaves(after), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype


def test_normalised_data_give_the_same_batches_of_any_size():
    x = torch.randint(0, 256, (6, 2, 3, 3), dtype=torch.uint8, generator=generator())
    y = torch.tensor([0, 1] * 3)
    data = Data({"train": (x, y), "validation": (x, y)}, mean=(0.5, 0.25), std=(0.5, 2.0))
    batch = next(data.batches("validation", 6))[0]
    again = torch.cat([x for x, _ in data.normalised.batches("validation", 4)])
    assert torch.equal(again, batch)


def test_copies_do_not_keep_what_was_worked_out_from_the_original():
    x = torch.randint(0, 256, (6, 2, 3, 3), dtype=torch.uint8, generator=generator())
    y = torch.tensor([0, 1] * 3)
    data = Data({"train": (x, y), "validation": (x, y)})
    bare = len(pickle.dumps(data))
    key, all_ = data.key, data.normalised.size("validation")
    assert len(pickle.dumps(data)) == bare
    fewer = data.fewer(validation=4)
    assert fewer.key != key == pickle.loads(pickle.dumps(data)).key
    assert (fewer.normalised.size("validation"), all_) == (4, 6)


def test_only_training_batches_are_augmented():
    x, y = pair()
    data = Data({"train": (x, y), "validation": (x, y)}, augment=lambda x, generator: x + 100)
    assert next(data.batches("train", 6, generator()))[0].min() >= 100
    assert torch.equal(next(data.batches("train", 6))[0], x)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_crop_and_mirror_gives_a_window_of_each_padded_image_or_its_mirror_image(form):
    x = torch.rand(200, 2, 5, 6, generator=generator()).contiguous(memory_format=form)
    padded = torch.nn.functional.pad(x, [2] * 4)
    places = set()
    for before, after in zip(padded, crop_and_mirror(x, generator(3), padding=2), strict=True):
        windows = {
            (top, left, mirror): before[:, top : top + 5, left : left + 6].flip([2] * mirror)
            for top in range(5) for left in range(5) for mirror in (0, 1)
        }  # fmt: skip
        (place,) = [where for where, window in windows.items() if torch.equal(window, after)]
        places.add(place)
    for axis, reached in zip(zip(*places, strict=True), (5, 5, 2), strict=True):
        assert {*axis} == {*range(reached)}  # both edges, in both directions
    assert len(places) > 45  # of 50, each with its chance of 1 in 50


def by_advanced_indexing(x, generator, padding=4):
    """`crop_and_mirror` in one indexing of padded images."""
    n, _, h, w = x.shape
    padded = torch.nn.functional.pad(x, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(h), left + torch.arange(w)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(n)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@pytest.mark.parametrize("shape", [(128, 3, 32, 32), (7, 1, 5, 6), (1, 4, 3, 2)])
@pytest.mark.parametrize("padding", [4, 1, 0])
def test_crop_and_mirror_is_that_of_plain_indexing_to_the_bit_and_in_memory(shape, padding):
    x = torch.randn(shape, generator=generator())
    draws = generator(5), generator(5)
    for _ in range(3):
        expected = by_advanced_indexing(x, draws[0], padding)
        result = crop_and_mirror(x, draws[1], padding)
        assert torch.equal(result, expected)
        assert result.stride() == expected.stride()
    assert torch.equal(draws[0].get_state(), draws[1].get_state())


# ---------------------------------------------------------------------------------- on a device


def images(n=10, **settings):
    """n images of two channels, and their numbers as targets."""
    x = torch.randint(0, 256, (n, 2, 4, 4), dtype=torch.uint8, generator=generator())
    pair, scale = (x, torch.arange(n)), dict(mean=(0.5, 0.25), std=(0.5, 2.0))
    return Data({"train": pair, "validation": pair}, **scale, **settings)


def test_splits_and_batches_lie_on_the_device():
    data = images(augment=crop_and_mirror, name="mine", classes="abcdefghij")
    moved = data.to("meta")
    assert {t.device.type for pair in moved.splits.values() for t in pair} == {"meta"}
    assert {t.device.type for pair in data.splits.values() for t in pair} == {"cpu"}
    for batches in (moved.batches("train", 4, generator()), moved.batches("validation", 4)):
        shapes = [(x.shape, y.shape, x.device.type, y.device.type) for x, y in batches]
        assert shapes == [((n, 2, 4, 4), (n,), "meta", "meta") for n in (4, 4, 2)]
    rest = [{k: v for k, v in vars(d).items() if k != "splits"} for d in (data, moved)]
    assert rest[0] == rest[1]
    part = moved.take("train", torch.tensor([2, 0]))
    assert part.splits["train"][0].device.type == "meta"
    assert data.to("cpu") is data
    assert moved.to(torch.device("meta")) is moved


def test_the_key_goes_along_without_being_worked_out_there():
    data = images()
    assert data.key == data.to("meta").key
    assert images(key="mine").to("meta").key == "mine"


def test_order_and_augmentation_are_drawn_on_the_cpu_whatever_the_device(monkeypatch):
    data, draw = images(augment=crop_and_mirror), torch.randperm
    orders, states = [], []
    monkeypatch.setattr(
        torch, "randperm", lambda *args, **given: orders.append(draw(*args, **given)) or orders[-1]
    )
    for which in (data, data.to("meta")):
        draws = generator(4)
        assert len([*which.batches("train", 3, draws)]) == 3
        states.append(draws.get_state().tolist())
    assert orders[0].tolist() == orders[1].tolist()
    assert states[0] == states[1]


def test_smaller_data_are_drawn_by_their_labels_alone():
    data = images()
    moved = data.to("meta")  # where images have no values that could be read
    moved.splits = {split: (x, data.splits[split][1]) for split, (x, _) in moved.splits.items()}
    (x, y), (_, expected) = (
        which.fewer(validation=4).splits["validation"] for which in (moved, data)
    )
    assert torch.equal(y, expected)
    assert (x.shape, x.device.type) == ((4, 2, 4, 4), "meta")


def test_mean_and_deviation_are_made_once_a_device(monkeypatch):
    data, x = images(), images().splits["train"][0]
    first = data.normalise(x)

    def refused(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(room.torch, "tensor", refused)
    assert torch.equal(data.normalise(x), first)
    assert torch.equal(copy.copy(data).normalise(x[:2]), first[:2])


# ----------------------------------------------------------------------------------- key and form


def test_the_key_depends_on_every_part_of_the_content():
    images = {split: (x.byte(), y) for split, (x, y) in splits().items()}
    base = dict(splits=images, mean=(0.5,), std=(0.5,))
    x, y = images["train"]
    changed_x, changed_y = x.clone(), y.clone()
    changed_x[5, 1] += 1
    changed_y[0] = 1
    others = [
        {"splits": images | {"train": (changed_x, y)}},
        {"splits": images | {"train": (x, changed_y)}},
        {"mean": (0.4,)},
        {"loss": mse_loss},
        {"augment": crop_and_mirror},
    ]
    keys = [Data(**(base | other)).key for other in [{}, *others]]
    assert len(set(keys)) == len(keys)
    assert Data(**base).key == Data(**(base | {"splits": {**images}})).key == keys[0]


class Smooth:
    """A loss and a metric of its own state."""

    def __init__(self, amount):
        self.amount = amount

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=self.amount)

    def metric(self, outputs, targets):
        return -float(self.loss(outputs, targets))


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.3)


def crop(x, generator):
    return x


crop.__name__ = crop.__qualname__ = "crop_and_mirror"


class Doubled(Data):
    """Data whose batches are not those of their examples."""


def test_functions_of_another_name_place_or_state_have_another_key():
    weights = torch.zeros(2_000)
    weights[1_000] = 1
    losses = [
        nn.functional.cross_entropy, cross_entropy, Smooth(0.1).loss, Smooth(0.2).loss,
        nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(torch.zeros(2_000)), nn.CrossEntropyLoss(weights),
    ]  # fmt: skip
    metrics = [spearman, Smooth(0.1).metric, Smooth(0.2).metric]
    changes = [
        *(dict(loss=loss) for loss in losses),
        *(dict(metric=metric) for metric in metrics),
        *(dict(augment=augment) for augment in (crop, crop_and_mirror)),
    ]
    keys = [Data(splits(), **change).key for change in changes]
    assert len({*keys}) == len(keys)
    assert [Data(splits(), **copy.deepcopy(change)).key for change in changes] == keys
    assert Doubled(splits()).key not in keys


def test_recorded_experiments_still_know_their_data(digits, full_mnist):
    assert digits.key == "62918257079adf23"
    recorded = {
        json.loads(path.read_text())["data"]
        for path in (Path(experiments.__file__).parent / "results" / "noisy_labels").glob("*.json")
    }
    assert {noisy(full_mnist, noise).key for noise in NOISES} == recorded
    assert full_mnist.key == "a77a7f3d30998d3b"


def test_the_key_of_augmented_images_is_that_of_recorded_runs(data_root):
    data = named.cifar10(data_root)
    assert (data.key, data.fewer(validation=100).key) == ("f6a8a985bc42430a", "7c9089eef3db7f70")


def test_a_key_of_ones_own_stands_for_the_whole_and_for_no_part():
    data = Data(splits(), key="mine")
    assert data.key == pickle.loads(pickle.dumps(data)).key == copy.copy(data).key == "mine"
    other = Data(splits())
    for part in (
        lambda d: d.only("validation"),
        lambda d: d.fewer(validation=2),
        lambda d: d.take("train", torch.tensor([1, 2])),
    ):
        assert part(data).key == part(other).key
    for bad in ("", 5):
        with pytest.raises(ValueError, match=f"data d: key must be a text.* got {bad!r}"):
            Data(splits(), name="d", key=bad)


def loss(outputs, targets):
    return 0.5


@pytest.mark.parametrize(
    ("metric", "name", "cost"),
    [
        (accuracy, "accuracy", "errors"),
        (spearman, "spearman", "minus the spearman"),
        (loss, "metric", "minus the metric"),  # else it would take the place of the training loss
        (partial(spearman), "metric", "minus the metric"),
        (lambda outputs, targets: 0.0, "metric", "minus the metric"),
    ],
)
def test_the_metric_has_a_name_and_a_cost(metric, name, cost):
    data = Data(splits(), metric=metric)
    assert (data.metric_name, data.cost_name) == (name, cost)
    assert data.counts_errors == (metric is accuracy)


def test_the_unit_is_the_number_of_targets_or_one():
    x, classes = torch.zeros(6, 2), torch.arange(24).reshape(6, 4) % 3
    several = Data({"train": (x, classes), "validation": (x[:2], classes[:2])})
    assert (several.unit("train"), several.unit("validation")) == (24, 8)
    likely = soft([0.5, 0.5, 0.0], [1.0, 0.0, 0.0])
    assert (likely.unit("train"), likely.unit("validation")) == (2, 2)
    assert Data(splits(), metric=spearman).unit("train") == 1
    with pytest.raises(ValueError, match="has no test split"):
        likely.unit("test")


def test_the_repr_says_sizes_shape_and_classes():
    assert repr(tiny_data()) == (
        "Data(tiny: 120 train, 60 validation, 60 test; inputs 8; 3 classes)"
    )


def test_accuracy_is_the_share_of_right_answers():
    outputs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    y = torch.tensor([1, 0, 0, 0])
    assert (accuracy(outputs, y), wrong(outputs, y)) == (0.75, 1)
    pixels = outputs.T[None]  # (1 image, 2 classes, 4 pixels)
    assert accuracy(pixels, y[None]) == 0.75


# --------------------------------------------------------------------------------------- Data.of


@pytest.mark.parametrize("share", [0.1, 0.25, 1 / 3])
def test_a_share_is_held_out_evenly_over_the_classes(share):
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 30)
    x = torch.arange(120.0)[:, None]
    data = Data.of((x, y), share)
    held = data.splits["validation"]
    assert len(held[1]) == round(share * 120)
    for c, n in enumerate([60, 30, 30]):
        assert abs(int((held[1] == c).sum()) - share * n) < 1
    both = torch.cat([held[0], data.splits["train"][0]]).flatten()
    assert sorted(both.tolist()) == x.flatten().tolist()
    assert torch.equal(Data.of((x, y), share).splits["validation"][0], held[0])


def one_class_at_a_time(labels, n, seed):
    """`hold_out` of labels, with a search for the members of each class."""
    random = np.random.RandomState(seed)
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n / len(labels)
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: n - take.sum()]] += 1
    members = [random.permutation(np.flatnonzero(labels == c)) for c in classes]
    return np.sort(np.concatenate([m[:k] for m, k in zip(members, take, strict=True)]))


@given(st.lists(st.integers(-3, 9), min_size=2, max_size=60), st.data())
def test_held_out_are_those_of_the_largest_remainders(labels, draw):
    labels = np.array(labels)
    classes, counts = np.unique(labels, return_counts=True)
    n = draw.draw(st.integers(1, len(labels)))
    held = hold_out(labels, n, 3)
    assert len({*held}) == n
    if len(classes) <= n:
        assert held.tolist() == one_class_at_a_time(labels, n, 3).tolist()
    if (most := len(labels) - len(classes)) > 0:
        rest = np.delete(labels, hold_out(labels, min(n, most), 3, stay=1))
        assert {*rest} == {*labels}
        assert len(rest) == len(labels) - min(n, most)
    if n <= len(classes) or (counts == 1).all():
        return
    left = np.delete(labels, held)  # where each class keeps one, those that stay change nothing
    if {*left} == {*classes}:
        assert hold_out(labels, n, 3, stay=1).tolist() == held.tolist()


def test_whole_targets_of_many_values_are_held_out_without_regard_to_their_size():
    y = torch.arange(200)
    data = Data.of((y[:, None].float(), y), 0.5, metric=lambda outputs, y: 0.0)
    assert 80 < data.splits["validation"][1].float().mean() < 120


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_a_class_of_one_example_is_trained_on(share):
    y = torch.tensor([0] * 6 + [1] * 5 + [2])
    data = Data.of((torch.zeros(12, 2), y), share)
    assert data.size("validation") == round(share * 12)
    assert 2 in data.splits["train"][1]


def test_a_share_that_leaves_no_example_of_a_class_is_refused():
    y = torch.tensor([0] * 6 + [1] * 5 + [2])
    with pytest.raises(
        ValueError, match="0.9 of 12 examples takes 11, at most 9 leave one of each"
    ):
        Data.of((torch.zeros(12, 2), y), 0.9)


def test_targets_that_are_more_than_the_inputs_are_refused_before_some_are_held_out():
    with pytest.raises(ValueError, match="data d, train: needs as many .* got 12 and 14"):
        Data.of((torch.zeros(12, 2), torch.arange(14) % 3), 0.25, name="d")


@pytest.mark.parametrize(
    ("share", "error"), [(None, TypeError), (True, ValueError), (np.nan, ValueError)]
)
def test_what_is_no_share_is_refused(share, error):
    with pytest.raises(error, match=r"validation must be a share in \(0, 1\) or a data set, got"):
        Data.of(pair(), share)
    assert Data.of(pair(), np.float32(0.5)).key == Data.of(pair(), 0.5).key


def test_real_targets_are_held_out_too():
    x = torch.rand(20, 3, generator=generator())
    data = Data.of((x, x[:, :1].double()), 0.25, metric=lambda outputs, y: 0.0)
    assert (data.size("train"), data.size("validation")) == (15, 5)
    assert data.splits["train"][1].dtype == torch.float32
    assert data.classes == ()


def test_data_sets_and_tensors_give_the_same_data():
    x, y = pair()
    assert Data.of(TensorDataset(x, y), TensorDataset(x, y)).key == Data.of((x, y), (x, y)).key


def test_data_sets_that_do_not_fit_in_a_tensor_are_refused():
    ragged = [(torch.zeros(2), 0), (torch.zeros(3), 1)]
    with pytest.raises(ValueError, match=r"train: .*number 0 has \(2,\), number 1 has \(3,\)"):
        Data.of(ragged + ragged[:1], pair())
    with pytest.raises(ValueError, match="data d, test: the data set is empty"):
        Data.of(pair(), pair(), [], name="d")


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1])
def test_a_share_outside_0_and_1_is_refused(share):
    with pytest.raises(ValueError, match=rf"share in \(0, 1\) or a data set, got {share}"):
        Data.of(pair(), share)


# ---------------------------------------------------------------------------- the embedded sample


def shares(y, n):
    """Exact number of examples a class, were `n` drawn with the class shares of `y`."""
    return torch.bincount(y, minlength=10).double() * n / len(y)


def test_the_sample_has_5000_of_each_and_all_classes(digits):
    assert [digits.size(split) for split in digits.splits] == [5_000] * 3
    assert digits.splits["train"][0].shape == (5_000, 1, 28, 28)
    assert digits.classes == tuple("0123456789")
    assert digits.mean == (0.1307,)


def test_no_image_of_the_sample_is_in_two_splits(digits):
    images = [x.tobytes() for split in digits.splits for x in digits.splits[split][0].numpy()]
    assert len(set(images)) == len(images)
    stored = named._small()
    assert not set(stored["train_index"]) & set(stored["validation_index"])


def test_the_sample_is_normalised_to_mean_0_and_deviation_1(digits):
    batch, _ = next(digits.batches("train", 5_000))
    assert abs(float(batch.mean())) < 0.02
    assert abs(float(batch.std()) - 1) < 0.02


def source(root):
    """MNIST as torchvision reads it: {train?: (images, labels)}."""
    sets = named.torchvision().datasets
    parts = {train: sets.MNIST(root, train) for train in (True, False)}
    return {train: (part.data, part.targets) for train, part in parts.items()}


def test_every_image_of_the_sample_is_the_recorded_one_of_mnist(digits, data_root):
    full, stored = source(data_root), named._small()
    for split, (x, y) in digits.splits.items():
        images, labels = full[split != "test"]
        index = torch.from_numpy(stored[f"{split}_index"].astype(np.int64))
        assert torch.equal(x.squeeze(1), images[index])
        assert torch.equal(y, labels[index])
        assert len(set(index.tolist())) == 5_000


def test_the_sample_has_the_class_shares_of_mnist(digits, data_root):
    full = source(data_root)
    for split, (_, y) in digits.splits.items():
        expected = shares(full[split != "test"][1], 5_000)
        # Two draws, each rounded to whole images.
        assert float((torch.bincount(y) - expected).abs().max()) < 2


# --------------------------------------------------------------------------------- the full MNIST


def test_mnist_has_its_three_splits(full_mnist):
    sizes = {split: full_mnist.size(split) for split in full_mnist.splits}
    assert sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}


def test_mnist_and_the_sample_have_the_same_validation_images(full_mnist, digits):
    for a, b in zip(full_mnist.splits["validation"], digits.splits["validation"], strict=True):
        assert torch.equal(a, b)


def test_no_validation_image_of_mnist_is_trained_on(full_mnist):
    train = {x.tobytes() for x in full_mnist.splits["train"][0].numpy()}
    assert len(train) == 55_000  # MNIST has no doubles
    assert not any(x.tobytes() in train for x in full_mnist.splits["validation"][0].numpy())


def test_the_sample_is_trained_on_images_that_mnist_trains_on(full_mnist, digits):
    train = {x.tobytes() for x in full_mnist.splits["train"][0].numpy()}
    assert all(x.tobytes() in train for x in digits.splits["train"][0].numpy())


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_split_evenly_over_its_classes(data_root, name, classes):
    data = getattr(named, name)(data_root)
    assert [data.size(s) for s in ("train", "validation", "test")] == [45_000, 5_000, 10_000]
    assert torch.bincount(data.splits["validation"][1]).tolist() == [5_000 // classes] * classes
    assert data.splits["train"][0].shape[1:] == (3, 32, 32)
    assert len(data.classes) == classes
    sample = data.normalise(data.splits["train"][0][:2_000])
    assert sample.mean((0, 2, 3)).abs().max() < 0.05
    assert (sample.std((0, 2, 3)) - 1).abs().max() < 0.05


# ---------------------------------------------------------------------------- the root of the data


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_an_absent_root_names_itself_the_files_and_both_ways_out(name, tmp_path):
    root = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError) as error:
        getattr(named, name)(root)
    for part in (str(root), *named._files_of(name), f"{name}(download=True)", "PRUNEKIT_DATA"):
        assert part in str(error.value)
    assert not root.exists()


def test_the_root_is_the_argument_else_the_variable_else_the_home(tmp_path, monkeypatch, home):
    monkeypatch.setenv("PRUNEKIT_DATA", str(tmp_path / "b"))
    with pytest.raises(FileNotFoundError, match=r"root .*a lacks"):
        named.mnist(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"root .*b lacks"):
        named.mnist()
    monkeypatch.delenv("PRUNEKIT_DATA")
    with pytest.raises(FileNotFoundError) as error:
        named.mnist()
    assert str(home / "data") in str(error.value)


def test_a_failed_download_names_the_data_and_the_folder(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(named.torchvision().datasets.MNIST, "download", offline)
    with pytest.raises(ConnectionError, match=r"mnist: the download to .* failed: no route"):
        named.mnist(tmp_path, download=True)


@pytest.fixture
def copied(data_root, tmp_path):
    """A copy of MNIST's files that may be damaged."""
    for file in named._files_of("mnist"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(data_root) / file, tmp_path / file)
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize("file", ["t10k-labels-idx1-ubyte", "train-images-idx3-ubyte"])
def test_a_damaged_file_is_refused_by_name(copied, damage, file):
    path = copied / "MNIST/raw" / file
    damage(path)
    with pytest.raises(ValueError, match=r"truncated or altered .*Delete it and") as error:
        named.mnist(copied)
    assert str(path) in str(error.value)


def test_only_the_files_that_lack_are_named(copied):
    (copied / "MNIST/raw/train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks MNIST/raw/train-labels-idx1-ubyte\. Ei"):
        named.mnist(copied)


def test_a_mean_that_does_not_fit_the_channels_is_refused():
    x, y = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"data data: mean must have one value a channel \(3\)"):
        Data({"train": (x, y), "validation": (x, y)}, mean=(0.1, 0.2))


def test_float_targets_need_a_metric_of_their_own():
    x, y = torch.zeros(4, 2), torch.arange(4) % 2
    sure = torch.eye(2)[y]
    for splits in ({"train": (x, sure), "validation": (x, sure)},
                   {"train": (x, x[:, 0]), "validation": (x, y)}):  # fmt: skip
        with pytest.raises(ValueError, match="must be classes for the accuracy, got floats"):
            Data(splits, loss=mse_loss)


def soft(*rows):
    """Data of two training examples with these probabilities, and two labels to validate by."""
    splits = {"train": (torch.zeros(len(rows), 3), torch.tensor(rows))}
    return Data(splits | {"validation": (torch.zeros(2, 3), torch.tensor([0, 2]))}, name="taught")


def test_training_targets_may_be_probabilities():
    data = soft([0.5, 0.5, 0.0], [1.0, 0.0, 0.0])
    assert data.classes == ("0", "1", "2")
    try_out("fit", model := torch.nn.Linear(3, 3), data, trains=False)
    assert "2 train" in repr(data)
    assert "2 validation" in repr(data.only("validation"))
    with pytest.raises(ValueError, match="the loss cannot be computed"):
        bad = Data(data.splits, loss=torch.nn.functional.multi_margin_loss)
        try_out("fit", model, bad, trains=False)
    x, y = data.splits["train"]
    chances = model(x).detach().log_softmax(1)
    by_hand = -(chances * y).sum(1).mean()
    assert data.loss(model(x), y).item() == pytest.approx(float(by_hand), rel=1e-6)


@pytest.mark.parametrize(
    ("row", "shown"), [([0.5, 0.6, 0.0], "0.5, 0.6, 0.0"), ([1.5, -0.5, 0.0], "1.5, -0.5, 0.0")]
)
def test_what_is_no_probability_is_refused_with_its_place(row, shown):
    with pytest.raises(ValueError, match=rf"taught, train: .* number 1 is \[{shown}\]"):
        soft([0.5, 0.5, 0.0], row)


def test_probabilities_and_names_or_labels_must_be_of_as_many_classes():
    splits = {"train": (torch.zeros(1, 3), torch.tensor([[0.5, 0.5]]))}
    splits["validation"] = (torch.zeros(2, 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"validation: labels must be in \[0, 1\], got 2"):
        Data(splits)
    with pytest.raises(ValueError, match="a probability for each of the 3 classes, got 2"):
        Data(splits, classes="abc")


def test_the_key_tells_settings_of_a_loss_apart_or_refuses():
    def key(loss):
        return Data(splits(), loss=loss).key

    entropy = torch.nn.functional.cross_entropy
    softer = [partial(entropy, label_smoothing=s) for s in (0.1, 0.1, 0.2)]
    assert key(softer[0]) == key(softer[1]) != key(softer[2])
    with pytest.raises(TypeError, match="needs a name of its own"):
        key(lambda outputs, targets: entropy(outputs, targets))


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="validation=0.05 of 5 examples"):
        Data.of((torch.zeros(5, 2), torch.arange(5) % 2), validation=0.05)


# --------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_and_ranks_are_those_of_scipy(ties):
    draws = generator()
    for _ in range(20):
        a, b = torch.randn(2, 50, generator=draws)
        if ties:
            a, b = a.round(), (2 * b).round()
        np.testing.assert_allclose(ranks(a), stats.rankdata(a) - 1)
        expected = stats.spearmanr(a, b).statistic
        assert spearman(a.unsqueeze(1), b) == pytest.approx(expected, abs=1e-12)


def test_spearman_of_equal_outputs_is_zero_and_of_several_an_error():
    assert spearman(torch.ones(9, 1), torch.arange(9.0)) == 0
    with pytest.raises(ValueError, match=r"one output an example, got \(9, 2\) for targets \(9,\)"):
        spearman(torch.ones(9, 2), torch.arange(9.0))


def test_squared_error_pairs_outputs_with_their_own_targets():
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])
    assert float(squared_error(outputs, targets)) == 2
    assert float(squared_error(outputs[:, 0], targets)) == 2


# ---------------------------------------------------------------------------------- smaller data


def test_fewer_keeps_the_class_shares_and_always_the_same_examples():
    data = tiny_data()
    part = data.fewer(validation=12)
    x, y = part.splits["validation"]
    assert torch.bincount(y).tolist() == [4, 4, 4]
    rows = [row.tolist() for row in data.splits["validation"][0]]
    assert all(row.tolist() in rows for row in x)
    assert torch.equal(x, tiny_data().fewer(validation=12).splits["validation"][0])
    assert part.splits["train"] is data.splits["train"]
    assert part.size("validation") == 12 != data.size("validation")


def test_fewer_has_a_key_of_its_own_and_only_does_not_touch_the_rest():
    data = tiny_data()
    whole = data.key
    assert data.fewer(validation=12).key not in (whole, data.fewer(validation=13).key)
    assert data.fewer(validation=60).splits["validation"][0].shape == (60, 8)
    part = data.only("validation")
    assert [*part.splits] == ["validation"]
    assert data.key == whole
    assert [*data.splits] == ["train", "validation", "test"]


def test_take_puts_the_examples_of_a_split_into_an_order():
    data, rows = tiny_data(), torch.tensor([5, 0, 59])
    part = data.take("validation", rows)
    for taken, whole in zip(part.splits["validation"], data.splits["validation"], strict=True):
        assert torch.equal(taken, whole[rows])
    assert part.splits["test"] is data.splits["test"]
    keys = {data.key, part.key, data.take("validation", rows.flip(0)).key}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "rows", [[1], np.array([1]), torch.tensor([True] * 60), torch.tensor([1.0]), torch.tensor(1)]
)
def test_rows_of_other_forms_are_refused(rows):
    with pytest.raises(ValueError, match=r"data tiny: rows must be a tensor \(n,\) of int64"):
        tiny_data().take("test", rows)


@pytest.mark.parametrize("row", [-1, 60, None])
def test_rows_that_a_split_does_not_have_are_refused(row):
    rows = torch.tensor([3, row]) if row else torch.tensor([], dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"tiny, test: rows must be in \[0, 59\], at least one, go"
    ):
        tiny_data().take("test", rows)


def test_splits_that_are_not_there_are_refused_wherever_they_are_named():
    data = tiny_data()
    for ask in (
        lambda: data.fewer(tset=3),
        lambda: data.only("tset"),
        lambda: data.take("tset", torch.tensor([0])),
        lambda: next(data.batches("tset", 3)),
    ):
        with pytest.raises(ValueError, match="data tiny: has no tset split, only"):
            ask()


@pytest.mark.parametrize("n", [0, 61, -1, True, 2.5, "3"])
def test_fewer_than_none_or_more_than_all_is_refused(n):
    with pytest.raises(ValueError, match=f"validation has 60 examples, cannot keep {n!r}"):
        tiny_data().fewer(validation=n)


# --------------------------------------------------------------------------- data of another kind


class Bare:
    """The least that data have; batches of their own size, with x in two parts."""

    loss = staticmethod(nn.functional.cross_entropy)
    metric = staticmethod(accuracy)

    def __init__(self, **more):
        self.asked = []
        vars(self).update(more)

    def batches(self, split, size, generator=None):
        self.asked.append(split)
        for x, y in tiny_data().batches(split, 7, generator):
            yield {"left": x[:, :4], "right": x[:, 4:]}, y


class Whole(Bare):
    """Data of another kind with all that is asked of them."""

    key, name, device = "whole-1", "mine", "cpu"

    def size(self, split):
        return {"train": 120, "validation": 60}[split]

    def minibatches(self, size):
        return 1_000

    def to(self, device):
        moved = Whole()
        moved.device = device
        return moved


def test_data_are_wrapped_once_and_own_data_not_at_all():
    own, other = tiny_data(), wrap(Bare())
    assert wrap(own) is own
    assert wrap(other) is other
    assert isinstance(other, Data)
    assert (own.reorderable, other.reorderable) == (True, False)
    assert (own.kind, other.kind, Doubled(splits()).kind) == (Data, Bare, Doubled)


def test_what_data_of_another_kind_do_not_say_is_counted_once():
    data = wrap(Bare())
    for _ in range(2):
        assert (data.size("train"), data.size("validation")) == (120, 60)
        assert (data.unit("validation"), data.minibatches(128)) == (60, 17)
    assert data.source.asked == ["train", "validation", "validation", "train"]
    assert len([*data.batches("train", 128)]) == 18  # the last, of one example, is not trained on
    assert wrap(Bare(metric=spearman)).unit("validation") == 1
    assert (data.name, data.key, data.classes, data.metric_name) == ("Bare", None, (), "accuracy")
    assert data.to("meta") is data is data.normalised
    assert repr(data) == "Data(Bare: batches of a Bare)"


def test_what_data_of_another_kind_say_is_used():
    data = wrap(Whole())
    assert (data.size("train"), data.minibatches(5), data.unit("train")) == (120, 1_000, 120)
    assert data.source.asked == ["train"]  # one batch, for the number of targets an example
    assert (data.name, data.key) == ("mine", "whole-1")
    assert describe(data) == "prunekit.data.Foreign:whole-1"
    assert data.to("meta").source.device == "meta"
    with pytest.raises(TypeError, match="data Bare: key must be a text, got 5"):
        _ = wrap(Bare(key=5)).key


def test_several_targets_an_example_are_all_counted():
    def batches(split, size, generator=None):
        yield torch.zeros(3, 2), torch.zeros(3, 4, dtype=torch.int64)
        yield torch.zeros(2, 2), torch.zeros(2, 4, dtype=torch.int64)

    assert wrap(Bare(batches=batches)).unit("validation") == 20


def test_batches_of_another_kind_come_as_they_are():
    data = wrap(Bare())
    x, y = next(data.batches("validation", 100))
    assert torch.equal(torch.cat([*x.values()], 1), tiny_data().splits["validation"][0][:7])
    assert torch.equal(y, tiny_data().splits["validation"][1][:7])
    orders = [torch.cat([y for _, y in d.batches("train", 7, generator(1))])
              for d in (data, Bare(), tiny_data())]  # fmt: skip
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])


def test_data_of_another_kind_are_copied_and_sent():
    data = wrap(Whole())
    key, size = data.key, data.size("train")
    for other in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert (other.key, other.size("train")) == (key, size)
        assert len([*other.batches("validation", 1)]) == 9
    part = data.only("validation")
    part.metric = spearman
    assert (data.metric_name, part.metric_name, part.unit("train")) == ("accuracy", "spearman", 1)


def test_data_of_another_kind_cannot_be_put_into_another_order():
    data = wrap(Bare())
    with pytest.raises(ValueError, match="data Bare: cannot be put into another order, only prune"):
        data.take("validation", torch.arange(3))
    with pytest.raises(ValueError, match=r"data Bare: cannot be cut to {'validation': 3}, only"):
        data.fewer(validation=3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            (torch.zeros(3, 2), torch.zeros(3)),
            "a tuple lacks batches and loss and metric. .*Data.of",
        ),
        (nn.CrossEntropyLoss(), "a CrossEntropyLoss lacks batches and loss and metric"),
        (Bare(metric=None), r"metric\(outputs, targets\), a Bare lacks metric\. Add what lacks"),
        (None, "a NoneType lacks"),
    ],
)
def test_what_lacks_what_data_need_is_refused(other, message):
    with pytest.raises(TypeError, match=f"data: must have batches.*{message}"):
        wrap(other)


def test_a_split_without_batches_is_refused():
    data = wrap(Bare(batches=lambda split, size, generator=None: iter(())))
    with pytest.raises(ValueError, match="data Bare: give no batch of the test split"):
        data.size("test")


def endless(split, size, generator=None):
    while True:
        yield torch.zeros(size, 8), torch.zeros(size, dtype=torch.int64)


def giving(*batches):
    """Data of another kind that give these batches."""
    return Bare(batches=lambda split, size, generator=None: iter(batches))


X, Y = torch.zeros(3, 8), torch.arange(3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Bare(batches=lambda *args: None), "batches must give pairs .*, got NoneType"),
        (Bare(batches=lambda split: None), "these fail with . arguments: too many positional"),
        (giving((X, Y, Y)), r"batches must give pairs \(x, y\), got a tuple of 3"),
        (giving({"x": X, "y": Y}), r"batches must give pairs \(x, y\), got a dict"),
        (giving(X), r"batches must give pairs \(x, y\), got a Tensor"),
        (giving((X.numpy(), Y)), "x of a batch must be a tensor, or .* got a ndarray"),
        (giving(((X, "b"), Y)), "x of a batch must be a tensor, or .* got a tuple"),
        (giving((None, Y)), "x of a batch must be a tensor, or .* got a NoneType"),
        (giving((X, Y.tolist())), "y of a batch must be a tensor, got a list"),
        (giving((X, Y), (X, Y[:2])), r"as many targets as inputs, .* got \[2\] for \[3, 8\]"),
        (giving((X[:0], Y[:0])), "as many targets as inputs, at least one"),
        (giving((X, Y[0])), "as many targets as inputs, at least one"),
        (Bare(batches=endless), r"must end, .* more than 100,000 .* size\(split\)"),
    ],
)
def test_batches_of_other_forms_are_refused_by_the_split(source, message):
    for use in (
        lambda data: data.size("validation"),
        lambda data: data.minibatches(500),
        lambda data: [*data.batches("validation", 500)],
        lambda data: [*data.batches("train", 500, generator())],
    ):
        with pytest.raises((ValueError, TypeError), match=f"data Bare.*{message}"):
            use(wrap(source))


def test_lists_of_loaders_are_tuples():
    x, y = next(wrap(giving([[X, X], Y])).batches("train", 3))
    assert type(x) is tuple
    assert y is Y


@pytest.mark.parametrize("said", [61, 59, 1_000])
def test_a_size_that_is_not_that_of_the_batches_is_refused(said):
    data = wrap(Bare(size=lambda split: said))
    got = "more" if said < 60 else "60"
    with pytest.raises(ValueError, match=rf"validation: .*size\('validation'\) is, .*, got {got}"):
        _ = [*data.batches("validation", 100)]
    assert len(next(data.batches("validation", 100))[1]) == 7


def test_sizes_that_change_with_that_of_the_batches_are_refused():
    def batches(split, size, generator=None):  # as loaders do that drop the last batch
        whole = tiny_data().batches(split, size)
        return (batch for batch in whole if len(batch[1]) == size)

    data = wrap(Bare(batches=batches))
    with pytest.raises(ValueError, match="data Bare: give no batch of the validation split"):
        data.size("validation")
    data = wrap(Bare(batches=lambda split, size, generator=None: batches(split, 20 + size % 7)))
    assert data.size("validation") == 50
    with pytest.raises(ValueError, match=r"size\('validation'\) is, 50, each time, got more"):
        _ = [*data.batches("validation", 7)]


def test_more_minibatches_than_said_are_refused_and_fewer_are_not():
    data = wrap(Bare(minibatches=lambda size: 3))
    with pytest.raises(
        ValueError, match=r"train: .* what minibatches\(7\) is, 3, each time, got mo"
    ):
        _ = [*data.batches("train", 7, generator())]
    assert len([*wrap(Whole()).batches("train", 7, generator())]) == 17


@pytest.mark.parametrize("said", [0, -3, 2.5, True, "12", None])
def test_sizes_that_are_no_numbers_are_refused(said):
    for what, of in (("size", "train"), ("minibatches", 7)):
        data = wrap(Bare(**{what: lambda of: said}))
        with pytest.raises(
            ValueError, match=rf"data Bare: {what}\({of!r}\) must be a whole number"
        ):
            getattr(data, what)(of)


def test_a_size_that_fails_is_told_by_its_split():
    with pytest.raises(ValueError, match=r"data mine: size\('test'\) fails: KeyError: 'test'"):
        wrap(Whole()).size("test")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Bare, r"must be an object, got Bare itself. Call it: Bare\(...\)"),
        (named.mnist_small, r"must be an object, got mnist_small itself. Call it: mnist_small\("),
        ("mnist", "a str lacks batches"),
        (DataLoader(TensorDataset(X, Y)), "a DataLoader lacks batches .*Data.of"),
        (TensorDataset(X, Y), "a TensorDataset lacks batches .*Data.of"),
        (Bare(loss=nn.CrossEntropyLoss), "Bare: loss must be a function .*the class CrossEnt"),
        (Bare(metric=lambda outputs: 0.0), "Bare: metric must be a function"),
    ],
)
def test_what_is_no_data_is_refused_with_what_to_do(other, message):
    with pytest.raises(TypeError, match=f"data.*{message}"):
        wrap(other)


class Flat(Bare):
    def batches(self, split, size, generator=None):
        return tiny_data().batches(split, size, generator)


def test_wrapped_data_train_as_their_source_does():
    models = [tiny_model() for _ in range(3)]
    steps = [
        [*fit(model, data, epochs=2)]
        for model, data in zip(models, (tiny_data(), Flat(), wrap(Flat())), strict=True)
    ]
    assert steps[0] == steps[1] == steps[2]
    assert torch.equal(models[0][0].weight, models[2][0].weight)


def test_the_example_is_the_first_of_validation_as_the_model_sees_it():
    data = tiny_data()
    assert torch.equal(data.example, data.splits["validation"][0][:1])
