"""The contract of every method and baseline; whatever lies in the two folders is found here."""

import copy
import importlib
import inspect
import math
import pkgutil
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import random_network
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch.nn.utils.parametrizations import orthogonal

from prunekit import Data, Journal, Run, prune
from prunekit._files import describe
from prunekit.knobs import Choice, Patterns, Range, Several, Switch, helps, knobs
from prunekit.mask import Mask
from prunekit.train import Tuning

ROOT = Path(__file__).parents[1]
MODULES = [
    importlib.import_module(f"prunekit.{kind}.{found.name}")
    for kind in ("baselines", "methods")
    for found in pkgutil.iter_modules([str(ROOT / "prunekit" / kind)])
]


def stem(module):
    return module.__name__.rsplit(".", 1)[-1]


def of_kind(kind):
    return [module for module in MODULES if f".{kind}." in module.__name__]


@pytest.fixture
def method(module):
    return getattr(module, stem(module))


@dataclass(frozen=True)
class Net:
    """A kind of network that every method must cope with, and data for it."""

    model: Callable[..., torch.nn.Module]
    data: Callable[[], Data]

    def stream(self, method, dropout=0.0, run=Run()):
        """A network, and the steps of a run on it."""
        model = self.model(dropout)
        return model, method(model, self.data(), **method.quick, seed=3, run=run)


NETS = {"linear": Net(tiny_model, tiny_data), "residual": Net(tiny_residual, tiny_images)}
OF_CONVOLUTIONS = {"cdp_dtc"}  # which refuse networks without any


def pytest_generate_tests(metafunc):
    """Every method; and each on every kind of network that it can prune, where a test takes one."""
    if "net" in metafunc.fixturenames:
        pairs = [
            pytest.param(module, net, id=f"{stem(module)}-{kind}")
            for module in MODULES
            for kind, net in NETS.items()
            if kind != "linear" or stem(module) not in OF_CONVOLUTIONS
        ]
        metafunc.parametrize("module, net", pairs)
    elif "module" in metafunc.fixturenames:
        metafunc.parametrize("module", MODULES, ids=stem)


def simplest(method):
    """The simplest network that a method can prune."""
    return NETS["residual" if method.__name__ in OF_CONVOLUTIONS else "linear"]


def history(steps):
    return [
        (s.phase, s.index, s.of, s.mask, dict(s.metrics), describe(s.info), s.tried) for s in steps
    ]


def same_tensors(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def wrong_values(knob):
    if isinstance(knob.rule, Range):
        ends = [
            knob.rule.low - 1,
            knob.rule.high + 1,
            knob.rule.low if knob.rule.low_open else None,
        ]
        yield from (v for v in ends if v is not None and math.isfinite(v))
        yield from (math.nan, math.inf, True, "much")
        if knob.whole:
            yield knob.rule.low + 0.5
    elif isinstance(knob.rule, (Choice, Patterns)):
        yield from ("nonsense", 3)
    elif isinstance(knob.rule, Several):
        yield from ("nonsense", 3.0, (knob.rule.each.low - 1,), (math.nan,))
    elif isinstance(knob.rule, Switch):
        yield from (1, "yes")
    if not knob.optional:
        yield None


def test_there_are_methods_to_check():
    assert {"magnitude", "random", "gradual"} <= set(map(stem, MODULES))


def group_size(mask):
    """The largest row of a parameter if only whole rows are removed, else 1."""
    rows = [keep.flatten(1) for keep in mask.values() if keep.ndim > 1]
    if all(torch.equal(r.any(1), r.all(1)) for r in rows):
        return max(r.shape[1] for r in rows)
    return 1


def test_it_yields_steps_and_meets_its_target(method, net):
    _, stream = net.stream(method)
    steps = list(stream)
    assert steps
    mask = steps[-1].mask
    if "sparsity" in knobs(method):
        target = method.quick.get("sparsity", knobs(method)["sparsity"].default)
        off_by_one_group_a_tensor = len(mask) * group_size(mask)
        assert abs(target * mask.total - (mask.total - mask.kept)) <= off_by_one_group_a_tensor
    assert 0 < mask.sparsity < 1


def test_the_same_seed_gives_the_same_history_masks_included(method, net):
    runs, models = [], []
    for disturbed in (1, 2):
        torch.manual_seed(disturbed)
        model, stream = net.stream(method, dropout=0.3)
        models.append(model)
        runs.append(history(stream))
    assert runs[0] == runs[1]
    assert same_tensors(models[0].state_dict(), models[1].state_dict())


def test_pruned_weights_are_exactly_0_after_every_step(method, net):
    model, stream = net.stream(method)
    weights = dict(model.named_parameters())
    for step in stream:
        assert all(not weights[name][~keep].any() for name, keep in step.mask.items())


def test_nothing_returns_unless_the_method_regrows_and_then_not_by_pruning(method, net):
    model, stream = net.stream(method)
    masks = [Mask.ones(model)]
    for step in stream:
        before = masks[-1]
        returned = any(
            (keep & ~before[name]).any() for name, keep in step.mask.items() if name in before
        )
        back = step.phase == "rewind" and step.mask in masks  # to what the network was before
        assert not returned or back or (method.regrows and step.phase in ("rewind", "finetune"))
        masks.append(step.mask)


def test_zeros_of_an_earlier_pruning_stay_and_count_unless_the_method_regrows(method, net):
    model = net.model(0.0)
    first = Mask.ones(model)
    sparse = Mask({n: torch.arange(k.numel()).view(k.shape) % 3 == 0 for n, k in first.items()})
    sparse.apply_(model)
    for step in method(model, net.data(), **method.quick | {"epochs": 1}, seed=3):
        weights = Mask({name: step.mask[name] for name in sparse})
        assert weights & sparse == weights or method.regrows
        told = sum(int((p != 0).sum()) for n, p in model.named_parameters() if n in step.mask)
        assert told <= step.mask.kept
    assert step.mask.sparsity >= 0.6


def test_no_method_empties_a_layer(method):
    knobs_ = knobs(method)
    settings = {"sparsity": 0.999, "scope": "global"} if "sparsity" in knobs_ else {}
    net = simplest(method)
    for scope in ("layer", "global") if "scope" in knobs_ else ("",):
        given = method.quick | settings | ({"scope": scope} if scope else {})
        report = prune(method, net.model(0.0), net.data(), **given, seed=3, bar=False)
        assert all(keep.any() for keep in report.mask.values())


def test_prune_leaves_the_given_model_bit_identical(method, net):
    model = net.model(0.3)
    before = copy.deepcopy(model)
    report = prune(method, model, net.data(), bar=False, **method.quick)
    assert report.model is not model
    assert same_tensors(model.state_dict(), before.state_dict())
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_bad_knob_is_refused_by_name_rule_and_value_before_any_work(method):
    for name, knob in knobs(method).items():
        for value in wrong_values(knob):
            # No model and no data: work would end in another error.
            with pytest.raises(ValueError, match=f"^{method.__name__}: {name} must be") as error:
                method(None, None, **{name: value})
            for part in (method.__name__, name, str(knob.rule), repr(value)):
                assert part in str(error.value)


@pytest.mark.parametrize("grad", [True, False])
def test_grad_mode_and_global_randomness_are_unchanged_at_every_yield(method, net, grad):
    def surroundings():
        return (
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
            str(np.random.get_state()),
            random.getstate(),
        )

    with torch.set_grad_enabled(grad):
        _, stream = net.stream(method, dropout=0.5)
        before = surroundings()
        for _ in stream:
            assert surroundings() == before
        assert surroundings() == before


def test_it_prints_nothing(method, capsys):
    net = simplest(method)
    list(net.stream(method)[1])
    prune(method, net.model(0.0), net.data(), bar=False, **method.quick)
    assert capsys.readouterr() == ("", "")


def test_every_keyword_is_a_knob_with_a_rule_and_an_explanation(method):
    parameters = inspect.signature(method).parameters
    keywords = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    tuning = [name for name in knobs(method) if name in Tuning.__annotations__]
    assert keywords[-2:] == ["seed", "run"]
    assert [*keywords[:-2], *tuning] == [*knobs(method)]
    assert [n for n in parameters if n not in keywords] == ["model", "data", "tuning"]
    for name in knobs(method):
        assert helps(method).get(name), f"the docstring needs a line `{name}: what it is`"


def test_the_defaults_pass_the_checks(method):
    net = simplest(method)
    method(net.model(0.0), net.data())


def test_killed_after_any_step_it_goes_on_to_the_same_history(method, net, tmp_path):
    model, stream = net.stream(method, dropout=0.3)
    whole = history(stream)
    for n in range(1, len(whole) + 1):
        run = Run(journal=Journal(tmp_path / f"{n}"))
        _, killed = net.stream(method, dropout=0.3, run=run)
        assert history(next(killed) for _ in range(n)) == whole[:n]
        killed.close()
        again, stream = net.stream(method, dropout=0.3, run=run)
        assert history(stream) == whole
        assert same_tensors(again.state_dict(), model.state_dict())


def test_killed_after_every_step_in_turn_it_goes_on_to_the_same_history(method, net, tmp_path):
    whole = history(net.stream(method, dropout=0.3)[1])
    for n in range(1, len(whole) + 1):
        _, killed = net.stream(method, dropout=0.3, run=Run(journal=Journal(tmp_path)))
        assert history(next(killed) for _ in range(n)) == whole[:n]
        killed.close()


def test_the_module_cites_its_source(module):
    assert re.search(r"arXiv[: ]\d{4}\.\d{4,5}|\b10\.\d{4,9}/\S+", module.__doc__)


def test_the_module_has_one_public_function_named_like_its_file(module):
    own = [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    ]
    assert own == [stem(module)]


def test_every_method_has_its_notebook_and_its_experiment():
    for module in of_kind("methods"):
        notebook = [*(ROOT / "notebooks").glob(f"[0-9][0-9]_{stem(module)}.ipynb")]
        assert notebook, f"write notebooks/NN_{stem(module)}.ipynb"
        assert (ROOT / "prunekit" / "experiments" / f"{stem(module)}.py").exists()


def computed_with(model, name):
    """The weight that a model computes with, for a parameter that its mask covers."""
    if ".parametrizations." in name:
        layer, _, rest = name.partition(".parametrizations.")
        return getattr(model.get_submodule(layer), rest.split(".")[0])
    return model.get_parameter(name)


@pytest.mark.parametrize("seed", [3, 8])
def test_the_share_told_is_that_of_the_weights_the_network_computes_with(method, seed):
    if method.__name__ in OF_CONVOLUTIONS:
        model, data = tiny_residual(seed=seed), tiny_images(seed)
    else:
        model, x = random_network(seed, classes=3, norms=False)
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.rand(60, *x.shape[1:], generator=generator)
        data = Data.of((inputs, torch.arange(60) % 3), 0.25)
    width = data.splits["train"][0].shape[-1]
    model = torch.nn.Sequential(orthogonal(torch.nn.Linear(width, width)), model)
    report = prune(method, model, data, seed=seed, bar=False, **method.quick)
    assert report.mask
    assert not any(name.startswith("0.") for name in report.mask)  # it is dense whatever is pruned
    for name, keep in report.mask.items():
        weight = computed_with(report.model, name)
        assert int((weight == 0).sum()) == int((~keep).sum())
    gone = sum(int((computed_with(report.model, name) == 0).sum()) for name in report.mask)
    assert report.sparsity == gone / report.mask.total > 0
