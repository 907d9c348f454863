"""What feeds products: verdicts on parameters by class, by parametrisation and by a watched pass."""

import copy
import gc
import weakref

import pytest
import torch
from networks import Computes, Twice, random_network
from tiny import tiny_model, tiny_residual
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from prunekit._torchvision import torchvision
from prunekit.models import MODELS, build
from prunekit.products import verdicts, watch


def feeding(model, example=None):
    """The names of what feeds a product."""
    return [name for name, verdict in verdicts(model, example).items() if verdict.feeds]


# Of x (2, 8): what is computed, the shapes of the parameters, which of them feed a product.
USES = {
    "a product": (F.linear, [(4, 8)], [0]),
    "dot products by hand": (lambda x, w: (x[:, None] * w).sum(-1), [(4, 8)], [0]),
    "one row": (F.linear, [(1, 8)], [0]),
    "two factors": (lambda x, a, b: x @ a @ b, [(8, 2), (2, 8)], [0, 1]),
    "joined": (lambda x, a, b: F.linear(x, torch.cat([a, b])), [(4, 8), (2, 8)], [0, 1]),
    "cast and turned": (
        lambda x, w: x.bfloat16() @ w.bfloat16().t().contiguous(), [(4, 8)], [0]
    ),
    "a part": (lambda x, w: F.linear(x, w[1]), [(3, 4, 8)], [0]),
    "scaled": (lambda x, w, s: F.linear(x, w * s), [(4, 8), (4, 1)], [0]),
    "gated": (lambda x, w, s: F.linear(x, w * torch.sigmoid(s)), [(4, 8), (4, 8)], [0]),
    "scaled one by one": (lambda x, w, s: F.linear(x, w * s), [(4, 8), (4, 8)], [0]),
    "written in place": (lambda x, w: F.linear(x, w.clone().mul_(2)), [(4, 8)], [0]),
    "masked": (lambda x, w: F.linear(x, w * torch.ones(8, 8).tril()), [(8, 8)], [0]),
    "dropped in training": (lambda x, w: F.linear(x, F.dropout(w, training=False)), [(4, 8)], [0]),
    "in inference mode": (torch.inference_mode()(F.linear), [(4, 8)], [0]),
    "looked up": (lambda x, w: w[(x[:, 0] > 0).long()], [(2, 8)], [0]),
    # Zeros in these are none in what the input is multiplied with.
    "summed": (lambda x, a, b: F.linear(x, a + b), [(4, 8), (4, 8)], []),
    "adapted": (lambda x, w, a, b: F.linear(x, w + a @ b), [(4, 8), (4, 2), (2, 8)], []),
    "adapted in place": (
        lambda x, w, a, b: F.linear(x, w.clone().addmm_(a, b)), [(4, 8), (4, 2), (2, 8)], []
    ),
    "multiplied before": (lambda x, a, b: x @ (a @ b), [(8, 2), (2, 8)], []),
    "turned by a constant": (
        lambda x, w: F.linear(x, torch.ones(4, 4).triu() @ w), [(4, 8)], []
    ),
    "centred": (lambda x, w: F.linear(x, w - w.mean()), [(4, 8)], []),
    "symmetric": (lambda x, w: F.linear(x, w.triu() + w.triu(1).t()), [(8, 8)], []),
    "drawn around": (
        lambda x, w, s: F.linear(x, w + s * torch.randn_like(s)), [(4, 8), (4, 8)], []
    ),
    # These are no factors of a product.
    "a gain": (lambda x, s: x[:, :, None] * s, [(8, 4)], []),
    "a summand": (lambda x, t: x[:, :, None] + t, [(8, 4)], []),
    "a token": (lambda x, t: torch.cat([t, x]), [(3, 8)], []),
    "a table of places": (lambda x, t: x + t[torch.arange(len(x))], [(6, 8)], []),
    "a distance": (torch.cdist, [(4, 8)], []),
}  # fmt: skip


@pytest.mark.parametrize(("act", "shapes", "fed"), USES.values(), ids=USES)
def test_a_pass_shows_what_feeds_a_product_with_its_zeros(act, shapes, fed):
    model = Computes(act, *shapes)
    assert feeding(model, torch.randn(2, 8)) == [f"p.{i}" for i in fed]


@pytest.mark.parametrize(("act", "shapes", "fed"), USES.values(), ids=USES)
def test_zeros_that_were_there_do_not_matter(act, shapes, fed):
    model = Computes(act, *shapes)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert feeding(model, torch.randn(2, 8)) == [f"p.{i}" for i in fed]


def test_a_table_whose_rows_are_scaled_in_place_feeds_a_product():
    table = nn.Embedding(10, 4, max_norm=1.0)
    assert feeding(table, torch.randint(10, (2, 3))) == ["weight"]


def test_what_cannot_be_worked_out_again_is_no_trouble():
    class Solves(nn.Module):
        """The inverse of a matrix, which it has no more where a row is 0."""

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.eye(8) + 1)

        def forward(self, x):
            return x @ torch.linalg.inv(torch.linalg.cholesky(self.w))

    assert feeding(Solves(), torch.randn(2, 8)) == []


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).T


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("by", torch.linalg.qr(torch.randn(8, 8))[0])

    def forward(self, w):
        return self.by @ w


def registered(parametrization):
    layer = nn.Linear(8, 8)
    parametrize.register_parametrization(layer, "weight", parametrization)
    return layer


def orthogonal(how):
    return lambda: parametrizations.orthogonal(nn.Linear(8, 8), orthogonal_map=how)


def pruned():
    return prune.random_unstructured(nn.Linear(8, 8), "weight", 0.5)


ORIGINAL = "parametrizations.weight.original"


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(("make", "names"), [
    (lambda: registered(Twice()), [ORIGINAL]),
    (lambda: parametrizations.weight_norm(nn.Linear(8, 8)), [ORIGINAL + "1"]),
    (lambda: parametrizations.spectral_norm(nn.Linear(8, 8)), [ORIGINAL]),
    (lambda: nn.utils.weight_norm(nn.Linear(8, 8)), ["weight_v"]),
    (lambda: nn.utils.spectral_norm(nn.Linear(8, 8)), ["weight_orig"]),
    (pruned, ["weight_orig"]),
    (lambda: registered(Symmetric()), []),
    (lambda: registered(Turned()), []),
    (orthogonal("matrix_exp"), []),
    (orthogonal("cayley"), []),
    (orthogonal("householder"), []),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:`torch.nn.utils:FutureWarning")
def test_a_parametrised_weight_feeds_a_product_if_its_zeros_come_through(make, names, watched):
    assert feeding(make(), torch.randn(2, 8) if watched else None) == names


class Sentences(nn.Module):
    """Tokens and places, attention by learned queries too, a tied head, a head for training."""

    def __init__(self):
        super().__init__()
        self.words, self.spot = nn.Embedding(10, 8), nn.Embedding(6, 8)
        self.queries = nn.Parameter(torch.randn(3, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.reads = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.words.weight
        self.aside = nn.Linear(8, 2)

    def forward(self, tokens):  # (n, length)
        h = self.layer(self.words(tokens) + self.spot(torch.arange(tokens.shape[1])))
        h = self.reads(self.queries.expand(len(h), -1, -1), h, h)[0]
        return (self.head(h), self.aside(h)) if self.training else self.head(h)


@pytest.mark.parametrize("grad", [False, True])
def test_places_and_learned_queries_are_inputs_and_no_weights(grad):
    model = Sentences().requires_grad_(grad)
    found = verdicts(model, torch.randint(10, (2, 5)))
    every = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert {n for n, v in found.items() if v.feeds} == every - {"spot.weight", "queries"}
    assert "goes into embedding" in found["spot.weight"].why
    assert found["queries"].why == "it is a learned input, multiplied with reads.in_proj_weight"
    assert found["aside.weight"].why == "it is the weight of a layer, Linear"  # not in this pass


def test_a_flat_memory_is_seen_through():
    model = tiny_model()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    for p, part in zip(model.parameters(), flat.split([96, 12, 36, 3]), strict=True):
        p.data = part.view(p.shape)
    assert feeding(model, torch.randn(2, 8)) == ["0.weight", "2.weight"]
    parametrize.register_parametrization(model[0], "weight", Twice(), unsafe=True)
    assert len(feeding(model, torch.randn(2, 8))) == 2


@pytest.mark.parametrize("seed", range(20))
def test_on_random_networks_class_and_pass_agree(seed):
    model, x = random_network(seed)
    matrices = [
        n for n, p in model.named_parameters() if p.ndim > 1 and not n.endswith("original0")
    ]
    assert feeding(model) == feeding(model, x) == matrices


@pytest.mark.parametrize("name", MODELS)
def test_in_the_courses_networks_it_is_every_matrix(name):
    model = build(name)
    matrices = [n for n, p in model.named_parameters() if p.ndim > 1]
    grey = max(p.shape[1] for p in [model.get_parameter(matrices[0])]) in (1, 784)
    x = torch.zeros(1, 1, 28, 28) if grey else torch.zeros(1, 3, 32, 32)
    assert feeding(model) == feeding(model, x) == matrices


@pytest.mark.parametrize(("name", "size", "left_out"), [
    ("resnet18", 32, ()),
    ("convnext_tiny", 32, ("layer_scale",)),
    ("vit_b_16", 32, ("class_token", "pos_embedding")),
    ("swin_t", 32, ("relative_position_bias_table",)),
    ("swin_v2_t", 32, ("logit_scale",)),
])  # fmt: skip
def test_gains_tokens_and_tables_of_torchvisions_networks_are_out(name, size, left_out):
    with torch.device("meta"):
        model = getattr(torchvision().models, name)(
            weights=None, **({"image_size": 32} if name == "vit_b_16" else {})
        )
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.01)
    for module in model.modules():  # buffers that are computed
        if hasattr(module, "define_relative_position_index"):
            module.define_relative_position_index()
        if hasattr(module, "define_relative_coords_table"):
            module.define_relative_coords_table()
    matrices = [
        n for n, p in model.named_parameters() if p.ndim > 1 and not n.endswith(left_out)
    ] if left_out else [n for n, p in model.named_parameters() if p.ndim > 1]  # fmt: skip
    assert feeding(model) == matrices
    assert feeding(model, torch.ones(1, 3, size, size)) == matrices


# ---------------------------------------------------------------------------------- the pass itself


def test_the_answer_is_the_models_own_and_nothing_is_left_changed():
    model = tiny_residual(dropout=0.3).train()
    model.bn1.eval()
    x = torch.randn(4, 1, 6, 6)
    before = copy.deepcopy(model.state_dict())
    drawn, grad = torch.get_rng_state(), torch.is_grad_enabled()
    seen = watch(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.bn1.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.is_grad_enabled() == grad
    with torch.no_grad():
        assert torch.equal(seen.outputs, model.eval()(x[:1]))
    assert not seen.outputs.requires_grad


def test_models_with_several_inputs_are_watched():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(5, 4)

        def forward(self, left, right):
            return self.a(left) + self.b(right)

    left, right = torch.ones(2, 8), torch.ones(2, 5)
    for x in ((left, right), {"right": right, "left": left}):
        found = verdicts(Two(), x)
        assert found["b.weight"].why == "it is a factor of a product"
        assert found["a.weight"].why == "it is a factor of a product"


def test_the_same_model_is_watched_once_and_a_changed_one_anew():
    calls = []

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.gain, self.added = (
                nn.Linear(8, 8),
                nn.Parameter(torch.ones(8, 8)),
                True,
            )

        def forward(self, x):
            calls.append(len(x))
            x = self.inner(x)
            return x[:, None] + self.gain if self.added else x @ self.gain

    model, x = Counts(), torch.ones(3, 8)
    assert feeding(model, x) == feeding(model, x + 1) == ["inner.weight"]
    assert calls == [1]
    watch(model, x)
    assert feeding(model, x) == ["inner.weight"]
    assert calls == [1, 1]
    model.added = False  # an attribute
    assert feeding(model, x) == ["gain", "inner.weight"]
    model.inner = parametrizations.orthogonal(model.inner)  # a layer
    assert feeding(model, x) == ["gain"]
    model.forward = lambda x: model.inner(x)[:, None] * model.gain  # the forward pass
    assert feeding(model, x) == []


def test_where_a_pass_cannot_be_watched_the_classes_decide():
    class Shy(nn.Linear):
        def forward(self, x):
            if torch._C._len_torch_dispatch_stack():
                raise RuntimeError("not while you look")
            return super().forward(x)

    assert feeding(Shy(8, 3), torch.ones(2, 8)) == ["weight"]
    with pytest.raises(ValueError, match="prunable: Shy fails on the example in eval mode"):
        verdicts(Shy(8, 3), torch.ones(2, 7))


def test_what_is_known_of_a_model_goes_with_it():
    model = tiny_model()
    assert feeding(model, torch.ones(1, 8)) == ["0.weight", "2.weight"]
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_another_default_device_changes_nothing():
    model, x = parametrizations.weight_norm(nn.Linear(8, 4)), torch.ones(2, 8)
    torch.set_default_device("meta")
    try:
        assert feeding(model, x) == [ORIGINAL + "1"]
    finally:
        torch.set_default_device(None)
