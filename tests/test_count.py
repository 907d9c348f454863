"""Counts against brute force: loops that add one for every multiplication."""

import copy
import itertools

import pytest
import torch
from networks import Computes, loop, random_network
from safetensors.torch import load_file
from tiny import tiny_images, tiny_model, tiny_residual
from torch import nn
from torch.nn.functional import linear, relu, scaled_dot_product_attention
from torch.nn.utils import parametrizations, parametrize
from torch.utils.flop_counter import FlopCounterMode

from prunekit import checkpoint, count, surgery
from prunekit.count import Macs
from prunekit.mask import Mask
from prunekit.models import build


def half(*shape, seed=0):
    """A random mask that keeps about half."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def brute_conv2d(layer, height, width, keep):
    """Multiply-adds (all, kept) of a convolution, walked output by output; padding counts."""
    out_c, in_c, kh, kw = layer.weight.shape  # in_c is that of one group
    (ph, pw), (sh, sw), (dh, dw) = layer.padding, layer.stride, layer.dilation
    rows = [r for r in range(-ph, height + ph) if r + dh * (kh - 1) < height + ph][::sh]
    columns = [c for c in range(-pw, width + pw) if c + dw * (kw - 1) < width + pw][::sw]
    everything = kept = 0
    for _ in itertools.product(rows, columns):
        for weight in itertools.product(range(out_c), range(in_c), range(kh), range(kw)):
            everything += 1
            kept += bool(keep[weight])
    return Macs(everything, kept)


@pytest.mark.parametrize(("name", "number"), [("lenet_300_100", 266_610), ("lenet_5", 431_080)])
def test_the_lenets_have_their_papers_number_of_parameters(name, number):
    assert count.params(build(name)) == number


def test_params_count_the_kept_ones_and_all_biases():
    model, mask = tiny_model(), Mask({"2.weight": half(3, 12)})
    assert count.params(model) == 12 * 8 + 12 + 3 * 12 + 3
    assert count.params(model, mask) == 147 - int((~mask["2.weight"]).sum())


def test_compression_is_over_all_parameters_biases_too():
    model = tiny_model()
    nothing = Mask({n: torch.zeros_like(k) for n, k in Mask.ones(model).items()})
    assert count.compression(model, Mask.ones(model)) == 1
    assert count.compression(model, nothing) == 147 / 15  # the 15 biases stay


def test_compression_of_a_model_of_which_nothing_is_kept_is_finite():
    model = nn.Linear(3, 2, bias=False)
    assert count.compression(model, Mask({"weight": torch.zeros(2, 3, dtype=torch.bool)})) == 6


def test_tied_parameters_count_once_but_work_twice():
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    b.weight = a.weight
    model, keep = nn.Sequential(a, b), half(4, 4)
    assert count.params(model) == 16
    assert count.macs(model, torch.zeros(1, 4), Mask({"0.weight": keep})) == Macs(
        32, 2 * int(keep.sum())
    )


def test_macs_of_linear_layers_agree_with_a_loop():
    model, mask = tiny_model(), Mask({"0.weight": half(12, 8), "2.weight": half(3, 12, seed=1)})
    kept = sum(bit for keep in mask.values() for row in keep.tolist() for bit in row)
    assert count.macs(model, torch.zeros(5, 8), mask) == Macs(12 * 8 + 3 * 12, kept)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, (3, 2), stride=2, padding=1),
        nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(0, 2), groups=2, bias=False),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4),
    ],
    ids=["plain", "strided", "grouped", "depthwise-dilated"],
)
def test_macs_of_convolutions_agree_with_a_loop(layer):
    keep = half(*layer.weight.shape)
    found = count.macs(layer, torch.zeros(2, 4, 7, 9), Mask({"weight": keep}))
    assert found == brute_conv2d(layer, 7, 9, keep)


@pytest.mark.parametrize("groups", [1, 2])
def test_macs_of_a_transposed_convolution_agree_with_a_loop(groups):
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=groups)
    keep = half(*layer.weight.shape)  # (4, 6 / groups, 3, 3)
    everything = kept = 0
    for _ in itertools.product(range(5), range(6)):  # every input pixel meets every weight
        for weight in itertools.product(*map(range, layer.weight.shape)):
            everything += 1
            kept += bool(keep[weight])
    assert count.macs(layer, torch.zeros(1, 4, 5, 6), Mask({"weight": keep})) == Macs(
        everything, kept
    )


class Transposed(nn.Module):
    """Uses one weight as it is and turned around, as an autoencoder with tied weights does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))

    def forward(self, x):  # (n, 5)
        return linear(linear(x, self.weight), self.weight.t()) + (x @ self.weight.t()) @ self.weight


def test_a_weight_is_recognised_also_when_transposed():
    keep = half(3, 5)
    found = count.macs(Transposed(), torch.zeros(2, 5), Mask({"weight": keep}))
    assert found == Macs(4 * 15, 4 * int(keep.sum()))


class SelfAttention(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.inner, self.fused = nn.MultiheadAttention(8, 2, batch_first=True), fused

    def forward(self, x):
        return self.inner(x, x, x, need_weights=not self.fused)[0]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_attention_counts_projections_and_both_products(fused, frozen):
    length, width = 5, 8
    model = SelfAttention(fused).requires_grad_(not frozen)
    mask = Mask({"inner.in_proj_weight": half(3 * width, width)})
    found = count.macs(model, torch.zeros(2, length, width), mask)
    projections = length * width * (3 * width)  # query, key and value
    products = 2 * length * length * width  # query × key, attention × value; heads share the width
    out = length * width * width
    assert found.dense == projections + products + out
    assert found.sparse == length * mask.kept + products + out


@pytest.mark.parametrize("heads", [(), (2,)])
def test_attention_written_out_by_hand_counts_the_same(heads):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return scaled_dot_product_attention(x * self.scale, x, x)

    x = torch.zeros(1, *heads, 5, 4)
    assert count.macs(Plain(), x).dense == 2 * (heads or (1,))[0] * 5 * 5 * 4


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers_count_every_time_step(kind, gates):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = kind(3, 6, batch_first=True)

        def forward(self, x):
            return self.cells(x)[0]

    assert count.macs(Last(), torch.zeros(2, 7, 3)).dense == 7 * gates * 6 * (3 + 6)


def test_dense_counts_are_half_of_torchs_flops():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 12 * 12, 10),
    )  # fmt: skip
    x = torch.randn(1, 1, 28, 28, generator=generator)
    with FlopCounterMode(display=False) as oracle:
        model.eval()(x)
    assert 2 * count.macs(model, x).dense == oracle.get_total_flops() > 0


def test_the_lenets_cost_what_their_layers_say():
    x = torch.zeros(1, 1, 28, 28)
    fully = 784 * 300 + 300 * 100 + 100 * 10
    assert count.macs(build("lenet_300_100"), x).dense == fully == 266_200
    convolutions = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25
    assert count.macs(build("lenet_5"), x).dense == convolutions + 800 * 500 + 500 * 10


def test_only_the_first_example_is_counted_and_unmasked_is_dense():
    model = tiny_model()
    assert count.macs(model, torch.zeros(9, 8)) == Macs(132, 132)


def test_counting_leaves_the_model_and_the_settings_alone():
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[0].eval()
    switches = (
        torch.backends.mha.get_fastpath_enabled,
        torch._C._get_mkldnn_enabled,
        torch.backends.cuda.flash_sdp_enabled,
        torch.is_grad_enabled,
        lambda: torch.get_rng_state().tolist(),
    )
    before = [switch() for switch in switches]
    count.macs(model, torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    assert [m.training for m in model.modules()] == [True, False, True, True]
    assert [switch() for switch in switches] == before
    assert int(model[1].num_batches_tracked) == 0
    with pytest.raises(ValueError, match=r"macs: .*Sequential cannot be counted.*\(1x7 and 8x4\)"):
        count.macs(model, torch.zeros(3, 7))  # does not fit
    assert [m.training for m in model.modules()] == [True, False, True, True]
    assert [switch() for switch in switches] == before


def test_a_product_with_a_vector_counts():
    class Readout(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(5, 7))

        def forward(self, x):
            return self.weight @ x[0]

    mask = Mask({"weight": torch.rand(5, 7) < 0.5})
    assert count.macs(Readout(), torch.rand(1, 7), mask) == count.Macs(35, mask.kept)


# --------------------------------------------------- weights that are worked out in the forward pass


class Of(nn.Module):
    """A linear layer (6 -> 4) whose weight is `work_out` of its parameters."""

    def __init__(self, work_out, *shapes):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.p = nn.ParameterList([torch.randn(shape, generator=g) for shape in shapes])
        self.work_out = work_out
        self.weight = None

    def forward(self, x):
        self.weight = self.work_out(*self.p)
        return linear(x.to(self.weight.dtype), self.weight)


def assembled(a, b):
    """Written part by part into an empty weight."""
    w = torch.zeros(4, 6)
    w[:2] = a
    w[2:].copy_(b)
    return w.mul_(3)


WORKED_OUT = {
    "scaled": (lambda w: torch.tensor(2.0) * w, (4, 6)),
    "cast": (lambda w: w.bfloat16(), (4, 6)),
    "transposed copy": (lambda w: w.t().contiguous(), (6, 4)),
    "flat": (lambda w: w.view(6, 4).permute(1, 0).reshape(4, 6), (24,)),
    "part": (lambda w: w[1:5, ::2] / 7, (6, 12)),
    "joined": (lambda a, b: torch.cat([a, b]), (1, 6), (3, 6)),
    "stacked": (lambda a, b: torch.stack([a, b], 1).flatten(0, 1), (2, 6), (2, 6)),
    "in parts": (assembled, (2, 6), (2, 6)),
    "symmetric": (lambda w: torch.cat([w.triu() + w.triu(1).t(), w], 1)[:4, :6], (4, 4)),
    "gated": (lambda w, gate: w * torch.sigmoid(gate), (4, 6), (4, 1)),
    "factors": (lambda w, other: w * other, (4, 6), (4, 6)),
    "sum": (lambda w, other: w + other, (4, 6), (4, 6)),
    "normed": (lambda w: w / w.norm(dim=1, keepdim=True), (4, 6)),
    "centred": (lambda w: w - w.mean(), (4, 6)),
    "adapted": (lambda w, a, b: w + a @ b, (4, 6), (4, 2), (2, 6)),
    "divided by a product": (lambda w, u: w / (w @ u).sum(), (4, 6), (6,)),
    "index": (lambda w: w[torch.tensor([3, 0, 0, 1])], (4, 6)),
    "in place": (lambda w: w.clone().mul_(2).clamp_(-1, 1), (4, 6)),
}


@pytest.mark.parametrize(
    ("work_out", "shapes"), [(f, s) for f, *s in WORKED_OUT.values()], ids=WORKED_OUT
)
@pytest.mark.parametrize("applied", [False, True])
def test_a_weight_that_is_worked_out_counts_its_own_zeros(work_out, shapes, applied):
    model = Of(work_out, *shapes)
    mask = Mask({f"p.{i}": half(*shape, seed=i) for i, shape in enumerate(shapes)})
    cut = mask.apply_(copy.deepcopy(model))
    x = torch.ones(1, 6)
    cut(x)
    kept = int(cut.weight.count_nonzero())
    found = count.macs(cut if applied else model, x, mask)
    others = found.dense - 24  # a product that the weight itself is worked out with
    assert 0 < kept <= 24
    assert kept <= found.sparse <= kept + others


@pytest.mark.parametrize(
    "norm",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils:FutureWarning")
def test_a_normed_convolution_agrees_with_a_loop(norm):
    layer = norm(nn.Conv2d(4, 6, 3, stride=2, padding=1))
    (name,) = [name for name, p in layer.named_parameters() if p.shape == (6, 4, 3, 3)]
    keep = half(6, 4, 3, 3)
    dense = count.macs(layer, torch.zeros(1, 4, 7, 9)).dense
    found = count.macs(layer, torch.zeros(1, 4, 7, 9), Mask({name: keep}))
    own, kept = (lambda macs: (macs.dense, macs.sparse))(brute_conv2d(layer, 7, 9, keep))
    assert found.dense == dense >= own
    # Spectral normalisation multiplies the matrix (6, 36) with a vector, and two vectors of 6.
    assert (dense - own, found.sparse - kept) in ((0, 0), (6 * 36 + 6, int(keep.sum()) + 6))


def test_a_parametrised_layer_costs_its_kept_share():
    class Twice(nn.Module):
        def forward(self, w):
            return 2 * w

    model = tiny_model()
    parametrize.register_parametrization(model[0], "weight", Twice())
    mask = Mask({"0.parametrizations.weight.original": half(12, 8), "2.weight": half(3, 12)})
    assert count.macs(model, torch.zeros(1, 8), mask) == Macs(132, mask.kept)


def test_under_autocast_the_cast_weights_cost_their_kept_share():
    model, mask = tiny_model(), Mask({"0.weight": half(12, 8), "2.weight": half(3, 12)})
    with torch.autocast("cpu", torch.bfloat16):
        assert count.macs(model, torch.zeros(1, 8), mask) == Macs(132, mask.kept)


def test_parameters_in_one_memory_have_each_their_own_density():
    model, flat = tiny_model(), torch.zeros(147)  # kept weights that are 0 are kept
    for p, part in zip(model.parameters(), flat.split([96, 12, 36, 3]), strict=True):
        p.data = part.view(p.shape)
    for names in (["0.weight"], ["2.weight"], ["0.weight", "2.weight"]):
        shapes = {"0.weight": (12, 8), "2.weight": (3, 12)}
        mask = Mask({name: half(*shapes[name], seed=len(name)) for name in names})
        removed = sum(int((~keep).sum()) for keep in mask.values())
        assert count.macs(model, torch.zeros(1, 8), mask) == Macs(132, 132 - removed)


def test_a_part_of_a_parameter_has_the_density_of_that_part():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 4, 6))

        def forward(self, x):
            return linear(x, self.weight[1])

    keep = half(3, 4, 6)
    found = count.macs(Heads(), torch.zeros(1, 6), Mask({"weight": keep}))
    assert found == Macs(24, int(keep[1].sum()))


@pytest.mark.parametrize("seed", range(3))
def test_of_two_masked_parameters_multiplied_those_products_count_that_both_keep(seed):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(3, 5)), nn.Parameter(torch.ones(5, 4))

        def forward(self, x):
            return self.a @ self.b + x

    a, b = half(3, 5, seed=seed), half(5, 4, seed=seed + 1)
    kept = sum(bool(a[i, k] and b[k, j]) for i in range(3) for k in range(5) for j in range(4))
    assert count.macs(Both(), torch.zeros(1, 1), Mask({"a": a, "b": b})) == Macs(60, kept)


def test_zeros_that_are_no_weights_are_no_removed_ones():
    class Queries(nn.Module):
        """Products of learned queries that have met no input yet, and of a memory of the input."""

        def __init__(self):
            super().__init__()
            self.queries = nn.Parameter(torch.zeros(2, 6))
            self.first = nn.Parameter(-torch.ones(6, 6))
            self.last = nn.Parameter(torch.ones(6, 4))

        def forward(self, x):
            hidden = relu((self.queries + 1) @ self.first)  # all 0
            stored = torch.zeros(2, 6)
            stored[:1] = relu(-x)  # all 0
            return (hidden + stored) @ self.last + stored @ self.last

    model = Queries()
    mask = Mask({"first": half(6, 6), "last": half(6, 4)})
    expected = 2 * int(mask["first"].sum()) + 2 * 2 * int(mask["last"].sum())
    assert count.macs(model, torch.ones(1, 6), mask) == Macs(72 + 96, expected)
    nothing = Mask({name: torch.ones_like(keep) for name, keep in mask.items()})
    assert count.macs(model, torch.ones(1, 6), nothing) == Macs(168, 168)


def test_a_summand_is_no_factor():
    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift, self.weight = (nn.Parameter(torch.ones(n, 4)) for n in (1, 6))

        def forward(self, x):
            return torch.addmm(self.shift, x, self.weight)

    mask = Mask({"shift": torch.zeros(1, 4, dtype=torch.bool), "weight": half(6, 4)})
    found = count.macs(Added(), torch.zeros(1, 6), mask)
    assert found == Macs(24, int(mask["weight"].sum()))


def test_counting_does_not_write_into_the_weights():
    model = Of(assembled, (2, 6), (2, 6))
    before = copy.deepcopy(model.state_dict())
    count.macs(model, torch.ones(1, 6), Mask({"p.0": half(2, 6), "p.1": half(2, 6)}))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(torch.ones(1, 6))
    assert torch.equal(model.weight, assembled(*model.p))


def test_inference_mode_counts_the_same():
    model, mask = tiny_model(), Mask({"0.weight": half(12, 8)})
    with torch.inference_mode():
        inside = count.macs(model, torch.zeros(1, 8), mask)
        assert torch.is_inference_mode_enabled()
    assert inside == count.macs(model, torch.zeros(1, 8), mask) == Macs(132, 36 + mask.kept)


def test_a_mask_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"has no parameter '9\.weight'"):
        count.macs(tiny_model(), torch.zeros(1, 8), Mask({"9.weight": half(12, 8)}))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_of_width_0_costs_nothing():
    model = nn.Sequential(nn.Linear(8, 0), nn.Linear(0, 3), nn.Linear(3, 2))
    mask = Mask({"0.weight": half(0, 8), "1.weight": half(3, 0), "2.weight": half(2, 3)})
    found = count.macs(model, torch.zeros(1, 8), mask)
    assert found == Macs(6, int(mask["2.weight"].sum()))


# ------------------------------------------------------------------- every product, however written


def inside_inference(x, w):
    with torch.inference_mode():
        return linear(x, w)


# Of x (2, 8) and a matrix (3, 8): for one example 24 multiply-adds, with every element once.
WRITTEN = {
    "linear": linear,
    "in inference mode": inside_inference,
    "dot": lambda x, w: torch.stack([torch.dot(x[0], row) for row in w])[None],
    "vdot": lambda x, w: torch.stack([torch.vdot(x[0], row) for row in w])[None],
    "inner": torch.inner,
    "vecdot": lambda x, w: torch.linalg.vecdot(x[:, None], w),
    "einsum": lambda x, w: torch.einsum("bi,oi->bo", x, w),
    "tensordot": lambda x, w: torch.tensordot(x, w, dims=([1], [1])),
    "mv": lambda x, w: torch.mv(w, x[0])[None],
    "addmv": lambda x, w: torch.addmv(torch.zeros(3), w, x[0])[None],
    "addmm": lambda x, w: torch.addmm(torch.zeros(3), x, w.t()),
    "addmm in place": lambda x, w: torch.zeros(len(x), 3).addmm_(x, w.t()),
    "addbmm": lambda x, w: torch.addbmm(torch.zeros(1, 3), x[None], w.t()[None]),
    "baddbmm": lambda x, w: torch.baddbmm(torch.zeros(1, 1, 3), x[None], w.t()[None]),
    "multiplied and summed": lambda x, w: (x[:, None] * w).sum(-1),
    "multiplied and averaged": lambda x, w: (x[:, None] * w).mean(-1),
    "the other way around": lambda x, w: (w.t() * x[:, :, None]).sum(1),
    "conv1d": lambda x, w: nn.functional.conv1d(x[:, :, None], w[:, :, None]),
    "conv_tbc": lambda x, w: torch.conv_tbc(x[None], w.t()[None], torch.zeros(3)),
}


@pytest.mark.parametrize("act", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("inference", [False, True])
def test_a_product_counts_however_it_is_written(act, inference):
    mask = Mask({"p.0": half(3, 8)})
    with torch.inference_mode(inference):
        assert count.macs(Computes(act, (3, 8)), torch.ones(2, 8), mask) == Macs(24, mask.kept)


class Graph(nn.Module):
    """A linear layer at each of six nodes, whose values are then added up over their neighbours."""

    def __init__(self, add, neighbours):
        super().__init__()
        self.at, self.add = nn.Linear(8, 3), add
        self.register_buffer("neighbours", neighbours)

    def forward(self, x):
        return self.add(self.neighbours, self.at(x)[0])[None]


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("add", [torch.mm, torch.sparse.mm, torch.matmul])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_matrix_costs_what_it_stores(add, layout):
    neighbours = torch.eye(6) + torch.eye(6).roll(1, 0)
    model = Graph(add, neighbours.to_sparse(layout=layout))
    mask = Mask({"at.weight": half(3, 8)})
    found = count.macs(model, torch.ones(2, 6, 8), mask)
    assert found == Macs(6 * 24 + 12 * 3, 6 * mask.kept + 12 * 3)


def test_in_double_precision_by_default_the_same():
    torch.set_default_dtype(torch.float64)
    try:
        mask = Mask({"p.0": half(3, 8)})
        assert count.macs(Computes(linear, (3, 8)), torch.ones(2, 8), mask) == Macs(24, mask.kept)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_bilinear_layer_meets_each_of_its_weights_once():
    mask = Mask({"p.0": half(3, 8, 8)})
    found = count.macs(Computes(lambda x, w: nn.functional.bilinear(x, x, w), (3, 8, 8)),
                       torch.ones(2, 8), mask)  # fmt: skip
    assert found == Macs(192, mask.kept)


@pytest.mark.parametrize("act", [
    lambda x, gain: (x * gain).relu(),
    lambda x, gain: (x[:, :, None] * gain[:, None]).sum(2),  # sums over copies of the same weight
    lambda x, gain: (x * x).sum() * gain,
])  # fmt: skip
def test_gains_and_squared_norms_are_no_products(act):
    assert count.macs(Computes(act, (8,)), torch.ones(2, 8)) == Macs(0, 0)


@pytest.mark.parametrize("act", [
    lambda x, a, b: a @ b.t() + x.sum(),
    lambda x, a, b: torch.stack([torch.dot(p, q) for p in a for q in b]) + x.sum(),
    lambda x, a, b: torch.stack([torch.mv(a, q) for q in b]) + x.sum(),
    lambda x, a, b: (a[:, None] * b[None]).sum(-1) + x.sum(),
    lambda x, a, b: torch.bmm(a[None], b.t()[None]) + x.sum(),
])  # fmt: skip
def test_of_two_masked_factors_those_count_that_both_keep(act):
    a, b = half(3, 5), half(4, 5, seed=1)
    kept = sum(bool(a[i, k] and b[j, k]) for i in range(3) for j in range(4) for k in range(5))
    found = count.macs(Computes(act, (3, 5), (4, 5)), torch.ones(1, 2), Mask({"p.0": a, "p.1": b}))
    assert found == Macs(60, kept)


@pytest.mark.parametrize(
    "settings", [{}, {"proj_size": 2}, {"num_layers": 2, "bidirectional": True}]
)
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("cast", ["no", "autocast", "half"])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_fused_lstm_meets_each_of_its_weights_once_a_step(settings, flat, cast):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = nn.LSTM(3, 5, batch_first=True, **settings)

        def forward(self, x):
            return self.cells(x)[0]

    model, x = Last(), torch.ones(2, 7, 3)
    if flat:  # as on a GPU: all parameters in one memory
        parts = [p.detach().flatten() for p in model.parameters()]
        for p, part in zip(
            model.parameters(), torch.cat(parts).split([len(a) for a in parts]), strict=True
        ):
            p.data = part.view(p.shape)
    if cast == "half":
        model, x = model.bfloat16(), x.bfloat16()
    keeps = {n: half(*p.shape, seed=p.numel()) for n, p in model.named_parameters() if p.ndim > 1}
    with torch.autocast("cpu", torch.bfloat16, enabled=cast == "autocast"):
        try:
            with torch.no_grad():
                model(x)
        except RuntimeError:  # PyTorch has no bfloat16 LSTM for this processor
            with pytest.raises(ValueError, match="primitive descriptor for the LSTM"):
                count.macs(model, x, Mask(keeps))
            return
        found = count.macs(model, x, Mask(keeps))
    assert found == Macs(7 * Mask(keeps).total, 7 * Mask(keeps).kept)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_fused_encoder_counts_what_its_parts_do(grad):
    class Encodes(nn.Module):
        def __init__(self, padded):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.inner, self.padded = nn.TransformerEncoder(layer, 2), padded

        def forward(self, x):
            pad = torch.tensor([[False] * 3 + [True] * 2]) if self.padded else None
            return self.inner(x, src_key_padding_mask=pad)

    model, x = Encodes(False).requires_grad_(grad), torch.ones(1, 5, 8)
    mask = Mask({n: half(*p.shape, seed=i) for i, (n, p) in enumerate(model.named_parameters())
                 if p.ndim > 1})  # fmt: skip
    attention = 2 * 2 * 8  # two layers, two products
    assert count.macs(model, x, mask) == Macs(
        5 * mask.total + attention * 25, 5 * mask.kept + attention * 25
    )
    padded = Encodes(True).eval()  # of which three tokens are there
    assert count.macs(padded, x, mask) == Macs(
        3 * mask.total + attention * 9, 3 * mask.kept + attention * 9
    )


def test_a_weight_that_was_cast_before_is_known_again():
    model, mask, x = tiny_model(), Mask({"0.weight": half(12, 8)}), torch.zeros(1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
        assert count.macs(model, x, mask) == Macs(132, 36 + mask.kept)
        assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize("seed", range(60))
def test_on_random_networks_the_counts_are_those_of_a_loop_over_the_layers(seed):
    model, x = random_network(seed)
    keeps = {name: half(*p.shape, seed=i) for i, (name, p) in enumerate(model.named_parameters())
             if p.ndim > 1 and not name.endswith("original0")}  # fmt: skip
    for keep in keeps.values():
        keep[:, 0] = True  # a row without a weight has no norm
    found = count.macs(model, x, Mask(keeps))
    assert (found.dense, found.sparse) == loop(model, x, keeps)
    if not any(isinstance(m, (nn.LSTM, nn.MultiheadAttention)) for m in model.modules()):
        with FlopCounterMode(display=False) as oracle:
            model(x[:1])
        assert 2 * found.dense == oracle.get_total_flops() > 0


def test_no_switch_of_the_process_is_touched_while_counting():
    seen = []

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
            self.cells = nn.LSTM(8, 4)

        def forward(self, x):
            seen.append((
                torch.backends.mha.get_fastpath_enabled(),
                torch._C._get_mkldnn_enabled(),
                torch.backends.cudnn.enabled,
                torch.backends.cuda.flash_sdp_enabled(),
                torch.backends.cuda.mem_efficient_sdp_enabled(),
                torch.backends.cuda.cudnn_sdp_enabled(),
                torch.backends.cuda.math_sdp_enabled(),
            ))  # fmt: skip
            return self.cells(self.inner(x, x, x)[0])[0]

    model, x = Looks().eval(), torch.ones(2, 5, 8)
    model(x)
    found = count.macs(model, x)
    assert seen[0] == seen[1]
    assert found.dense == 5 * (4 * 8 * 8) + 2 * 25 * 8 + 5 * 16 * (8 + 4)


def test_dropout_that_stays_on_draws_from_a_seed_of_its_own():
    model = Computes(lambda x, w: linear(nn.functional.dropout(x, 0.5), w), (3, 8))
    before = torch.get_rng_state()
    assert count.macs(model, torch.ones(2, 8)) == Macs(24, 24)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_parameters_costs_its_products():
    assert count.macs(nn.ReLU(), torch.ones(2, 8)) == Macs(0, 0)


@pytest.mark.parametrize("x", [3, "word", torch.tensor(1.0), torch.ones(0, 8), [1, 2], {}])
def test_what_is_no_batch_is_refused(x):
    with pytest.raises(ValueError, match="macs: the example must be a batch"):
        count.macs(tiny_model(), x)


# ------------------------------------------------------------------------------------ bytes, time


def cut():
    model, x = tiny_residual().eval(), tiny_images().example
    keep = torch.ones(model.conv2.weight.shape, dtype=torch.bool)
    keep[:2] = False
    return model, Mask({"conv2.weight": keep}), x


def test_bytes_are_those_of_the_tensors_and_packed_those_that_a_file_holds(tmp_path):
    model, mask, x = cut()
    coupled = surgery.couple(model, mask, x)
    coupled.apply_(model)
    floats = sum(a.numel() * a.element_size() for a in model.state_dict().values())
    assert count.size(model) == floats
    path = checkpoint.save(tmp_path / "m", model, {}, mask=coupled)
    assert count.size(model, coupled) == sum(a.nbytes for a in load_file(path).values())


def test_the_faster_of_two_networks_takes_less_time_and_settings_stay():
    wide, narrow = (nn.Sequential(nn.Linear(64, n), nn.Linear(n, 8)).train() for n in (8192, 8))
    threads = torch.get_num_threads()
    told = count.latency({"wide": wide, "narrow": narrow}, torch.rand(64, 64), seconds=0.3)
    assert told["narrow"].median < told["wide"].median
    for each in told.values():
        assert 0 < each.low <= each.median <= each.high
        assert each.runs >= 5
        assert (each.batch, each.threads) == (64, 1)
    assert torch.get_num_threads() == threads
    assert wide.training
    with pytest.raises(ValueError, match="latency: there must be at least one model"):
        count.latency({}, torch.rand(2, 3))
    with pytest.raises(ValueError, match="latency: the example must be a batch"):
        count.latency({"wide": wide}, torch.tensor(1.0))


class Attends(nn.Module):
    """Each place looks at all others: two products of activations."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(3, 6, 1) for _ in range(3))
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        q, k, v = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (q.transpose(1, 2) @ k).softmax(-1)  # (n, places, places)
        return self.out((v @ weights.transpose(1, 2)).view(len(x), -1, *x.shape[2:]))


def test_a_product_of_activations_costs_what_is_left_of_it():
    model, x = Attends(), torch.rand(2, 3, 4, 4)
    keep = torch.zeros(6, 3, 1, 1, dtype=torch.bool)
    keep[:2] = True
    mask = surgery.couple(model, Mask({"value.weight": keep}), x)
    places, weights = 16, 2 * 18 + 6 + 4
    found = count.macs(model, x, mask)
    assert found.sparse == count.macs(surgery.shrink(model, mask, x), x).dense
    assert found.sparse == places * weights + places * places * (6 + 2)
    assert found.dense == places * (3 * 18 + 12) + places * places * 12
    single = Mask({"value.weight": torch.rand(keep.shape) < 0.5})  # no filter goes
    left = count.macs(model, x, single)
    assert left.dense - left.sparse == places * int((~single["value.weight"]).sum())


def test_where_a_size_is_written_in_forward_the_products_count_as_they_are():
    class Written(Attends):
        def forward(self, x):
            return super().forward(x).view(-1, 2, 16).sum(2) + self.value(x).view(-1, 96).sum()

    model, x = Written(), torch.rand(2, 3, 4, 4)
    keep = torch.zeros(6, 3, 1, 1, dtype=torch.bool)
    keep[:2] = True
    mask = Mask({"value.weight": keep, "value.bias": keep.flatten(1).any(1)})
    found = count.macs(model, x, mask)
    assert found.dense - found.sparse == 2 * 16 * 12  # it is used twice


def test_zeros_that_are_left_in_the_smaller_network_are_told():
    model, mask, x = cut()
    coupled = surgery.couple(model, mask, x)
    generator = torch.Generator().manual_seed(0)
    thin = Mask({n: k & (torch.rand(k.shape, generator=generator) < 0.5) if k.ndim > 1 else k
                 for n, k in coupled.items()})  # fmt: skip
    told = count.costs(model, thin, x, seconds=0.05).rows
    small = surgery.shrink(model, thin, x, partial=True)
    assert told["shrunk"]["zeros"] == sum(
        int((p == 0).sum()) for p in small.parameters() if p.ndim > 1
    )
    assert told["shrunk"]["sparse"] == told["masked"]["sparse"] < told["shrunk"]["macs"]
    assert told["shrunk"]["packed"] < told["shrunk"]["bytes"]


def test_costs_say_what_the_zeros_cost_and_what_cutting_saves():
    model, mask, x = cut()
    coupled = surgery.couple(model, mask, x)
    told = count.costs(model, coupled, x, seconds=0.05)
    dense, masked, shrunk = (told.rows[name] for name in ("dense", "masked", "shrunk"))
    assert masked["params"] == dense["params"]
    assert masked["macs"] == dense["macs"]
    assert masked["bytes"] == dense["bytes"]  # that is why a masked network is no smaller
    assert masked["params"] - masked["zeros"] == shrunk["params"]
    assert masked["sparse"] == shrunk["macs"] == shrunk["sparse"]
    assert shrunk["bytes"] < masked["packed"] < dense["bytes"]
    for text in (str(told), told._repr_html_()):
        assert f"{shrunk['macs']:,}" in text
        assert " ms (" in text
