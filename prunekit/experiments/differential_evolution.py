"""Differential evolution of thresholds: after the abstract, and beyond it.

The paper (Wu, Li, Zhou, Li and Shi 2021, doi 10.3390/s21030880) is open to all, but only its
abstract was available to us: its ratios are the claims; the constants of the search and the
training are ours. The arms prune a dense net, the LeNets those of `baselines`, AlexNet and VGG-16
those of `cifar-bases`, and the arms of a network may train for the same number of epochs; a search
that stops by itself trains for fewer. Ratios count all parameters, biases too, where the abstract
speaks of weights.

The recipes of the searches were changed after looking at results, that of LeNet-5 in `de-beyond`
several times; those of the controls were not. So comparisons favour the searches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from prunekit import models
from prunekit._files import digest
from prunekit._modules import state_key
from prunekit.baselines.gradual import gradual
from prunekit.baselines.magnitude import magnitude
from prunekit.data import Data
from prunekit.datasets import cifar10, mnist
from prunekit.experiments import Arm, Claim, Experiment
from prunekit.judge import stand_in
from prunekit.methods.differential_evolution import differential_evolution

PAPER = "Wu, Li, Zhou, Li and Shi 2021, doi 10.3390/s21030880"
ABSTRACT = "doi 10.3390/s21030880, abstract"
SURGERY = "Guo, Yao and Chen 2016, arXiv 1608.04493"
OLMP = "Li et al. 2018, doi 10.24963/ijcai.2018/330"


def _epochs(knobs: dict[str, Any]) -> int:
    """How many epochs a run of differential evolution trains in all."""
    return int(knobs["rounds"] * knobs["epochs"] + knobs["last_epochs"])


# Weights that are pruned, and the other parameters.
SIZES = {
    "lenet_300_100": (266_200, 410),
    "lenet_5": (430_500, 580),
    "alexnet": (2_471_104, 1_162),
    "vgg_16": (14_715_584, 12_682),
}


def _sparsity(model: str, ratio: int) -> float:
    """The share of the weights to remove for a compression, where biases stay."""
    weights, others = SIZES[model]
    return round(1 - ((weights + others) / ratio - others) / weights, 6)


def _gradual(knobs: dict[str, Any], ratios: Iterable[int], model: str) -> dict[str, Arm]:
    """What a user would take instead: as many epochs, told where to stop."""
    common: dict[str, Any] = {n: knobs[n] for n in ("lr", "precision") if n in knobs}
    return {
        f"gradual {ratio}×": Arm(
            gradual, dict(sparsity=_sparsity(model, ratio), epochs=_epochs(knobs), **common), model
        )
        for ratio in ratios
    }


# ------------------------------------------------------------------------------------ de-lenet300

LENET_300_100: dict[str, Any] = dict(
    rounds=8, drop=0.02, tolerance=0.003, epochs=10, last_epochs=20, lr=0.02
)
SHORT: dict[str, Any] = dict(rounds=6, drop=0.03, epochs=3, last_epochs=6)
# With as many evaluations as evolution. Bisection would find one sensitivity sooner, but errors may
# fall again where it grows, and bisection does not look beyond.
CONTROLS: dict[str, dict[str, Any]] = {
    "one sensitivity": dict(uniform=True),
    "random search": dict(strategy="random", crossover=1.0),
}


def _lenet_300_100() -> dict[str, Arm]:
    epochs = _epochs(LENET_300_100)
    searches: dict[str, dict[str, Any]] = {
        "evolution": {},
        "evolution, no recovery": dict(recovery="off"),
        "evolution, recovery by magnitude": dict(recovery="magnitude"),
        "evolution, weighted fitness": dict(fitness="weighted", balance=0.9),
        **CONTROLS,
        "one cut": dict(
            rounds=1, drop=0.1, tolerance=1.0, recovery="off", epochs=0, last_epochs=epochs
        ),
    }
    # A search that stops by itself ends elsewhere with other luck: hence several a network.
    arms = {
        name: Arm(
            differential_evolution, LENET_300_100 | changed,
            networks=(0, 1, 2) if name in ("evolution", *CONTROLS) else None,
        )
        for name, changed in searches.items()
    }  # fmt: skip
    arms["evolution"] = replace(arms["evolution"], short=SHORT)
    tuning: dict[str, Any] = dict(rounds=10, epochs=epochs // 10, lr=LENET_300_100["lr"])
    # By hand, as Han et al. 2015, arXiv 1506.02626: the same for the large layers, the last gently.
    by_hand = (0.6, 0.6, 0.3)
    arms["sensitivities by hand"] = Arm(magnitude, dict(sensitivities=by_hand, **tuning))
    for ratio in (24, 48):
        goal = _sparsity("lenet_300_100", ratio)
        arms[f"magnitude {ratio}×"] = Arm(magnitude, dict(sparsity=goal, **tuning))
    # 30×: where evolution ended, on average.
    arms |= _gradual(LENET_300_100, (24, 30, 48), "lenet_300_100")
    arms["gradual 24×"] = replace(arms["gradual 24×"], short=dict(epochs=_epochs(SHORT)))
    return arms


# -------------------------------------------------------------------------------------- de-lenet5

LENET_5: dict[str, Any] = dict(
    rounds=4, drop=0.03, tolerance=0.003, epochs=5, last_epochs=12, lr=0.02, images=2_500,
    precision="auto",
)  # fmt: skip


def _lenet_5() -> dict[str, Arm]:
    quick = dict(rounds=1, images=500, generations=5, population=8, epochs=1, last_epochs=1)
    arms = {"evolution": Arm(differential_evolution, LENET_5, "lenet_5", short=quick)}
    for name, changed in CONTROLS.items():
        arms[name] = Arm(differential_evolution, LENET_5 | changed, "lenet_5")
    # 69× is the mean of the ratios at which evolution ended; 47× that of its sizes, and there all
    # weights compete, so that layers may differ without a search.
    arms |= _gradual(LENET_5, (14, 28, 56, 69), "lenet_5")
    whole = _gradual(LENET_5, (47,), "lenet_5")["gradual 47×"]
    arms["gradual 47×, whole net"] = replace(whole, knobs={**whole.knobs, "scope": "global"})
    return arms


# -------------------------------------------------------------------------------------- de-beyond

TEMPERATURE = 2.0  # of the teachers' answers
TAUGHT = 0.7  # share of the teachers in a training target; the rest is the label


def taught(**download: Any) -> Data:
    """MNIST, the training targets mixed from the label and the mean answer of three dense LeNet-5.

    After Hinton, Vinyals and Dean 2015, arXiv 1503.02531; there the student is softened too, here
    only the teachers are. Validation and test stay as they are.
    """
    data = mnist(**download)
    x, y = data.splits["train"]
    teachers = [stand_in(models.pretrained("lenet_5", seed)) for seed in range(3)]
    with torch.no_grad():
        answers = torch.cat(
            [
                torch.stack([teacher(part).div(TEMPERATURE).softmax(1) for teacher in teachers])
                for part in (data.normalise(x[i : i + 500]) for i in range(0, len(x), 500))
            ],
            dim=1,
        )  # (teachers, n, 10)
    targets = (1 - TAUGHT) * torch.eye(10)[y] + TAUGHT * answers.mean(0)
    # Of what the answers come from: their last bits may differ from one processor to another.
    known = [state_key(teacher) for teacher in teachers]
    return Data(
        data.splits | {"train": (x, targets)},
        name="mnist, taught", classes=data.classes, mean=data.mean, std=data.std,
        key=digest("taught", data.key, known, TEMPERATURE, TAUGHT),
    )  # fmt: skip


BEYOND: dict[str, dict[str, Any]] = {
    "lenet_300_100": dict(
        rounds=10, epochs=4, last_epochs=100, lr=0.05, generations=15, population=16, images=2_500
    ),
    "lenet_5": dict(
        rounds=4, epochs=8, last_epochs=60, lr=0.02, generations=15, population=16, images=1_000,
        precision="auto",
    ),
}  # fmt: skip
# All of the net is prunable; the bounds and the tolerance stand back behind the asked number. Each
# round also takes from small layers what costs nothing on the images that judge, so that they wear
# away: hence the loss, which sees more harm than the errors do, and few rounds for LeNet-5.
TO_A_BUDGET: dict[str, Any] = dict(
    fitness="budget", judged_by="loss", recovery="off", splice=0.3, biases=True, scan=1.0,
    later=2.5, tolerance=1.0,
)  # fmt: skip
RATIOS = {"lenet_300_100": (28, 56, 114), "lenet_5": (56, 108, 298)}
SHIPPED = {"lenet_300_100": (56, 114), "lenet_5": (108, 298)}
COMPARED = {"lenet_300_100": 114, "lenet_5": 298}  # where the parts are left out, one by one


def _beyond() -> dict[str, Arm]:
    quick = dict(rounds=4, epochs=2, last_epochs=10, images=1_000)
    arms = {}
    for model, ratios in RATIOS.items():
        common = TO_A_BUDGET | BEYOND[model]
        for ratio in ratios:
            name, knobs = f"{model} {ratio}×", common | dict(density=round(1 / ratio, 6))
            arms[name] = Arm(
                differential_evolution, knobs, model, data=taught,
                variant=f"{ratio}x" if ratio in SHIPPED[model] else "",
            )  # fmt: skip
            if ratio == COMPARED[model]:
                arms |= _without(name, arms[name])
        # What the teachers and the long training do alone.
        arms[f"{model} unpruned"] = _told(model, sparsity=0.0)
    arms["lenet_300_100 114×"] = replace(arms["lenet_300_100 114×"], short=quick)
    return arms


def _told(model: str, sparsity: float) -> Arm:
    """What needs no search: it is told how much to remove, and has the teachers and the epochs."""
    recipe = BEYOND[model]
    knobs = dict(
        sparsity=sparsity, epochs=_epochs(recipe), scope="global", biases=True, lr=recipe["lr"],
        precision=recipe.get("precision", "fp32"),
    )  # fmt: skip
    return Arm(gradual, knobs, model, data=taught)


def _without(name: str, arm: Arm) -> dict[str, Arm]:
    """The arm without its search, and without one of its parts (on LeNet-5 only without a
    sensitivity for each layer, as cells take long there); all with as many epochs."""
    knobs = arm.knobs
    arms = {
        "gradual": _told(arm.model, sparsity=1 - knobs["density"]),
        "with one sensitivity": replace(arm, knobs={**knobs, "uniform": True}),
    }
    if arm.model == "lenet_300_100":
        arms["judged by errors"] = replace(arm, knobs={**knobs, "judged_by": "metric"})
        arms["without returning weights"] = replace(arm, knobs={**knobs, "splice": 0.0})
        arms["without teachers"] = replace(arm, data=None)
    return {f"{name} {label}": replace(made, variant="") for label, made in arms.items()}


# ---------------------------------------------------------------------------- networks for CIFAR-10


# They start from the networks of `cifar-bases`. On two cores VGG-16 takes about 5 minutes an epoch,
# so a cell takes hours there: these are for an accelerator, or for a long night.
def _cifar(model: str, ratio: int) -> dict[str, Arm]:
    many = {"alexnet": 20, "vgg_16": 40}[model]  # genes: 6, or 14
    knobs: dict[str, Any] = dict(
        rounds=4, drop=0.05, tolerance=0.005, epochs=5, last_epochs=10, lr=0.01, images=1_000,
        population=many, generations=many, precision="auto",
    )  # fmt: skip
    quick: dict[str, Any] = dict(
        rounds=1, generations=2, population=4, tolerance=1.0, epochs=0, last_epochs=1, images=200
    )
    arms = {"evolution": Arm(differential_evolution, knobs, model, short=quick)}
    for name, changed in CONTROLS.items():
        arms[name] = Arm(differential_evolution, knobs | changed, model)
    arms |= _gradual(knobs, (ratio,), model)
    return {name: replace(arm, networks=(0,)) for name, arm in arms.items()}


def _claims(net: str, *claims: tuple[str, float, str, str]) -> tuple[Claim, ...]:
    return tuple(Claim(f"{net}, {what}", value, unit, at) for what, value, unit, at in claims)


def _ratio(net: str, value: float) -> tuple[Claim, ...]:
    return _claims(net, ("compression", value, "×", ABSTRACT))


def _experiment(name: str, title: str, arms: dict[str, Arm], **settings: Any) -> Experiment:
    return Experiment(
        name=name, title=title, paper=PAPER, status="after the abstract", arms=arms, **settings
    )


EXPERIMENTS = (
    _experiment(
        "de-lenet300", "Evolved thresholds on LeNet-300-100, and their controls",
        _lenet_300_100(), data=mnist, claims=_ratio("LeNet-300-100", 24), showcase="evolution",
    ),
    _experiment(
        "de-lenet5", "Evolved thresholds on LeNet-5, and their controls",
        _lenet_5(), data=mnist, claims=_ratio("LeNet-5", 14),
    ),
    _experiment(
        "de-beyond", "Evolved thresholds to a budget, with returning weights and teachers",
        _beyond(), data=mnist,
        claims=_claims(
            "LeNet-300-100",
            ("test error at 56×", 1.99, "%", SURGERY), ("test error at 114×", 2.2, "%", OLMP),
        ) + _claims(
            "LeNet-5",
            ("test error at 108×", 0.91, "%", SURGERY), ("test error at 298×", 0.91, "%", OLMP),
        ),
    ),
    _experiment(
        "de-alexnet", "Evolved thresholds on AlexNet in its CIFAR form",
        _cifar("alexnet", 29), data=cifar10, claims=_ratio("AlexNet", 29),
    ),
    _experiment(
        "de-vgg16", "Evolved thresholds on VGG-16 in its CIFAR form, with batch normalisation",
        _cifar("vgg_16", 12), data=cifar10, claims=_ratio("VGG-16", 12),
    ),
)  # fmt: skip
