"""Mask: laws of a set of kept weights, and clear refusals."""

import copy
import itertools
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit import magnitude, prune
from prunekit.mask import Mask, prunable

NAMES = st.text(min_size=1, max_size=8)
SHAPES = st.dictionaries(NAMES, st.lists(st.integers(0, 5), max_size=4).map(tuple), max_size=4)


@st.composite
def masks(draw, number=1):
    """`number` masks over the same names and shapes, with random contents."""
    shapes = draw(SHAPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    density = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    found = [
        Mask({n: torch.rand(s, generator=generator) < density for n, s in shapes.items()})
        for _ in range(number)
    ]
    return found if number > 1 else found[0]


def same(a, b):
    """Equality that does not rest on the key."""
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@given(masks())
def test_and_is_idempotent(mask):
    assert same(mask & mask, mask)
    assert same(mask & Mask(mask), mask)


@given(masks(number=2))
def test_and_is_commutative(pair):
    a, b = pair
    assert same(a & b, b & a)


@given(masks(number=3))
def test_and_is_associative(three):
    a, b, c = three
    assert same((a & b) & c, a & (b & c))


@given(masks(number=2))
def test_and_keeps_what_both_keep(pair):
    a, b = pair
    for name, keep in (a & b).items():
        both = [p and q for p, q in zip(a[name].flatten(), b[name].flatten(), strict=True)]
        assert keep.flatten().tolist() == both


@given(masks())
def test_bytes_make_the_round_trip(mask):
    back = Mask.from_bytes(mask.to_bytes())
    assert same(back, mask)
    assert [*back] == [*mask]
    assert {n: keep.shape for n, keep in back.items()} == {n: k.shape for n, k in mask.items()}


@given(masks(number=2))
def test_a_mask_at_rest_is_the_same_mask(pair):
    before, other = [Mask({**mask}) for mask in pair]
    told = before.to_bytes(), before.total, before.kept, before & other
    at_rest = Mask({**before})
    at_rest.rest()
    assert same(at_rest, before)
    assert same(at_rest & other, told[3])
    assert same(other & at_rest, told[3])
    assert (at_rest.to_bytes(), at_rest.total, at_rest.kept) == told[:3]
    assert at_rest == before
    assert [*at_rest] == [*before]
    assert all(keep.is_contiguous() and keep.dtype == torch.bool for keep in at_rest.values())


def test_masks_at_rest_take_a_bit_a_weight_and_share_what_they_shared():
    wide = {name: torch.rand(300, 400) < 0.5 for name in "ab"}
    first = Mask(wide)
    second = first & Mask(wide | {"b": torch.zeros(300, 400, dtype=torch.bool)})
    assert len(pickle.dumps(first)) > 2 * 300 * 400
    first.rest()
    second.rest()
    packed = [len(pickle.dumps(masks)) for masks in (first, second, [first, second])]
    assert max(packed[:2]) < 2 * 300 * 400 / 7
    assert packed[2] < sum(packed[:2]) - 300 * 400 / 9  # "a" is there once


def test_the_masks_of_a_run_rest_once_the_next_step_has_another():
    steps = prune(magnitude, tiny_model(), tiny_data(), rounds=3, epochs=2, bar=False).history
    now = steps[-1].mask
    assert len({step.mask for step in steps}) == 3
    for step in steps:
        assert (step.mask["0.weight"] is step.mask["0.weight"]) == (step.mask is now)


@given(masks(number=2))
def test_equality_hash_and_key_are_about_content(pair):
    a, b = pair
    assert (a == b) == (a.key == b.key) == same(a, b)
    if a == b:
        assert hash(a) == hash(b)


@given(masks())
def test_key_does_not_depend_on_the_order_of_the_names(mask):
    turned = Mask(dict(reversed([*mask.items()])))
    assert turned.key == mask.key
    assert turned == mask


def test_key_depends_on_every_bit_every_name_and_every_shape():
    mask = Mask({"a": torch.ones(3, 3, dtype=torch.bool), "b": torch.ones(2, dtype=torch.bool)})
    others = [Mask(dict(mask) | {"b": torch.ones(1, 2, dtype=torch.bool)}), Mask({"a": mask["a"]})]
    others += [Mask({"a": mask["a"], "c": mask["b"]})]
    for i, j in itertools.product(range(3), range(3)):
        changed = mask["a"].clone()
        changed[i, j] = False
        others.append(Mask(dict(mask) | {"a": changed}))
    assert len({other.key for other in [mask, *others]}) == len(others) + 1


@given(masks())
def test_counts_agree_with_a_loop(mask):
    bits = [bit for keep in mask.values() for bit in keep.flatten().tolist()]
    assert (mask.kept, mask.total) == (sum(bits), len(bits))
    if bits:
        assert mask.sparsity == bits.count(False) / len(bits)
        assert mask.density + mask.sparsity == pytest.approx(1)


def test_an_empty_mask_removes_nothing():
    assert (Mask({}).sparsity, Mask({}).density) == (0, 1)


def test_a_mask_is_not_changed_through_the_tensors_it_was_made_of():
    keep = torch.ones(2, 2, dtype=torch.bool)
    mask = Mask({"w": keep})
    key = mask.key
    keep[0, 0] = False
    assert mask["w"].all()
    assert Mask(mask).key == key


def test_and_shares_the_tensors_that_it_does_not_change():
    keep = torch.tensor([True, False])
    mask = Mask({"a": keep, "b": keep})
    both = mask & Mask({"a": torch.ones(2, dtype=torch.bool), "b": torch.tensor([False, False])})
    assert both["a"] is mask["a"]
    assert both["b"] is not mask["b"]


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [({"w": torch.ones(2)}, "float32"), ({"w": [True, False]}, "list"), ({"w": None}, "NoneType")],
)
def test_what_is_not_bool_is_refused(tensors, kind):
    with pytest.raises(ValueError, match=rf"'w' must be a bool tensor, got .*{kind}"):
        Mask(tensors)


def test_and_refuses_other_names_and_shapes():
    a = Mask({"w": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"same names, got \['w'\] and \['v'\]"):
        a & Mask({"v": a["w"]})
    with pytest.raises(ValueError, match=r"equal shapes for 'w', got \(2,\) and \(3,\)"):
        a & Mask({"w": torch.ones(3, dtype=torch.bool)})


def test_apply_sets_removed_weights_to_zero_and_leaves_the_rest():
    model = tiny_model()
    before = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(12, 8, generator=generator) < 0.5
    assert Mask({"0.weight": keep}).apply_(model) is model
    assert torch.equal(model[0].weight[~keep], torch.zeros(int((~keep).sum())))
    assert torch.equal(model[0].weight[keep], before[0].weight[keep])
    assert torch.equal(model[2].weight, before[2].weight)
    assert torch.equal(model[0].bias, before[0].bias)
    assert model[0].weight.requires_grad


def test_apply_also_cleans_weights_that_are_not_finite():
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[torch.nan, torch.inf]]))
    Mask({"weight": torch.zeros(1, 2, dtype=torch.bool)}).apply_(model)
    assert model.weight.tolist() == [[0.0, 0.0]]


def test_unknown_names_and_wrong_shapes_are_refused_and_the_model_stays():
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    good = torch.zeros(12, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"no parameter 'fc\.weight'; it has \['0\.weight'"):
        Mask({"0.weight": good, "fc.weight": good}).apply_(model)
    with pytest.raises(ValueError, match=r"'0\.weight' must have shape \(12, 8\), got \(8, 12\)"):
        Mask({"2.weight": good[:3].repeat(1, 2)[:, :12], "0.weight": good.T}).apply_(model)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_every_truncation_of_the_bytes_is_refused():
    packed = Mask({"a": torch.ones(3, 3, dtype=torch.bool)}).to_bytes()
    for n in range(len(packed)):
        with pytest.raises(ValueError, match=r"mask: .* bytes"):
            Mask.from_bytes(packed[:n])
    with pytest.raises(ValueError, match="3 bytes of bits do not fit"):
        Mask.from_bytes(packed + b"\0")


def test_every_flipped_bit_is_told_or_changes_nothing():
    mask = Mask({"a": torch.tensor([True, False, True]), "b": torch.ones(2, 2, dtype=torch.bool)})
    packed = mask.to_bytes()
    for place in range(len(packed)):
        for bit in range(8):
            harmed = bytearray(packed)
            harmed[place] ^= 1 << bit
            told = "mask: "
            try:
                assert Mask.from_bytes(bytes(harmed)) == mask
            except ValueError as error:
                told = str(error)
            assert told.startswith("mask: ")


@pytest.mark.parametrize("form", ["format_1", "format_2"])
def test_every_format_is_read_and_a_newer_one_refused(form):
    packed = (Path(__file__).parent / "fixtures" / form / "mask.bin").read_bytes()
    mask = Mask.from_bytes(packed)
    keep = {"w": [[True, False, True], [False, True, True]], "b": [True, False]}
    assert {name: tensor.tolist() for name, tensor in mask.items()} == keep
    assert mask.key == "e5bfc2510f57e582d430335e7ad55672"
    assert Mask.from_bytes(mask.to_bytes()) == mask
    newer = mask.to_bytes().replace(b"mask 2", b"mask 3")
    with pytest.raises(ValueError, match="of a newer format, 3; .* Update prunekit"):
        Mask.from_bytes(newer)


def test_the_start_of_the_bytes_tells_their_length():
    mask = Mask({"a": torch.ones(30, 9, dtype=torch.bool), "b": torch.ones(3, dtype=torch.bool)})
    for packed in (mask.to_bytes(), mask.to_bytes().partition(b"\n")[2]):
        for n in (len(packed) - 20, len(packed)):
            assert Mask.length(packed[:n]) == len(packed)


@pytest.mark.parametrize(
    "line",
    [b"", b"[1]", b"3", b"\xff\xfe", b'{"a": 3}', b'{"a": ["b"]}', b'{"a": [1.5]}', b'{"a": [-8]}'],
)
def test_foreign_bytes_are_refused(line):
    with pytest.raises(ValueError, match="mask: "):
        Mask.from_bytes(line + b"\n\xff")


def test_the_repr_is_short_and_stable():
    mask = Mask({"w": torch.tensor([True, False, True, True])})
    assert repr(mask) == "Mask(1 tensors, 3 of 4 kept, sparsity 0.250)"


# ------------------------------------------------------------------------------------- prunable


class Mixed(nn.Module):
    """Convolution, normalisation with its own shapes, embedding, attention, and a tied head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm((4, 4))
        self.embed = nn.Embedding(7, 5)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(5, 7)
        self.head.weight = self.embed.weight


def test_prunable_are_the_matrices_outside_normalisation_and_tied_ones_once():
    names = ["conv.weight", "embed.weight", "attention.in_proj_weight", "attention.out_proj.weight"]
    assert [*prunable(Mixed())] == names
    assert [*Mask.ones(Mixed())] == names


def test_with_biases_those_beside_the_matrices_join_but_not_those_of_normalisation():
    extra = {*prunable(Mixed(), biases=True)} - {*prunable(Mixed())}
    assert extra == {
        "conv.bias", "attention.in_proj_bias", "attention.out_proj.bias", "head.bias",
    }  # fmt: skip


def test_ignore_leaves_out_what_matches():
    assert [*prunable(Mixed(), ignore=["attention.*", "conv.weight"])] == ["embed.weight"]


def test_an_ignore_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"ignore: no parameter is called 'haed\.\*'; there are"):
        prunable(tiny_model(), ignore=["haed.*"])


@pytest.mark.parametrize("model", [nn.ReLU(), nn.LayerNorm((2, 3))])
def test_a_model_without_weights_to_prune_is_refused(model):
    with pytest.raises(ValueError, match="has no weights to prune"):
        prunable(model)
    with pytest.raises(ValueError, match="Sequential: has no weights"):
        prunable(tiny_model(), ignore=["*"])


def test_every_parameter_is_told_why_it_is_in_or_out():
    model = Mixed()
    model.scale, model.turns = (
        nn.Parameter(torch.ones(4, 1, 1)),
        nn.Parameter(torch.ones(2, 2) * 1j),
    )
    told = prunable(model, biases=True, ignore=["embed.*"], why=True)
    assert [*told] == [name for name, _ in model.named_parameters()]
    chosen = [name for name, why in told.items() if why.startswith("in: ")]
    assert chosen == [*prunable(model, biases=True, ignore=["embed.*"])]
    assert all(why.startswith(("in: ", "out: ")) for why in told.values())
    assert told["conv.weight"] == "in: it is the weight of a layer, Conv2d"
    assert told["conv.bias"] == "in: it is the bias beside a matrix"
    assert told["layer_norm.weight"] == "out: it is the scale of a normalisation, LayerNorm"
    assert told["embed.weight"] == "out: it is to be ignored, 'embed.*'"
    assert told["scale"] == "out: its name says that it is a scale, a token or a table"
    assert told["turns"] == "out: its values are complex, only real ones are pruned"


def test_without_an_example_shapes_and_names_of_own_modules_decide():
    model = nn.Module()
    shapes = {"w": (3, 4), "kernel": (5, 2, 3, 3), "thin": (3, 1), "gain": (4, 1, 1), "first": (1, 4, 3),
              "relative_position_bias_table": (9, 2), "pos_embed": (9, 2), "gamma": (2, 2)}  # fmt: skip
    for name, shape in shapes.items():
        model.register_parameter(name, nn.Parameter(torch.ones(shape)))
    assert [*prunable(model)] == ["w", "kernel"]
    model.layer, model.narrow = nn.Linear(1, 3), nn.Linear(3, 1)  # here the class decides
    assert {*prunable(model)} == {"w", "kernel", "layer.weight", "narrow.weight"}
    tables = nn.ModuleDict({n: nn.Embedding(3, 4) for n in ("embed_tokens", "wpe", "positions")})
    assert [*prunable(tables)] == ["embed_tokens.weight"]


def test_with_an_example_the_products_decide():
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.at = nn.Embedding(4, 8)
            self.read = nn.Parameter(torch.ones(1, 8))

        def forward(self, x):
            return (x + self.at(torch.arange(len(x)))) @ self.read.t()

    assert [*prunable(Places())] == ["at.weight"]
    assert [*prunable(Places(), example=torch.ones(2, 8))] == ["read"]
    assert [*Mask.ones(Places(), example=torch.ones(2, 8))] == ["read"]


def test_biases_of_parametrised_layers_are_beside_their_matrices():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)),
        nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
    )
    assert [*prunable(model, biases=True)] == ["0.bias", "0.parametrizations.weight.original1"]


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (nn.utils.parametrizations.weight_norm, "parametrizations.weight.original1"),
        (nn.utils.weight_norm, "weight_v"),
    ],
)
@pytest.mark.parametrize(("dim", "row"), [(0, (1, slice(None))), (1, (slice(None), 2)), (None, ())])
def test_a_row_that_weight_norm_divides_by_the_length_of_keeps_a_weight(norm, name, dim, row):
    layer = norm(nn.Linear(4, 3), dim=dim)
    keep = torch.ones(3, 4, dtype=torch.bool)
    keep[row] = False
    with pytest.raises(ValueError, match=f"mask: place [0-2] of .* '{name}' would keep nothing"):
        Mask({name: keep}).apply_(layer)
    keep[row] = torch.arange(keep[row].numel()).view(keep[row].shape) == 0
    out = Mask({name: keep}).apply_(layer)(torch.rand(2, 4))
    assert out.isfinite().all()


def test_weights_that_are_not_there_yet_are_refused_by_name():
    with pytest.raises(ValueError, match=r"Sequential is lazy, 0\.weight is uninitialized\. Call"):
        Mask.ones(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(ValueError, match=r"0\.weight of Sequential is on the meta device"):
        prunable(tiny_model().to("meta"))


def test_where_nothing_is_left_the_reasons_are_told():
    model = nn.ParameterList([torch.ones(2, 2) * 1j, torch.ones(3, 1)])
    with pytest.raises(
        ValueError, match=r"ParameterList: .* \(0 is out: its values are complex.*1 is"
    ):
        prunable(model)


@pytest.mark.parametrize("example", [3, "word", torch.ones(3, 7), [1]])
def test_an_example_that_does_not_fit_is_refused(example):
    with pytest.raises(ValueError, match="prunable: "):
        prunable(tiny_model(), example=example)


def test_ones_keeps_everything():
    mask = Mask.ones(tiny_model(), biases=True)
    assert (mask.kept, mask.total) == (147, 147)
    mask.check(tiny_model())


def test_a_tied_weight_is_ignored_under_any_of_its_names():
    model = nn.ModuleDict({"encode": nn.Linear(4, 4), "decode": nn.Linear(4, 4)})
    model["decode"].weight = model["encode"].weight
    model["own"] = nn.Linear(4, 2)
    assert [*prunable(model, ignore=["decode.*"])] == ["own.weight"]
    assert [*prunable(model, ignore="decode.*")] == ["own.weight"]


def test_what_is_left_is_what_is_not_0_where_not_all_is():
    model = tiny_model()
    half = torch.arange(96).view(12, 8) % 2 == 0
    with torch.no_grad():
        model[0].weight.masked_fill_(half, 0)
        model[2].weight.zero_()
    left = Mask.ones(model).left(model)
    assert torch.equal(left["0.weight"], ~half)
    assert left["2.weight"].all()
