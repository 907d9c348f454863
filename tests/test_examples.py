"""What people have, as tensors: what is taken, and what is refused with what to pass instead."""

import collections
import tracemalloc

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from prunekit import examples
from prunekit._modules import each
from prunekit.data import Data
from prunekit.examples import in_memory, leaves, pair, tensor, tensors

X = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
Z, Y = X[:, :4] + 1, torch.arange(12) % 3
Both = collections.namedtuple("Both", "a b")


class Made(Dataset):
    """n examples, each made by a function of its number; there are 12."""

    def __init__(self, make, n=12):
        self.make, self.n = make, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i >= 12:
            raise IndexError(f"no {i}")
        return self.make(i)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class NoLength(Dataset):
    def __getitem__(self, i):
        return X[i], Y[i]


def same(a, b):
    return len(leaves(a)) == len(leaves(b)) and all(
        torch.equal(s, t) and s.dtype == t.dtype for s, t in zip(leaves(a), leaves(b), strict=True)
    )


# ---------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        [X, Y],
        (X.numpy(), Y.numpy()),
        (X.tolist(), Y.tolist()),
        ([*X], [*Y]),
        (X.tolist(), tuple(Y.tolist())),
        (pandas.DataFrame(X.numpy()), pandas.Series(Y.numpy(), index=range(50, 62))),
        (pandas.DataFrame(X.numpy().astype("f8")), Y.numpy().astype("u2")),
        (X.numpy().astype(">f4"), Y.short()),
        (X.clone().requires_grad_() * 1, Y),
        TensorDataset(X, Y),
        Made(lambda i: (X[i], Y[i])),
        Made(lambda i: [X[i].numpy(), int(Y[i])]),
        [*zip(X, Y, strict=True)],
        Stream(),
        NoLength(),
        zip(X, Y, strict=True),
        ((X[i], Y[i]) for i in range(12)),
    ],
)
def test_the_same_examples_in_other_forms_are_the_same(source):
    assert same(in_memory(source, "who"), (X, Y))
    assert not any(part.requires_grad for part in leaves(in_memory((X, Y), "who")))


FORMS = [
    lambda x, z: (x, z),
    lambda x, z: {"ids": x, "mask": z},
    lambda x, z: Both(x, z),
    lambda x, z: ((x, z), {"again": x}),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1, 5, 12, 1_024])
def test_inputs_of_several_tensors_keep_their_form(form, chunk, monkeypatch):
    monkeypatch.setattr(examples, "STACKED", chunk)
    whole, y = in_memory((form(X, Z), Y), "who")
    read, targets = in_memory(Made(lambda i: (form(X[i], Z[i]), Y[i])), "who")
    assert same((whole, y), (read, targets))
    assert same(whole, form(X, Z))
    assert type(whole) is type(read) is type(form(X, Z))
    arrays = in_memory((each(form(X, Z), lambda t: t.numpy()), Y), "who")
    assert same(arrays, (whole, y))


def test_a_tuple_of_numbers_is_a_row_and_one_of_tensors_is_several_inputs():
    assert tensors((1.0, 2.0)).tolist() == [1, 2]
    assert [t.item() for t in tensors((torch.tensor(1.0), torch.tensor(2.0)))] == [1, 2]
    two = [(X[0], 0), (X[1], 1)]  # a data set of two, not inputs and targets
    assert same(in_memory(two, "who"), (X[:2], torch.arange(2)))
    mask = in_memory((({"ids": X, "mask": X > 0}), Y), "who")[0]["mask"]
    assert mask.dtype is torch.bool


@given(st.sampled_from(["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u2", "u4", "g", ">f8", "<i2"]))
def test_arrays_keep_their_values_and_floats_their_type(kind):
    array = np.arange(6).reshape(3, 2).astype(kind)
    found = tensor(array[::-1])
    np.testing.assert_array_equal(found.numpy(), array[::-1])
    if array.dtype.kind == "f" and array.itemsize <= 8:
        assert found.numpy().dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_targets_of_other_floats_are_float32_and_inputs_stay(kind):
    x, y = pair(X.to(kind), X[:, 0].to(kind), "who")
    assert (x.dtype, y.dtype) == (kind, torch.float32)
    assert torch.equal(y, x[:, 0].float())


def test_the_default_device_and_type_change_nothing():
    sources = [(X.tolist(), Y.tolist()), Made(lambda i: (X[i].tolist(), int(Y[i])))]
    before = [in_memory(source, "who") for source in sources]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            after = [in_memory(source, "who") for source in sources]
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(before, after)


def test_what_is_read_takes_twice_its_memory(monkeypatch):
    held = []
    monkeypatch.setattr(
        examples, "_finite", lambda found: held.append(tracemalloc.get_traced_memory()[1]) or True
    )
    row = np.ones(20_000, np.float32)
    tracemalloc.start()  # numpy's memory: rows are copies until they are put together
    try:
        in_memory(((row * i, i) for i in range(300)), "who")
    finally:
        tracemalloc.stop()
    assert held[0] < 1.2 * 300 * row.nbytes


# -------------------------------------------------------------------------------- what is refused


def fails(i):
    raise OSError("the disk is gone")


def image(i):
    return Image.new("L", (4, 4)), i % 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DataLoader(TensorDataset(X, Y)), "got a DataLoader. Pass its data set: loader.dataset"),
        (X, r"got a Tensor. Pass inputs and targets as a pair: \(x, y\)"),
        (X.numpy(), "got a ndarray. Pass inputs and targets as a pair"),
        (pandas.DataFrame(X.numpy()), "got a DataFrame. Pass inputs and targets as a pair"),
        ({"train": (X, Y)}, "got a dict of 'train'. Pass its splits one by one"),
        ({1, 2}, "got a set. It has no order"),
        ("mnist", "got a str. Pass what is read from there"),
        (None, "got a NoneType. Pass a data set"),
        (TensorDataset, "got a type. Pass a data set"),
        (Made(lambda i: {"image": X[i], "label": i}),
         r"pairs \(x, y\), number 0 is a dict of 'image' and 'label'. .*\(e\['image'\], e\['lab"),
        (Made(lambda i: (X[i], i, 1.0)), r"number 0 is a tuple of 3. .*\(\(x, w\), y\)"),
        (Made(lambda i: X[i][:2]), "number 0 is a Tensor. Put its target beside it"),
        (["ab", "cd", "ef"], "number 0 is a str"),
        (Made(image), "example 0: inputs must be numbers, got images of PIL. .*ToTensor"),
        (Made(lambda i: (X[i], None)), "example 0: targets must be numbers, got a NoneType"),
        (Made(lambda i: (X[i], i), 20), "example 12 of 20 cannot be read: IndexError: no 12"),
        (Made(fails), "example 0 of 12 cannot be read: OSError: the disk is gone"),
        (Made(lambda i: (X[i], i), 10**13), "examples of 40 bytes take 400,000 GB .*Subset"),
        (Made(lambda i: (X[i][: i + 1], i)), r"inputs of one shape, number 0 has \(1,\), number 1"),
        (Made(lambda i: (X[i].byte() if i else X[i], i)), r"number 1 has \(8, 'uint8'\)"),
        (Made(lambda i: (X[i], X[i][: i + 1])), "targets of one shape"),
        (iter(()), "the data set is empty"),
        (([X, Z], Y), r"rows of one shape. Several inputs are a tuple: \(\(x, z\), y\)"),
        (([X, X], Y), "as many inputs as targets, at least one, got 2 and 12. Several inputs are"),
        (((X, Z[:5]), Y), "got 12 and 5 and 12"),
        (((X, torch.tensor(1.0)), Y), "a row an example, got one number"),
        ((X, ["cat", "dog"] * 6), "targets must be numbers, got words such as 'cat'. Number them"),
        ((X, np.array(["cat", "dog"] * 6)), "targets must be numbers, got words such as 'cat'"),
        ((X, pandas.Series(["cat", "dog"] * 6)), "targets must be numbers, got words such as 'c"),
        ((pandas.DataFrame({"a": [1, 2], "b": ["u", "v"]}), [0, 1]), "got words such as 'u'"),
        ((pandas.DataFrame({"a": [1, None] * 6}), Y), "inputs must be finite, 6 values are not"),
        ((X, [10**30] * 12), "must be numbers, got object such as 1000000"),
        (([[1, 2], [3]], [0, 1]), "inputs must have rows of numbers of one length"),
        ((np.ma.masked_equal(np.arange(12), 3), Y), "inputs must be there, got an array with mas"),
        ((X + 0j, Y), "inputs must be real numbers.* got complex64"),
        ((X > 0, Y), r"inputs must be numbers, got bool. Pass x.float\(\)"),
        ((X.to_sparse(), Y), r"inputs must be dense, got torch.sparse_coo. Pass x.to_dense\(\)"),
        ((X.to("meta"), Y), "inputs must have values, got a tensor on the device meta"),
        ((X.to(torch.float8_e4m3fn), Y), "got float8_e4m3fn"),
        ((X, np.full(12, 2**64 - 1, np.uint64)), "targets must fit into int64"),
        (({}, Y), "inputs must not be an empty mapping"),
        ((X, (i for i in range(12))), "targets must be numbers, got a generator"),
    ],
)  # fmt: skip
def test_other_things_are_refused_by_split_and_kind(source, message):
    with pytest.raises((ValueError, TypeError), match=f"data mine, train.*{message}"):
        in_memory(source, "data mine, train")


def test_streams_without_an_end_are_refused(monkeypatch):
    def endless():
        while True:
            yield X[0], 0

    monkeypatch.setattr(examples, "STREAMED", 50)
    with pytest.raises(ValueError, match="must end, 50 examples came without an end. .*islice"):
        in_memory(endless(), "who")
    monkeypatch.setattr(examples, "STREAMED_BYTES", 10 * 40)
    with pytest.raises(ValueError, match="must end, 11 examples came"):
        in_memory(endless(), "who")


def test_a_data_set_whose_length_cannot_be_told_is_refused():
    class Odd(Made):
        def __len__(self):
            raise NotImplementedError("not known")

    with pytest.raises(ValueError, match="who: the length of a Odd cannot be told: not known. Add"):
        in_memory(Odd(lambda i: (X[i], i)), "who")


# ----------------------------------------------------------------------- data of several tensors


def several(form, **settings):
    return Data.of((form(X, Z), Y), (form(X[:6], Z[:6]), Y[:6]), name="two", **settings)


@pytest.mark.parametrize("form", FORMS)
def test_batches_and_parts_of_several_tensors_are_those_of_each(form):
    data, one = several(form), Data.of((torch.cat([X, Z], 1), Y), (torch.cat([X, Z], 1)[:6], Y[:6]))

    def together(x):
        first, second, *_ = leaves(x)
        return torch.cat([first, second], 1)

    for a, b in (
        (data, one),
        (data.fewer(validation=4), one.fewer(validation=4)),
        (data.take("train", torch.tensor([5, 0])), one.take("train", torch.tensor([5, 0]))),
        (data.only("validation", "train"), one),
    ):
        assert a.size("validation") == b.size("validation")
        assert a.minibatches(5) == b.minibatches(5)
        for draw in (None, 3):
            generators = [draw and torch.Generator().manual_seed(draw) for _ in range(2)]
            batches = zip(
                a.batches("train", 5, generators[0]), b.batches("train", 5, generators[1]),
                strict=True,
            )  # fmt: skip
            for (x, y), (whole, targets) in batches:
                assert type(x) is type(form(X, Z))
                assert torch.equal(together(x), whole)
                assert torch.equal(y, targets)
    assert data.to("cpu") is data
    assert {t.device.type for t in leaves(data.to("meta").splits["train"])} == {"meta"}
    assert same(data.normalised.splits["validation"][0], data.splits["validation"][0])


def test_the_key_and_the_picture_of_several_tensors():
    keys = [several(form).key for form in FORMS]
    keys += [several(lambda x, z: (x, z + (z == z[3, 3]))).key, several(lambda x, z: (z, x)).key]
    assert len({*keys}) == len(keys) - 1  # a named tuple is a tuple
    assert keys[0] == several(FORMS[0]).key == keys[2]
    shown = ["8 and 4", "ids 8 and mask 4", "8 and 4"]
    for form, shape in zip(FORMS, shown, strict=False):
        assert repr(several(form)) == (
            f"Data(two: 12 train, 6 validation; inputs {shape}; 3 classes)"
        )


def test_bytes_among_several_tensors_stay_and_have_no_mean():
    data = several(lambda x, z: ({"image": x.byte(), "ids": z}))
    x, _ = next(data.batches("train", 4))
    assert x["image"].dtype is torch.uint8
    with pytest.raises(ValueError, match="data two: mean is for inputs .* of uint8.*got {'image'"):
        several(lambda x, z: ({"image": x.byte(), "ids": z}), mean=0.5)
