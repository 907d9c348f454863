"""What is tried on two examples before a run: refused by name, and nothing is touched."""

import itertools
import threading

import numpy as np
import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune

from prunekit import Data, evaluate, fit, magnitude, prune
from prunekit._modules import snapshot
from prunekit.trial import check_model, copied, try_out


def tried(model, data=None, trains=True):
    try_out("fit", model, data or tiny_data(), trains)


class Pairs(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(8, 4), r"shape \(n, 3, ...\), one column a class, got \(2, 4\)"),
        (nn.Linear(5, 3), r"fails on a float32 batch of shape \(2, 8\): "),
        (Pairs(8, 3), "must return a tensor, got tuple"),
        (nn.Sequential(nn.Linear(8, 3), nn.Flatten(0)), r"one column a class, got \(6,\)"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(model, message):
    with pytest.raises(ValueError, match=f"{type(model).__name__} on data tiny: .*{message}"):
        tried(model)


def regression(loss=F.mse_loss, metric=lambda outputs, y: -float(F.mse_loss(outputs, y))):
    splits = {split: (x, x[:, :1]) for split, (x, _) in tiny_data().splits.items()}
    return Data(splits, loss=loss, metric=metric)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.BCELoss(), r"the loss cannot be computed: .*"),
        (lambda o, y: F.mse_loss(o, y, reduction="none"), r"one number.*got shape \(2, 1\)"),
        (lambda o, y: 0.5, "one number.*got float"),
        (lambda o, y: torch.ones((), requires_grad=True), "must depend on a parameter"),
        (lambda o, y: F.mse_loss(o, y) * torch.nan, "the loss must be finite, got nan"),
    ],
)
def test_a_loss_that_is_no_number_is_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        tried(nn.Linear(8, 1), regression(loss))


def failing(outputs, y):
    raise LookupError("no such class")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda o, y: 10**400, "metric must be one number for all examples, got a int"),
        (lambda o, y: None, "metric must be one number for all examples, got a NoneType"),
        (lambda o, y: (o - y)[:, 0], r"metric must be one number .* Tensor of shape \(60,\)"),
        (lambda o, y: "0.5", "metric must be one number"),
        (failing, "the metric cannot be computed: no such class"),
    ],
)
def test_a_metric_that_is_no_number_is_refused_before_any_work(metric, message):
    with pytest.raises(ValueError, match=message):
        fit(nn.Linear(8, 1), regression(metric=metric))


class InTraining(nn.Linear):
    """What goes wrong in training mode alone."""

    def __init__(self, wrong):
        super().__init__(8, 3)
        self.wrong = wrong

    def forward(self, x):
        outputs = super().forward(x)
        return self.wrong(outputs) if self.training else outputs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda o: (o, o), "must return a tensor, got tuple"),
        (lambda o: o / 0, "outputs must be finite"),
        (lambda o: o.detach(), "must depend on a parameter that requires gradients"),
        (lambda o: (o - o.detach()).sqrt(), "gradients must be finite, weight gets NaN"),
        (lambda o: [o := o.exp(), o.add_(1)][0], "the backward pass fails"),
    ],
)
def test_what_fails_in_training_mode_is_refused_before_training_and_only_then(wrong, message):
    model = InTraining(wrong)
    with pytest.raises(ValueError, match=f"while training: .*{message}"):
        fit(model, tiny_data())
    assert fit(model, tiny_data(), epochs=0)
    assert evaluate(model, tiny_data()) >= 0


def test_sparse_gradients_are_refused_by_name():
    tokens = torch.arange(60).reshape(20, 3) % 7
    data = Data.of((tokens, tokens[:, 0] % 3), 0.5)
    layers = [nn.Embedding(7, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3)]
    with pytest.raises(ValueError, match=r"gradients must be dense, 0.weight gets a sparse one"):
        fit(nn.Sequential(*layers), data)


@pytest.mark.parametrize("make", [tiny_model, tiny_residual])
def test_a_model_is_left_as_it_was(make):
    model = make(dropout=0.5).train()
    [*model.children()][1].eval()
    data = tiny_data() if make is tiny_model else tiny_images()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    kept, modes = snapshot(model), [m.training for m in model.modules()]
    state = torch.get_rng_state()
    tried(model, data)
    assert all(torch.equal(t, kept[name]) for name, t in snapshot(model).items())
    assert [m.training for m in model.modules()] == modes
    assert all((p.grad == 1).all() for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_two_forward_passes_in_each_mode_and_one_backward_pass():
    passes, back = [], []

    class Counted(nn.Linear):
        def forward(self, x):
            passes.append((self.training, len(x)))
            outputs = super().forward(x)
            if outputs.requires_grad:
                outputs.register_hook(lambda _: back.append(1))
            return outputs

    tried(Counted(8, 3))
    assert passes == [(False, 2)] * 2 + [(True, 2)] * 2
    assert len(back) == 1


# ------------------------------------------------------------------------------------------ models


def uncopied(what):
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    model[0].held = what
    return model


@pytest.mark.parametrize("what", [threading.Lock(), open(__file__)])  # noqa: SIM115
def test_a_model_that_cannot_be_copied_is_refused_with_what_it_holds(what):
    with pytest.raises(ValueError, match=r"prune: Sequential cannot be copied, because of 0.held"):
        prune(magnitude, uncopied(what), tiny_data(), bar=False)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_buffer_that_cannot_be_copied_is_named():
    model = tiny_model()
    model[0].register_buffer("near", torch.eye(3).to_sparse_csr())
    with pytest.raises(ValueError, match=r"because of 0.near, a torch.sparse_csr buffer"):
        prune(magnitude, model, tiny_data(), bar=False)


def test_what_cannot_be_copied_is_trained_in_place_all_the_same():
    plain, held = tiny_model(), tiny_model()
    held[0].lock = threading.Lock()
    for model in (plain, held):
        list(fit(model, tiny_data(), epochs=2))
    assert torch.equal(plain[2].weight, held[2].weight)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "leave",
    [
        lambda layer: torch_prune.l1_unstructured(layer, "weight", 0.5),
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ],
)
def test_weights_that_old_hooks_work_out_are_refused_with_what_to_do(leave):
    model = tiny_model()
    leave(model[0])
    model(torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"because of 0.weight, .*prune.remove or remove_weight"):
        prune(magnitude, model, tiny_data(), bar=False)


def lazy():
    return nn.Sequential(nn.LazyLinear(3))


def meta():
    return nn.Linear(8, 3, device="meta")


def scripted():
    return nn.Sequential(torch.jit.script(tiny_model()))


def sparse():
    model = nn.Linear(8, 3)
    model.weight = nn.Parameter(model.weight.detach().to_sparse())
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lazy, "lazy, .*uninitialized"),
        (meta, "weight of Linear is on the meta device"),
        (scripted, "0 is a scripted module"),
        (sparse, "weight of Linear must be a dense tensor"),
        (nn.ReLU, "ReLU is empty"),
        (lambda: nn.Linear, "model must be a torch.nn.Module"),
    ],
)
@pytest.mark.parametrize(
    "act",
    [
        lambda m: prune(magnitude, m, tiny_data(), bar=False),
        lambda m: fit(m, tiny_data()),
        lambda m: evaluate(m, tiny_data()),
    ],
)
def test_a_model_whose_weights_are_not_there_is_refused(make, message, act):
    with pytest.raises((TypeError, ValueError), match=message):
        act(make())


def test_a_copy_shares_nothing():
    model = tiny_model()
    twin = copied("prune", model)
    check_model("prune", twin)
    with torch.no_grad():
        twin[0].weight.zero_()
    assert model[0].weight.any()


class Unseeded(nn.Module):
    """Draws from what is no generator of the process or of the model."""

    def __init__(self, always):
        super().__init__()
        self.net, self.always = tiny_model(), always

    def forward(self, x):
        draw = np.random.default_rng().normal() if self.always or self.training else 0.0
        return self.net(x) + draw * x[:, :3]


def test_a_model_that_draws_from_what_no_seed_reaches_is_refused():
    with pytest.raises(
        ValueError, match="tiny: answers and loss must be the same from the same state"
    ):
        tried(Unseeded(True))
    with pytest.raises(ValueError, match="tiny, while training: answers and loss must be the same"):
        tried(Unseeded(False))
    tried(Unseeded(False), trains=False)


TURNS = itertools.count()  # other numbers each time, as of a generator that nobody seeds


def unseeded_loss(outputs, y):
    return F.cross_entropy(outputs, y) * (1 + next(TURNS))


def test_a_loss_that_draws_from_what_no_seed_reaches_is_refused():
    with pytest.raises(ValueError, match="answers and loss must be the same from the same state"):
        tried(tiny_model(), Data(tiny_data().splits, loss=unseeded_loss))


def test_a_copy_that_shares_weights_is_refused():
    class Same(nn.Linear):
        def __deepcopy__(self, memo):
            return self

    with pytest.raises(ValueError, match=r"Same cannot be copied: its __deepcopy__ .* weight"):
        prune(magnitude, Same(8, 3), tiny_data(), bar=False)


def by_a_lambda():
    model = tiny_model()
    model.forward = lambda x: model[2](torch.relu(model[0](x)))
    return model


def by_a_hook():
    model = tiny_model()
    model[2].register_forward_hook(lambda layer, x, y: y + model[0].weight.sum())
    return model


@pytest.mark.parametrize("make", [by_a_lambda, by_a_hook])
def test_a_copy_that_computes_with_the_weights_of_the_model_is_refused(make):
    with pytest.raises(ValueError, match="a copy still computes with 0.weight"):
        prune(magnitude, make(), tiny_data(), bar=False)
    with pytest.raises(ValueError, match="a copy still computes with 0.weight"):
        list(magnitude(make(), tiny_data()))


def test_functions_that_know_no_weights_are_no_hindrance():
    model, seen = tiny_model(), []
    model[0].register_forward_hook(lambda layer, x, y: seen.append(y))
    model.act = lambda x: x
    assert prune(magnitude, model, tiny_data(), sparsity=0.5, bar=False).sparsity == 0.5


def expanded():
    model = tiny_model()
    model[2].weight = nn.Parameter(torch.ones(1, 12).expand(3, 12))
    return model


def inferred():
    with torch.inference_mode():
        return nn.Linear(8, 3)


@pytest.mark.parametrize("make", [expanded, inferred])
def test_weights_that_cannot_be_written_are_refused_in_place_and_pruned_on_a_copy(make):
    with pytest.raises(ValueError, match="fit: .*weight of .* cannot be changed in place"):
        list(fit(make(), tiny_data()))
    assert prune(magnitude, make(), tiny_data(), sparsity=0.5, epochs=1, bar=False).sparsity > 0.4


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (lambda x: x.to_sparse(), "dense tensor with values, got torch.sparse_coo"),
        (lambda x: x.to("meta"), "dense tensor with values, got one on the meta device"),
        (lambda x: {"logits": x}, "must return a tensor, got dict"),
        (lambda x: x.argmax(1), "one column a class"),
    ],
)
def test_evaluate_says_in_words_what_a_model_must_return(outputs, message):
    class Other(nn.Linear):
        def forward(self, x):
            return outputs(super().forward(x))

    with pytest.raises(ValueError, match=f"Other on data tiny: .*{message}"):
        evaluate(Other(8, 3), tiny_data())


@pytest.mark.parametrize("loss", [F.mse_loss, nn.SmoothL1Loss()])
def test_outputs_and_targets_that_would_be_spread_over_each_other_are_refused(loss):
    splits = {split: (x, x[:, 0]) for split, (x, _) in tiny_data().splits.items()}
    data = Data(splits, loss=loss, metric=lambda outputs, y: 0.0)
    with pytest.raises(ValueError, match=r"must be of one shape.*got \(2, 1\) and \(2,\)"):
        tried(nn.Linear(8, 1), data)
