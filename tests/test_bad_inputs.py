"""Whatever is handed to a public function: it works, or one of our own errors comes first.

`GOOD` has one good call of every public function and class; `BAD` values of every wrong kind. Each
case puts one of these into the place of one argument. Run as a program, or with PRUNEKIT_BAD=all,
all cases are tried; else `SAMPLE` of them, always the same.
"""

import contextlib
import functools
import hashlib
import importlib
import inspect
import io
import json
import math
import os
import pkgutil
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn

from prunekit import (
    Data,
    Mask,
    Report,
    Run,
    Step,
    checkpoint,
    clusters,
    count,
    course,
    data,
    datasets,
    evolve,
    exercises,
    experiments,
    interop,
    judge,
    knobs,
    looks,
    magnitude,
    models,
    nodes,
    plot,
    recording,
    report,
    rounds,
    score,
    search,
    select,
    steps,
    stripes,
    surgery,
    train,
    widgets,
)
from prunekit import mask as mask_room
from prunekit.experiments import records
from prunekit.journal import Fit, Journal, environment
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.methods.roulette import roulette
from prunekit.steps import Tried
from prunekit.widgets.thresholds import shown_of

# Of their names the package takes a function.
method_room, prune = (importlib.import_module(f"prunekit.{room}") for room in ("method", "prune"))

SAMPLE = 2_500  # of all calls, always the same ones
LIMIT = 10  # seconds that one call may take
DRAINED = 3  # steps that are asked of a generator

ROOMS = [
    "looks", "data", "datasets", "judge", "score", "select", "search", "count", "mask", "knobs", "steps",
    "method", "models", "evolve", "rounds", "report", "prune", "journal", "checkpoint", "course",
    "plot", "train", "surgery", "interop", "nodes", "recording", "clusters",
    "stripes",
]  # fmt: skip
FAMILIES = ["methods", "baselines", "widgets.views"]
GATHERED = ["exercises", "experiments", "widgets"]  # what their `__all__` names is public

# Raised, caught and passed on between rooms; nobody calls them.
INNER = {
    "journal.Locked", "journal.Fit", "steps.Stopped", "search.Lacking", "train.Tuning",
    "train.Form", "train.autocast", "train.fastest_form", "data.Foreign", "knobs.Default", "knobs.Before",
    "knobs.unpacked", "knobs.unpacked_type", "knobs.read_knobs", "datasets.read",
    "datasets.folder_of", "models.Block", "models.ResNet", "prune.share_done", "prune.whole",
    "prune.bound", "prune.with_budget", "surgery.Family", "surgery.Groups", "surgery.check_plan", "surgery.differs", "surgery.copy_of",
    "surgery.matching", "surgery.Emptied", "stripes.Striped", "stripes.Form", "stripes.ByPosition",
    "surgery.answers", "surgery.was_cut", "surgery.draw", "judge.Tally", "recording.put_on",
    "select.Groups", "select.Budget", "select.emptied_by", "select.rest", "select.scoped", "select.flat",
    "checkpoint.text_of", "datasets.crop_and_mirror", "knobs.knob_of", "knobs.Range.check", "mask.check_prunable", "widgets.views.roulette.Tree",
    "widgets.views.optimal_threshold.Net",
}  # fmt: skip


def public():
    """The public functions, classes and their methods, by their places in the package."""
    found = {}
    rooms = [*ROOMS]
    for family in FAMILIES:
        package = importlib.import_module(f"prunekit.{family}")
        rooms += [f"{family}.{m.name}" for m in pkgutil.iter_modules(package.__path__)]
    for room in rooms:
        module = importlib.import_module(f"prunekit.{room}")
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__
            if (
                not name.startswith("_")
                and own
                and inspect.isroutine(thing) | inspect.isclass(thing)
            ):
                found[f"{room}.{name}"] = thing
    for room in GATHERED:
        module = importlib.import_module(f"prunekit.{room}")
        found |= {f"{room}.{name}": getattr(module, name) for name in module.__all__}
    for place, thing in [*found.items()]:
        if inspect.isclass(thing) and place.startswith(("data.", "mask.", "report.", "journal.")):
            for name, part in vars(thing).items():
                worked_out = isinstance(part, functools.cached_property)
                routine = inspect.isroutine(getattr(thing, name, None)) and not worked_out
                if not name.startswith("_") and routine:
                    found[f"{place}.{name}"] = part
    return {
        place: thing
        for place, thing in found.items()
        if not any(place == inner or place.startswith(inner + ".") for inner in INNER)
    }


# ------------------------------------------------------------------------------------ good calls


def mask(seed=0):
    return select.largest(scores(seed), 0.5, "layer", Mask.ones(tiny_model()))


def scores(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) for n, p in weights().items()}


def weights():
    return mask_room.prunable(tiny_model())


@functools.cache
def small():
    """Less data than `tiny_data`, for the sake of time."""
    return tiny_data().fewer(train=24, validation=24, test=24)


def pruned():
    return prune.prune(magnitude, tiny_model(), small(), sparsity=0.5, bar=False)


@functools.cache
def searched():
    def search_(name, **quick):
        return prune.prune(name, tiny_model(), small(), bar=False, **quick)

    return search_(roulette, **roulette.quick), search_(
        differential_evolution, **differential_evolution.quick
    )


def generator():
    return torch.Generator().manual_seed(0)


def bounds():
    return torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)


def on(thing, name, **given):
    """A call of a method, the object being one of its arguments that stays."""
    return getattr(thing, name), given


@method_room.method
def nothing(model, data, *, sparsity: knobs.Fraction = 0.5, seed: int = 0, run: Run = Run()):
    """A method that removes nothing."""
    yield Step("prune", 1, 1, Mask.ones(model), {"accuracy": 0.5})


def unmethodical(model, data, *, sparsity: knobs.Fraction = 0.5, seed: int = 0, run: Run = Run()):
    yield Step("prune", 1, 1, Mask.ones(model), {"accuracy": 0.5})


def toy():
    arms = {"once": experiments.Arm(magnitude, {"sparsity": 0.5}, start=tiny_model, short={})}
    return experiments.Experiment(
        "toy", "A toy", "nobody", "reproduction", tiny_data, arms, seeds=(0,)
    )


def cell():
    return experiments.Cell(toy(), "once", None, 0, False, Path("cells"))


@functools.cache
def record():
    return json.dumps(experiments.recorded("roulette")[0])


def over_networks():
    return records.Difference({0: 1.0, 1: 1.5, 2: 2.0})


def recorded_cells():
    return [json.loads(record())]


def saved():
    """The path of a saved report."""
    pruned().save("saved")
    return "saved"


def picture():
    return np.arange(6.0).reshape(2, 3)


def groups():
    return surgery.groups(tiny_model(), tiny_data().example)


def filters():
    """A mask of filters of the tiny model."""
    keep = torch.ones(12, 8, dtype=torch.bool)
    keep[2:5] = False
    return Mask({"0.weight": keep})


def small_one():
    return surgery.shrink(tiny_model(), filters(), tiny_data().example)


X, Y = torch.randn(12, 8), torch.arange(12) % 3
OUT = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
FIT = ("model",)  # what a call may change when it works: methods change the model in place


def of_nodes(**more):
    model, data = tiny_model(), small()
    return dict(who="test", model=model, data=data, nodes=nodes.Nodes("test", model, data), **more)


def rows_of():
    given = of_nodes()
    return dict(model=given["model"], nodes=given["nodes"], name="0.weight")


def of_kind(method):
    """A network that a method can prune, and data."""
    if method.__name__ == "cdp_dtc":
        return dict(
            model=tiny_residual(), data=tiny_images().fewer(train=24, validation=24, test=24)
        )
    return dict(model=tiny_model(), data=small())


def wrapped():
    model = tiny_residual()
    stripes.wrap(model)
    return model


def points():
    return torch.rand(9, 5, generator=torch.Generator().manual_seed(0))


def folding():
    given = of_nodes()
    kept = {n: torch.arange(size) > 2 for n, size in given["nodes"].sizes.items()}
    return dict(
        model=given["model"], nodes=given["nodes"], kept=kept, found=nodes.activity(**given)
    )


GOOD = {
    "data.accuracy": lambda: (data.accuracy, dict(outputs=OUT, targets=Y[:6])),
    "data.wrong": lambda: (data.wrong, dict(outputs=OUT, targets=Y[:6])),
    "data.likeliest": lambda: (data.likeliest, dict(targets=Y[:6])),
    "data.spearman": lambda: (data.spearman, dict(outputs=X[:, 0], targets=X[:, 1])),
    "data.squared_error": lambda: (data.squared_error, dict(outputs=X[:, :1], targets=X[:, 1])),
    "data.Data": lambda: (
        Data,
        dict(
            splits={"train": (X, Y), "validation": (X, Y)}, name="d", classes=("a", "b", "c"),
            mean=None, std=None, loss=nn.functional.cross_entropy, metric=data.accuracy,
            augment=None, key="k",
        ),
    ),
    "data.Data.of": lambda: (Data.of, dict(train=(X, Y), validation=0.5, test=(X, Y))),
    "data.Data.only": lambda: (lambda split: small().only(split), dict(split="train")),
    "data.Data.to": lambda: on(small(), "to", device="cpu"),
    "data.Data.fewer": lambda: on(small(), "fewer", train=9),
    "data.Data.take": lambda: on(small(), "take", split="train", rows=torch.arange(3)),
    "data.Data.unit": lambda: on(small(), "unit", split="train"),
    "data.Data.minibatches": lambda: on(small(), "minibatches", size=5),
    "data.Data.size": lambda: on(small(), "size", split="train"),
    "data.Data.batches": lambda: on(
        small(), "batches", split="train", size=5, generator=generator()
    ),
    "data.Data.normalise": lambda: on(small(), "normalise", x=X),
    "data.wrap": lambda: (data.wrap, dict(data=small())),
    "data.rows_of": lambda: (data.rows_of, dict(pair=(X, Y), rows=np.arange(3))),
    "data.hold_out": lambda: (data.hold_out, dict(labels=Y.numpy(), n=3, seed=0, stay=0)),
    "datasets.mnist_small": lambda: (datasets.mnist_small, {}),
    "datasets.mnist": lambda: (datasets.mnist, dict(root="none", download=False)),
    "datasets.raw_mnist": lambda: (datasets.raw_mnist, dict(root="none", download=False)),
    "datasets.cifar10": lambda: (datasets.cifar10, dict(root="none", download=False)),
    "datasets.cifar100": lambda: (datasets.cifar100, dict(root="none", download=False)),
    "judge.stand_in": lambda: (judge.stand_in, dict(model=tiny_model())),
    "judge.judge": lambda: (
        judge.judge,
        dict(model=tiny_model(), data=small(), run=Run(), split="validation", limit=math.inf),
    ),
    "judge.hardest_first": lambda: (
        judge.hardest_first, dict(model=tiny_model(), data=small(), run=Run())
    ),
    "judge.as_metric": lambda: (
        judge.as_metric, dict(cost=3.0, data=small(), split="validation")
    ),
    "judge.evaluate": lambda: (
        judge.evaluate,
        dict(model=tiny_model(), data=small(), split="validation", mask=mask(), run=Run()),
    ),
    "judge.Paired": lambda: (judge.Paired, dict(examples=9, only_a=1, only_b=2)),
    "judge.Recall": lambda: (judge.Recall, dict(name="4", right=8, examples=9)),
    "judge.by_class": lambda: (
        judge.by_class,
        dict(model=tiny_model(), data=small(), split="validation", mask=mask(), run=Run()),
    ),
    "judge.Estimate": lambda: (
        judge.Estimate, dict(model=tiny_model(), data=small(), hardest=5, seed=0)
    ),
    "judge.paired": lambda: (
        judge.paired,
        dict(a=tiny_model(), b=tiny_model(seed=1), data=small(), split="validation", run=Run()),
    ),
    "score.magnitude": lambda: (score.magnitude, dict(model=tiny_model(), names=["0.weight"])),
    "score.median": lambda: (score.median, dict(model=tiny_model(), names=["0.weight"])),
    "score.relative": lambda: (score.relative, dict(model=tiny_model(), mask=mask())),
    "score.sizes": lambda: (
        score.sizes, dict(model=tiny_model(), mask=mask(), measure="absolute", dense=0.1)
    ),
    "score.deviation": lambda: (score.deviation, dict(model=tiny_model(), mask=mask())),
    "score.gradient": lambda: (
        score.gradient,
        dict(model=tiny_model(), data=small(), names=["0.weight"], examples=9, seed=0, run=Run()),
    ),
    "score.weight_gradient": lambda: (
        score.weight_gradient,
        dict(model=tiny_model(), data=small(), names=["0.weight"], examples=9, seed=0, run=Run()),
    ),
    "select.pool": lambda: (
        select.pool, dict(scores=scores(), granularity="filter", reduce="sum")
    ),
    "surgery.groups": lambda: (
        surgery.groups, dict(model=tiny_model(), example=tiny_data().example)
    ),
    "surgery.couple": lambda: (
        surgery.couple,
        dict(model=tiny_model(), mask=filters(), example=tiny_data().example, ignore=("2.*",),
             partial=False),
    ),
    "surgery.shrink": lambda: (
        surgery.shrink,
        dict(model=tiny_model(), mask=filters(), example=tiny_data().example, ignore=("2.*",),
             partial=False),
    ),
    "surgery.Plan": lambda: (
        surgery.Plan,
        dict(model="Sequential", cuts={"0.weight": {0: (0, 1)}}, shapes={"0.weight": (12, 8)},
             attributes={"0": {"out_features": 2}}),
    ),
    "interop.to_torch_prune": lambda: (
        interop.to_torch_prune, dict(model=tiny_model(), mask=mask())
    ),
    "interop.from_torch_prune": lambda: (
        interop.from_torch_prune, dict(model=interop.to_torch_prune(tiny_model(), mask()))
    ),
    "interop.to_onnx": lambda: (
        interop.to_onnx, dict(model=tiny_model(), example=X, path="net.onnx")
    ),
    "surgery.planned": lambda: (
        surgery.planned, dict(model=tiny_model(), mask=filters(), example=tiny_data().example)
    ),
    "surgery.rebuild": lambda: (
        surgery.rebuild, dict(model=tiny_model(), plan=surgery.plan_of(small_one()))
    ),
    "surgery.plan_of": lambda: (surgery.plan_of, dict(small=small_one())),
    "surgery.write_back": lambda: (
        surgery.write_back, dict(small=small_one(), model=tiny_model())
    ),
    "select.spread": lambda: (
        select.spread,
        dict(mask=Mask({n: s > 0 for n, s in select.pool(scores(), "filter").items()}),
             like=scores()),
    ),
    "select.largest": lambda: (
        select.largest,
        dict(scores=scores(), sparsity=0.5, scope="layer", within=Mask.ones(tiny_model()),
             multiple=2),
    ),
    "select.above": lambda: (
        select.above,
        dict(scores=scores(), thresholds=dict.fromkeys(weights(), 0.5),
             within=Mask.ones(tiny_model())),
    ),
    "select.exchange": lambda: (
        select.exchange, dict(scores=scores(), wanted=scores(1), share=0.1, within=mask())
    ),
    "select.stages": lambda: (select.stages, dict(sparsity=0.5, rounds=3)),
    "select.cubic": lambda: (select.cubic, dict(sparsity=0.5, t=0.3)),
    "select.ranks": lambda: (select.ranks, dict(x=torch.rand(5))),
    "select.log_wheel": lambda: (
        select.log_wheel, dict(a=torch.rand(5), wheel="inv", strength=4.0)
    ),
    "select.Wheel": lambda: (
        select.Wheel, dict(names=["0.weight"], alive=torch.arange(96), logits=torch.zeros(96))
    ),
    "select.wheels": lambda: (
        select.wheels,
        dict(scores=scores(), wheel="inv", strength=4.0, scope="layer", within=mask()),
    ),
    "select.spun": lambda: (
        select.spun,
        dict(parent=mask(), wheels=select.wheels(scores(), "inv", 4.0, "layer", mask()),
             share=0.1, sparsity=0.9, generator=generator()),
    ),
    "select.spin": lambda: (
        select.spin, dict(log_chances=torch.zeros(5), n=2, generator=generator())
    ),
    "search.costs": lambda: (
        search.costs,
        dict(model=tiny_model(), data=small(), candidates=[mask(), mask(1)],
             decode=search.itself, run=Run(), limits=[30.0, 30.0]),
    ),
    "search.itself": lambda: (search.itself, dict(model=tiny_model(), changes=mask())),
    "recording.Recording": lambda: (recording.Recording, dict(model=tiny_model())),
    "recording.judged": lambda: (
        recording.judged,
        dict(model=tiny_model(), data=small(), variants=[mask(), mask(1)], run=Run(), limits=[9.0, 9.0]),
    ),
    "nodes.Nodes": lambda: (
        nodes.Nodes, dict(who="test", model=tiny_model(), data=small(), ignore=()),
    ),
    "nodes.Activity": lambda: (
        nodes.Activity,
        dict(taylor=torch.ones(3), mean=torch.ones(3), covariance=torch.eye(3), outgoing=torch.ones(3)),
    ),
    "nodes.activity": lambda: (nodes.activity, of_nodes(examples=9, seed=0, run=Run())),
    "nodes.ablation": lambda: (nodes.ablation, of_nodes(examples=9, seed=0, run=Run())),
    "nodes.importance": lambda: (
        nodes.importance,
        dict(found=folding()["found"], sensitivity="taylor", correlation="mean", redundancy=0.5,
             combined="sum", measured={"0.weight": torch.rand(12)}),
    ),
    "stripes.similarity": lambda: (stripes.similarity, dict(skeletons=points())),
    "stripes.thresholds": lambda: (
        stripes.thresholds, dict(skeletons=points(), delta=0.1, threshold="dtc")
    ),
    "stripes.pressure": lambda: (stripes.pressure, dict(minibatches=9, share=0.5)),
    "stripes.convolutions": lambda: (
        stripes.convolutions, dict(model=tiny_residual(), ignore=["conv3*"], who="test")
    ),
    "stripes.wrap": lambda: (stripes.wrap, dict(model=tiny_residual(), ignore=["conv3*"])),
    "stripes.unwrap": lambda: (stripes.unwrap, dict(model=wrapped())),
    "stripes.layers": lambda: (stripes.layers, dict(model=wrapped())),
    "stripes.left": lambda: (
        stripes.left,
        dict(model=wrapped(), mask=Mask({}),
             groups=surgery.groups(wrapped(), tiny_images().example)),
    ),
    "stripes.bearable": lambda: (stripes.bearable, dict(epochs=20)),
    "stripes.shares": lambda: (stripes.shares, dict(mask=Mask.ones(tiny_residual()))),
    "stripes.compact": lambda: (
        stripes.compact,
        dict(model=tiny_residual(), mask=Mask.ones(tiny_residual()), example=tiny_images().example,
             form="stripes", seconds=0.01),
    ),
    "clusters.rows": lambda: (clusters.rows, rows_of()),
    **{
        f"clusters.{name}": lambda name=name: (getattr(clusters, name), dict(x=points()))
        for name in ("normalised", "turned")
    },
    "clusters.Features": lambda: (
        clusters.Features, dict(codes=torch.clone, back=torch.clone, error=0.0, steps=1, converged=True),
    ),
    "clusters.code_width": lambda: (clusters.code_width, dict(n=20)),
    "clusters.features": lambda: (
        clusters.features,
        dict(x=points(), kind="autoencoder", width=3, noise=0.5, steps=4, seed=0, run=Run()),
    ),
    "clusters.relative_error": lambda: (
        clusters.relative_error, dict(found=clusters.features(points(), "raw"), x=points())
    ),
    "clusters.held_out_error": lambda: (
        clusters.held_out_error, dict(x=points(), kind="pca", share=0.3, width=2, seed=0)
    ),
    "clusters.clustered": lambda: (
        clusters.clustered, dict(codes=points(), k=3, algorithm="kmeans", seed=0)
    ),
    "clusters.survivors": lambda: (
        clusters.survivors,
        dict(codes=points(), labels=torch.arange(9) % 3, norms=torch.ones(9), survivor="nearest"),
    ),
    "clusters.silhouettes": lambda: (
        clusters.silhouettes, dict(codes=points(), ks=[2, 3], algorithm="ward", seed=0)
    ),
    "nodes.folded": lambda: (nodes.folded, folding()),
    "search.cost": lambda: (search.cost, dict(model=tiny_model(), data=small(), run=Run())),
    "search.cut": lambda: (
        search.cut,
        dict(model=tiny_model(), data=small(), mask=mask(), index=1, of=1, run=Run(), why="text"),
    ),
    "count.params": lambda: (count.params, dict(model=tiny_model(), mask=mask())),
    "count.compression": lambda: (count.compression, dict(model=tiny_model(), mask=mask())),
    "count.Macs": lambda: (count.Macs, dict(dense=2, sparse=1)),
    "count.budget": lambda: (
        count.budget, dict(model=tiny_model(), x=X, told={"macs": 0.5, "params": 100})
    ),
    "count.size": lambda: (count.size, dict(model=tiny_model(), mask=mask())),
    "count.latency": lambda: (
        count.latency, dict(models={"a": tiny_model()}, x=X, seconds=0.01, warmup=1, threads=1)
    ),
    "count.Latency": lambda: (
        count.Latency, dict(median=0.2, low=0.1, high=0.3, runs=5, batch=2, threads=1)
    ),
    "count.Costs": lambda: (count.Costs, dict(rows={})),
    "count.costs": lambda: (
        count.costs,
        dict(model=tiny_model(), mask=filters(), x=X, small=small_one(), seconds=0.01, threads=1),
    ),
    "train.recalibrate": lambda: (
        train.recalibrate,
        dict(model=tiny_model(), data=small(), examples=20, batch=10, seed=0, run=Run()),
    ),
    "count.macs": lambda: (count.macs, dict(model=tiny_model(), x=X, mask=mask())),
    "mask.prunable": lambda: (
        mask_room.prunable,
        dict(model=tiny_model(), biases=False, ignore=("0.*",), example=X, why=False),
    ),
    "mask.Mask": lambda: (Mask, dict(tensors={"0.weight": torch.ones(12, 8, dtype=torch.bool)})),
    "mask.Mask.ones": lambda: (
        Mask.ones, dict(model=tiny_model(), biases=False, ignore=("0.*",), example=X)
    ),
    "mask.Mask.rest": lambda: on(mask(), "rest"),
    "mask.Mask.left": lambda: on(mask(), "left", model=tiny_model()),
    "mask.Mask.check": lambda: on(mask(), "check", model=tiny_model()),
    "mask.Mask.apply_": lambda: on(mask(), "apply_", model=tiny_model()),
    "mask.Mask.hold": lambda: held(),
    "mask.Mask.to_bytes": lambda: on(mask(), "to_bytes"),
    "mask.Mask.from_bytes": lambda: (Mask.from_bytes, dict(packed=mask().to_bytes())),
    "mask.Mask.length": lambda: (Mask.length, dict(start=mask().to_bytes())),
    "knobs.Range": lambda: (knobs.Range, dict(low=0, high=1, low_open=True, high_open=False)),
    "knobs.Choice": lambda: (lambda name: knobs.Choice(name), dict(name="a")),
    "knobs.Patterns": lambda: (knobs.Patterns, {}),
    "knobs.Several": lambda: (knobs.Several, dict(each=knobs.Range(0, 1))),
    "knobs.Switch": lambda: (knobs.Switch, {}),
    "knobs.Useful": lambda: (knobs.Useful, dict(low=0.1, high=1.0, log=True)),
    "knobs.shown": lambda: (knobs.shown, dict(value=1)),
    "knobs.Knob": lambda: (
        knobs.Knob,
        dict(name="k", rule=knobs.Range(0, 1), default=0.5, whole=False, optional=False),
    ),
    "knobs.knobs": lambda: (knobs.knobs, dict(method=magnitude)),
    "knobs.helps": lambda: (knobs.helps, dict(method=magnitude)),
    "steps.Tried": lambda: (
        Tried,
        dict(costs=(1.0, 2.0), chosen=0, kept=(3, 4), vectors=((0.5,), (0.6,)), replaced=(1,),
             allowed=3.0, unit="errors"),
    ),
    "steps.Step": lambda: (
        Step,
        dict(phase="prune", index=1, of=2, mask=mask(), metrics={"accuracy": 0.5},
             info={"a": 1}, tried=Tried((1.0,), 0)),
    ),
    "steps.serial": lambda: (steps.serial, dict(function=abs, items=[1, 2])),
    "steps.Run": lambda: (
        Run, dict(workers=map, journal=Journal("j"), stop=threading.Event(), memory=1000)
    ),
    "steps.derive": lambda: (lambda seed, part: steps.derive(seed, part), dict(seed=0, part="a")),
    "method.method": lambda: (
        method_room.method, dict(function=unmethodical, check=None, tuning=None, inputs=(),
                                 regrows=False, quick={"sparsity": 0.1}, work=None),
    ),
    **{
        f"models.{kind.__name__}": functools.partial(lambda kind: (kind, dict(outputs=4)), kind)
        for kind in (models.LeNet300100, models.LeNet5)
    },
    **{
        f"models.{kind.__name__}": functools.partial(
            lambda kind: (kind, dict(outputs=4, width=0.1, inputs=1)), kind
        )
        for kind in (models.LeNet1998, models.AlexNet, models.VGG16, models.VGGSmall,
                     models.ResNet20, models.ResNet56)
    },
    "models.build": lambda: (
        models.build, dict(name="lenet_5_1998", seed=0, outputs=4, width=0.5, inputs=1)
    ),
    "models.pretrained": lambda: (
        models.pretrained, dict(name="lenet_300_100", seed=0, variant="")
    ),
    "models.provenance": lambda: (
        models.provenance, dict(name="lenet_300_100", seed=0, variant="")
    ),
    "models.file_name": lambda: (models.file_name, dict(name="lenet_5", seed=0, variant="")),
    "evolve.Proposal": lambda: (
        evolve.Proposal, dict.fromkeys(("others", "mutants", "mended", "crossed", "trials"), X)
    ),
    "evolve.Generation": lambda: (
        evolve.Generation,
        dict(index=0, vectors=X, scores=(1.0,) * 12, replaced=(0,), proposal=None),
    ),
    "evolve.spread": lambda: (
        evolve.spread, dict(n=5, low=bounds()[0], high=bounds()[1], generator=generator())
    ),
    "evolve.propose": lambda: (
        evolve.propose,
        dict(vectors=torch.rand(6, 2, dtype=torch.float64), best=bounds()[1], low=bounds()[0],
             high=bounds()[1], strategy="rand1bin", scale=0.5, crossover=0.9,
             generator=generator()),
    ),
    "evolve.evolve": lambda: (
        evolve.evolve,
        dict(judge=lambda vectors, rivals: vectors.sum(1).tolist(), start=torch.rand(6, 2),
             low=bounds()[0], high=bounds()[1], generations=2, strategy="rand1bin", scale=0.5,
             crossover=0.9, generator=generator()),
    ),
    "evolve.check_bounds": lambda: (
        evolve.check_bounds, dict(low=bounds()[0], high=bounds()[1])
    ),
    "rounds.finetuned": lambda: (
        rounds.finetuned,
        dict(model=tiny_model(), data=small(), mask=mask(), seed=0, run=Run(), on="masked", epochs=1),
    ),
    "rounds.recalibrated": lambda: (
        rounds.recalibrated,
        dict(model=tiny_model(), data=small(), mask=mask(), index=1, of=1, seed=0, run=Run()),
    ),
    "rounds.in_rounds": lambda: (
        rounds.in_rounds,
        dict(model=tiny_model(), data=small(), mask=mask(), choose=lambda mask, target: mask,
             sparsity=0.6, rounds=2, seed=0, run=Run(), epochs=0, lr=0.1),
    ),
    "report.Report": lambda: (
        Report,
        dict(method="m", knobs={}, before={"accuracy": 0.9}, after={"accuracy": 0.8}, history=[],
             model=tiny_model(), mask=mask(), stopped=False, metric="accuracy", examples=9,
             macs=count.Macs(2, 1), missing={}, environments=[], tests=[]),
    ),
    "report.Report.test": lambda: on(pruned(), "test"),
    "report.Report.shrink": lambda: on(pruned(), "shrink"),
    "report.Report.rows": lambda: on(pruned(), "rows"),
    "report.Report.save": lambda: on(pruned(), "save", path="report", form="masked"),
    "report.load_mask": lambda: (report.load_mask, dict(path=saved())),
    "report.with_error": lambda: (report.with_error, dict(accuracy=0.5, n=10)),
    "report.shown_metric": lambda: (
        report.shown_metric, dict(value=0.5, metric="accuracy", n=10)
    ),
    "report.Comparison": lambda: (
        report.Comparison, dict(reports={"a": [pruned()]}, seeds=(0,))
    ),
    "report.mean_and_spread": lambda: (report.mean_and_spread, dict(values=[1.0, 2.0])),
    "prune.progress": lambda: (prune.progress, dict(steps=iter(pruned().history), label="l")),
    "prune.Pruning": lambda: (
        prune.Pruning,
        dict(method=magnitude, model=tiny_model(), data=small(), seed=0, run=Run(), sparsity=0.5),
    ),
    "prune.prune": lambda: (
        prune.prune,
        dict(method=magnitude, model=tiny_model(), data=small(), seed=0, run=Run(), watch=(),
             bar=False, sparsity=0.5),
    ),
    "prune.compare": lambda: (
        prune.compare,
        dict(methods=[magnitude], model=tiny_model(), data=small(), seeds=(0,), run=Run(),
             bar=False, sparsity=0.5),
    ),
    "prune.sweep": lambda: (
        prune.sweep,
        dict(method=magnitude, model=tiny_model(), data=small(), seeds=(0,), run=Run(),
             bar=False, sparsity=[0.5]),
    ),
    "report.Comparison.curve": lambda: on(
        report.Comparison({"a": [pruned()]}, (0,)), "curve", x="sparsity"
    ),
    "journal.environment": lambda: (environment, dict(device=None)),
    "journal.Journal": lambda: (Journal, dict(path="j", any_code=False)),
    "journal.Journal.open": lambda: on(
        Journal("j"), "open", method=magnitude, knobs={"sparsity": 0.5}, seed=0,
        model=tiny_model(), data=small(),
    ),
    "journal.Journal.close": lambda: on(Journal("j"), "close"),
    "journal.Journal.note_precision": lambda: on(opened(), "note_precision", form="fp32"),
    "journal.Journal.get": lambda: on(opened(), "get", key="a"),
    "journal.Journal.put": lambda: on(opened(), "put", key="a", value=1.0),
    "journal.Journal.load_fit": lambda: on(opened(), "load_fit", key="a"),
    "journal.Journal.save_fit": lambda: on(
        opened(), "save_fit", key="a", fit=Fit(1, [{"accuracy": 0.5}])
    ),
    "checkpoint.content_key": lambda: (checkpoint.content_key, dict(tensors=weights())),
    "checkpoint.save": lambda: (
        checkpoint.save, dict(path="c", model=tiny_model(), info={"a": 1}, half=False)
    ),
    "checkpoint.pack": lambda: (checkpoint.pack, dict(keep=torch.ones(3, 4).bool())),
    "checkpoint.unpack": lambda: (
        checkpoint.unpack, dict(packed=checkpoint.pack(torch.ones(9).bool()), shape=(3, 3))
    ),
    "models.save": lambda: (
        models.save,
        dict(path="m", model=tiny_model(), info={"a": 1}, mask=None, example=X, half=False),
    ),
    "models.load": lambda: (models.load, dict(path=saved(), model=tiny_model())),
    "checkpoint.exists": lambda: (checkpoint.exists, dict(path=saved())),
    "checkpoint.read_info": lambda: (checkpoint.read_info, dict(path=saved())),
    "checkpoint.load_into": lambda: (
        checkpoint.load_into, dict(model=tiny_model(), path=saved())
    ),
    "course.check": lambda: (
        course.check, dict(attempt=abs, like=abs, on=[(1,)], hints={"a": abs}, within=0.1)
    ),
    "exercises.exercise": lambda: (exercises.exercise, dict(name="keep_largest", attempt=abs)),
    "exercises.mark": lambda: (
        exercises.mark, dict(name=exercises.Exercise(abs, [(1,)]), attempt=abs)
    ),
    "course.stops": lambda: (course.stops, dict(error=KeyError("fc1"))),
    "exercises.challenge": lambda: (exercises.challenge, dict(name="score", attempt=...)),
    "exercises.Exercise": lambda: (
        exercises.Exercise, dict(right=abs, on=[(1,)], hints={"a": abs}, within=0.1)
    ),
    "exercises.Challenge": lambda: (
        exercises.Challenge, dict(judge=float, what="w", best="highest", rivals=dict)
    ),
    "course.Verdict": lambda: (
        course.Verdict, dict(claim="c", answer="holds", condition="", because="b.")
    ),
    "course.holds": lambda: (
        course.holds,
        dict(claim="c", less={"error": over_networks()}, more={"size": over_networks()}, condition="d"),
    ),
    "course.verdict": lambda: (
        course.verdict, dict(attempt=abs, like=abs, on=[(1,)], hints={"a": abs}, within=0.1)
    ),
    "looks.Look": lambda: (looks.Look, dict(colour="#757575", marker="o", dash="-")),
    "looks.looks": lambda: (looks.looks, dict(names=["a", "b"])),
    "plot.style": lambda: (plot.style, {}),
    "plot.axes": lambda: (plot.axes, dict(title="t", x="x", y="y", size=(3, 2))),
    "plot.curves": lambda: (
        plot.curves,
        dict(lines={"a": [[(0.1, 0.9), (0.2, 0.8)]]}, title="t", x="x", y="y", dense=0.9,
             points={"b": (0.1, 0.5)}, xlim=(0.0, 1.0), ylim=(0.0, 1.0)),
    ),
    "plot.prepare": lambda: (plot.prepare, {}),
    "plot.way": lambda: (plot.way, dict(steps=pruned().history)),
    "plot.scatter": lambda: (
        plot.scatter,
        dict(groups={"a": [(1.0, 2.0)]}, x="x", y="y", title="t", lines={"b": 1.0}),
    ),
    "plot.history": lambda: (plot.history, dict(source=pruned().history, title="t", dense=0.9)),
    "plot.dots": lambda: (
        plot.dots,
        dict(rows={"a": {"b": [1.0, 2.0]}}, x="x", title="t", lines={"c": [1.0]}, log=False),
    ),
    "plot.comparison": lambda: (
        plot.comparison, dict(result=report.Comparison({"a": [pruned()]}, (0,)), title="t")
    ),
    "plot.groups": lambda: (plot.groups, dict(found=groups(), title="t")),
    "plot.matrix": lambda: (
        plot.matrix, dict(values=torch.rand(2, 3), keep=torch.rand(2, 3) > 0.5, title="t")
    ),
    "plot.images": lambda: (
        plot.images,
        dict(pictures=[("a", picture())], label="l", title="t", cmap="viridis", limits=(0, 1)),
    ),
    "plot.wheel": lambda: (
        plot.wheel, dict(probabilities=[0.5, 0.5], sizes=[1.0, 2.0], title="t", picked=(0,))
    ),
    "plot.landscape": lambda: (
        plot.landscape,
        dict(xs=[0.0, 1.0, 2.0], ys=[0.0, 1.0], values=picture(), allowed=picture() > 2, x="x",
             y="y", label="l", title="t", dots=[(0.0, 1.0)], names=["a"],
             arrows=[((0.0, 0.0), (1.0, 1.0), "a")]),
    ),
    "plot.generations": lambda: (
        plot.generations,
        dict(groups=[(1.0, [0.5, 0.25], 0)], x="x", y="y", title="t", names=("a", "b")),
    ),
    "plot.population": lambda: (
        plot.population, dict(steps=searched()[1].history, total=147, title="t")
    ),
    "plot.tree": lambda: (plot.tree, dict(steps=searched()[0].history, examples=24, title="t")),
    "train.fit": lambda: (
        train.fit,
        dict(model=tiny_model(), data=small(), phase="train", mask=mask(), remask=None,
             remask_when="after", every=1, penalty=None, decay={"*.bias": 0.0}, early=0,
             keep="last", seed=0, run=Run(), epochs=1, lr=0.1, batch=8, optimizer="sgd",
             momentum=0.9, weight_decay=0.0, schedule="cosine", peak=0.25, precision="fp32"),
    ),
    **{
        place: functools.partial(
            lambda function: (
                function,
                of_kind(function)
                | {n: k.default for n, k in function.knobs.items()}
                | function.quick | dict(seed=0, run=Run()),
            ),
            function,
        )
        for place, function in public().items()
        if hasattr(function, "knobs") and place != "train.fit"
    },
    "experiments.Arm": lambda: (
        experiments.Arm,
        dict(method=magnitude, knobs={}, model="lenet_5", short={}, publish=False, variant="",
             start=tiny_model, data=tiny_data, seeds=(0,), networks=(0,), store="fp32"),
    ),
    "experiments.Cell": lambda: (
        experiments.Cell,
        dict(experiment=toy(), name="once", network=None, seed=0, short=False, folder=Path("f"),
             journals=None),
    ),
    "experiments.Claim": lambda: (
        experiments.Claim, dict(what="w", value=1.0, unit="%", source="s")
    ),
    "experiments.Experiment": lambda: (
        experiments.Experiment,
        dict(name="n", title="t", paper="p", status="reproduction", data=tiny_data,
             arms=toy().arms, claims=(), showcase="", seeds=(0,), short_seeds=(0,)),
    ),
    "experiments.at": lambda: (
        experiments.at, dict(cell=recorded_cells()[0], sparsity=0.5, split="test")
    ),
    "experiments.by_network": lambda: (
        experiments.by_network, dict(cells=recorded_cells(), measure=experiments.size)
    ),
    "experiments.difference": lambda: (
        experiments.difference,
        dict(cells=recorded_cells(), others=recorded_cells(), measure=experiments.size),
    ),
    **{
        f"experiments.{name}": lambda name=name: (
            getattr(experiments, name), dict(cell=recorded_cells()[0], split="test")
        )
        for name in ("lost", "unpruned")
    },
    "experiments.error": lambda: (
        experiments.error,
        dict(cell=experiments.recorded("cdp-dtc")[0], split="validation", last=True),
    ),
    "experiments.size": lambda: (experiments.size, dict(cell=recorded_cells()[0])),
    "experiments.macs_saved": lambda: (experiments.macs_saved, dict(cell=recorded_cells()[0])),
    **{
        f"experiments.{name}": lambda name=name: (
            getattr(experiments, name), dict(cell=experiments.recorded("cdp-dtc-lengths")[0])
        )
        for name in ("stripes_left", "filters_left")
    },
    "experiments.time_saved": lambda: (
        experiments.time_saved, dict(cell=experiments.recorded("optimal-threshold")[0])
    ),
    "experiments.cells_of": lambda: (
        experiments.cells_of, dict(experiment=toy(), short=False, folder=Path("f"))
    ),
    "experiments.chosen": lambda: (
        experiments.chosen,
        dict(experiment=toy(), short=False, folder=Path("f"), only="on", arm="once",
             network=None, seed=0),
    ),
    "experiments.figure": lambda: (
        experiments.figure, dict(cell=recorded_cells()[0], when="before", split="test")
    ),
    "experiments.is_done": lambda: (experiments.is_done, dict(cell=cell())),
    "experiments.load": lambda: (experiments.load, dict(name="roulette")),
    "experiments.mean_spread": lambda: (
        experiments.mean_spread, dict(values=[1.0, 2.0], digits=2)
    ),
    "experiments.names": lambda: (experiments.names, {}),
    "experiments.outcomes": lambda: (
        experiments.outcomes, dict(cells=[], jobs=1, until=0.0, dask="", threads=1)
    ),
    "experiments.path": lambda: (
        experiments.path, dict(cell=recorded_cells()[0], split="test")
    ),
    "experiments.recorded": lambda: (
        experiments.recorded, dict(name="roulette", folder=Path("none"))
    ),
    "experiments.reproduce": lambda: (
        experiments.reproduce,
        dict(
            name="roulette", jobs=1, threads=1, until=0.0, dask="", short=True,
            folder=Path("none"), seed=0,
        ),
    ),
    "experiments.results_folder": lambda: (
        experiments.results_folder, dict(name="roulette", short=False)
    ),
    "experiments.rows": lambda: (experiments.rows, dict(cell=recorded_cells()[0])),
    "experiments.run_cell": lambda: (
        experiments.run_cell,
        dict(cell=cell(), stop=threading.Event(), until=math.inf, model=tiny_model()),
    ),
    "experiments.showcase": lambda: (experiments.showcase, dict(name="roulette")),
    "experiments.stopped": lambda: (
        experiments.stopped, dict(cell=recorded_cells()[0], tolerance=0.1, split="validation")
    ),
    "experiments.table": lambda: (experiments.table, dict(cells=recorded_cells())),
    "experiments.tradeoff": lambda: (
        experiments.tradeoff, dict(cells=recorded_cells(), split="test")
    ),
    "experiments.where": lambda: (
        experiments.where, dict(cells=recorded_cells(), model="lenet_300_100")
    ),
    "widgets.GeneMap": lambda: (
        widgets.GeneMap,
        dict(xs=[0.0, 1.0, 2.0], ys=[0.0, 1.0], kept=picture(), allowed=picture() > 2, over=None,
             x="x", y="y", label="l", title="t", population=4, generations=1,
             strategy="rand1bin", scale=0.5, crossover=0.9, seed=0),
    ),
    "widgets.Guess": lambda: (
        widgets.Guess,
        dict(question="q", answer=lambda report: 0.5, unit="%", least=0.0, across=None),
    ),
    "widgets.Instant": lambda: (
        widgets.Instant, dict(work=lambda a: "", title="t", a=(0.0, 1.0, 0.5))
    ),
    "widgets.Results": lambda: (
        widgets.Results,
        dict(name="mnist-bases", x="size", y="minutes", shown=["vgg_small"], title="t"),
    ),
    "widgets.LineageView": lambda: (
        widgets.LineageView, dict(source=searched()[0].history, title="t")
    ),
    "widgets.FilterView": lambda: (
        widgets.FilterView,
        dict(model=nn.Sequential(nn.Conv2d(1, 2, 3)), layer="0.weight", scores=torch.rand(2),
             mask=Mask({"0.weight": torch.rand(2, 1, 3, 3) > 0.5}), groups=None, stored=True),
    ),
    "widgets.MaskView": lambda: (
        widgets.MaskView, dict(model=tiny_model(), mask=mask(), data=small())
    ),
    "widgets.Panel": lambda: (
        widgets.Panel,
        dict(method=magnitude, model=tiny_model(), data=small(), show=["sparsity"],
             presets={"a": {"sparsity": 0.5}}, guess=None, rounds=1),
    ),
    "widgets.Piles": lambda: (
        widgets.Piles,
        dict(layer="conv", means=torch.rand(2, 3, 3), counts=[1, 2], stored=True,
             found={"raw": {"labels": [[0, 0], [0, 1]], "stay": {"near": [[0], [0, 1]]}}}),
    ),
    "widgets.Wheel": lambda: (
        widgets.Wheel,
        dict(sizes=torch.rand(3), wheels={"flat": torch.ones(3)}, seed=1, stored=True),
    ),
    "widgets.Playground": lambda: (
        widgets.Playground,
        dict(model=models.build("lenet_300_100"), data=few_digits(), stored=True),
    ),
    "widgets.Skeletons": lambda: (
        widgets.Skeletons,
        dict(layer="conv", runs={"a": [torch.rand(2, 3, 3)]}, delta=0.1, stored=True),
    ),
    "widgets.Thresholds": lambda: (widgets.Thresholds, dict(shown=lines(), judge=None, stored=True)),
    "widgets.Replay": lambda: (widgets.Replay, dict(source=searched()[0].history, title="t")),
    "widgets.Sketch": lambda: (
        widgets.Sketch,
        dict(question="q", answer=lambda report: [(0.0, 0.0)], x=("x", 0.0, 1.0),
             y=("y", 0.0, 1.0)),
    ),
    **{
        f"widgets.views.{name}.{name}": functools.partial(
            lambda name: (
                getattr(importlib.import_module(f"prunekit.widgets.views.{name}"), name),
                dict(model=tiny_model(), data=small()),
            ),
            name,
        )
        for name in (
            "magnitude", "roulette", "differential_evolution", "optimal_threshold",
            "filter_clustering",
        )
    },
    "widgets.views.cdp_dtc.cdp_dtc": lambda: (
        importlib.import_module("prunekit.widgets.views.cdp_dtc").cdp_dtc,
        dict(model=tiny_residual(), data=tiny_images(), layer="conv2.weight", epochs=1, delta=0.1,
             stored=True),
    ),
}  # fmt: skip


@functools.cache
def few_digits():
    return datasets.mnist_small().fewer(validation=100)


def lines():
    return shown_of(
        "t", "accuracy", 60, 0.9, 0.02, {"0.weight": [0.2, 0.8]},
        [dict(line=0.5, value=0.8, macs=0.5)], [],
    )  # fmt: skip


def held():
    model = tiny_model()
    return mask().hold, dict(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1))


def opened():
    journal = Journal("j")
    journal.open(magnitude, {"sparsity": 0.5}, 0, tiny_model(), small())
    return journal


# ------------------------------------------------------------------------------------ bad values


class Rude:
    """An object that can be neither compared, shown, nor taken for true or false."""

    def __eq__(self, other):
        raise RuntimeError("no ==")

    __hash__ = None

    def __repr__(self):
        raise RuntimeError("no repr")

    def __bool__(self):
        raise RuntimeError("no bool")


class Plain:
    """A class of nothing."""


def quiet(*args, **kwargs):
    return None


def of_inference():
    with torch.inference_mode():
        return torch.ones(3)


def file():
    Path("open").touch()
    return open("open", "rb")


BAD = {
    "None": lambda: None,
    "True": lambda: True,
    "text": lambda: "text",
    "empty text": lambda: "",
    "NUL": lambda: "a\0b",
    "path": lambda: Path("nowhere") / "file",
    "folder": lambda: Path("."),
    "bytes": lambda: b"bytes",
    "-1": lambda: -1,
    "0": lambda: 0,
    "1.5": lambda: 1.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "10**400": lambda: 10**400,
    "complex": lambda: 1 + 2j,
    "function": lambda: quiet,
    "class": lambda: Plain,
    "rude": Rude,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "ragged": lambda: [[1, 2], [3]],
    "texts": lambda: ["a", 1],
    "nothings": lambda: [None, None],
    "rudes": lambda: [Rude()],
    "dict of nothing": lambda: {"0.weight": None, 3: 4},
    "array": lambda: np.arange(3.0),
    "array of objects": lambda: np.array([None, "a"], dtype=object),
    "bools": lambda: torch.ones(12, 8, dtype=torch.bool),
    "scalar": lambda: torch.tensor(0.5),
    "wrong shape": lambda: torch.ones(2, 3, 4),
    "whole numbers": lambda: torch.arange(3),
    "meta": lambda: torch.ones(3, device="meta"),
    "complex tensor": lambda: torch.ones(3, dtype=torch.complex64),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "empty tensor": lambda: torch.empty(0),
    "with gradient": lambda: torch.ones(3, requires_grad=True),
    "of inference": of_inference,
    "of nan": lambda: torch.full((12,), math.nan),
    "tensors of meta": lambda: {"0.weight": torch.ones(12, 8, device="meta")},
    "tensors of nan": lambda: {"0.weight": torch.full((12, 8), math.nan)},
    "module": lambda: nn.Linear(2, 2),
    "module without parameters": nn.ReLU,
    "lazy module": lambda: nn.LazyLinear(3),
    "module of meta": lambda: nn.Linear(2, 2, device="meta"),
    "generator": lambda: (i for i in range(3)),
    "file": file,
    "foreign mask": lambda: Mask({"foreign.weight": torch.ones(2, 2, dtype=torch.bool)}),
    "empty mask": lambda: Mask({}),
    "journal": lambda: Journal("foreign"),
    "report": lambda: pruned(),
    "step": lambda: Step("prune", 1, 1, Mask({}), {}),
    "steps": lambda: [Step("prune", 1, 1, Mask({}), {})],
    "method": lambda: magnitude,
    "data": lambda: tiny_data(),
    "torch's generator": generator,
    "run": lambda: Run(),
}


# ----------------------------------------------------------------------------------------- a call


# Functions that are called with what else is given: their own errors are for their makers.
CALLED = {
    "course.check": {"like"}, "course.verdict": {"like"}, "evolve.evolve": {"judge"},
    "exercises.mark": {"attempt"},
    "experiments.by_network": {"measure"}, "experiments.difference": {"measure"},
    "prune.compare": {"model"}, "prune.sweep": {"model", "method"}, "prune.prune": {"watch"}, "rounds.in_rounds": {"choose"},
    "search.costs": {"decode"}, "steps.serial": {"function", "items"},
    "train.fit": {"remask", "penalty"},
}  # fmt: skip


class TooLong(BaseException):
    """A call took longer than `LIMIT`."""


def _ring(*_):
    raise TooLong


def content(value, depth=0):
    """What must not change of an argument."""
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta" or value.layout is not torch.strided:
            return str(value.shape)
        return hashlib.blake2b(
            value.detach().contiguous().view(-1).resolve_conj().numpy().tobytes()
            if value.dtype is not torch.bfloat16
            else b""
        ).hexdigest()
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype != object else str(value)
    if isinstance(value, nn.Module):
        lazy = any(isinstance(p, nn.parameter.UninitializedParameter) for p in value.parameters())
        parts = {} if lazy else {n: content(t) for n, t in value.state_dict().items()}
        flags = [(m.training, len(m._forward_hooks)) for m in value.modules()]
        return parts, flags, [p.requires_grad for p in value.parameters()]
    if isinstance(value, Data):
        return content(value.splits, depth + 1), value.name
    if isinstance(value, Mask):
        return value.key
    if isinstance(value, dict) and depth < 5:
        return {name: content(part, depth + 1) for name, part in value.items()}
    if isinstance(value, (list, tuple)) and depth < 5:
        return [content(part, depth + 1) for part in value]
    return None


def fault(place, argument, bad):
    """What is wrong with a call, one argument of which is replaced; None if nothing is."""
    function, given = GOOD[place]()
    if argument is not None:
        given[argument] = BAD[bad]()
    before = {name: content(value) for name, value in given.items()}
    files = {path: path.stat().st_mtime_ns for path in Path(".").rglob("*")}
    said = io.StringIO()
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            result = function(**given)
            if inspect.isgenerator(result) or isinstance(result, (map, filter)):
                for _ in zip(range(DRAINED), result, strict=False):
                    pass
                if inspect.isgenerator(result):
                    result.close()
        return None
    except TooLong:
        return "hangs"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        ours = f"{os.sep}prunekit{os.sep}" in last.filename
        if argument in CALLED.get(place, ()):
            return None
        kinds = (ValueError, TypeError, OSError, steps.Stopped)
        if not (ours and last.line.startswith("raise") and isinstance(error, kinds)):
            return f"{type(error).__name__} at {where}: {error!s:.90}"
        if ":" not in str(error) and not isinstance(error, steps.Stopped):
            return f"names nothing: {error}"
        if isinstance(error, steps.Stopped):  # set, or told to be over
            return None
        changed = [name for name, value in given.items() if content(value) != before[name]]
        if changed:
            return f"changed {changed}"
        if place != "experiments.run_cell" and files != {
            path: path.stat().st_mtime_ns for path in Path(".").rglob("*")
        }:
            return "left a file"
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def cases():
    """Every place, argument and bad value, but what makes a download or a whole grid begin."""
    for place, good in GOOD.items():
        for argument in good()[1]:
            for bad in BAD:
                if argument != "until" and (argument, bad) != ("download", "True"):
                    yield place, argument, bad


@contextlib.contextmanager
def elsewhere():
    """In an empty folder, which is home too."""
    here, home = os.getcwd(), os.environ.get("PRUNEKIT_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["PRUNEKIT_HOME"] = str(Path(folder) / "home")
        try:
            yield
        finally:
            os.chdir(here)
            os.environ["PRUNEKIT_HOME"] = home or ""


def tried(chosen):
    """The faults of these cases, and how many were tried."""
    faults, n = {}, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in chosen:
            n += 1
            with elsewhere():
                if found := fault(*case):
                    faults[case] = found
            plot.plt.close("all")
    return faults, n


def test_every_public_callable_has_a_good_call():
    assert {*GOOD} == {*public()}


@pytest.mark.parametrize("place", GOOD)
def test_the_good_call_is_good(place):
    """But for what a data set lacks that is not there."""
    with elsewhere(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function, given = GOOD[place]()
        if place.startswith("datasets.") and given:
            with pytest.raises(FileNotFoundError):
                function(**given)
        else:
            function(**given)
    plot.plt.close("all")


def test_bad_inputs_work_or_are_refused_before_any_work():
    with elsewhere():
        every = [*cases()]
    if os.environ.get("PRUNEKIT_BAD") == "all":
        found, _ = tried(every)
    else:
        random.Random(0).shuffle(every)
        found, _ = tried(every[:SAMPLE])
    assert not found, "\n".join(f"{case}: {what}" for case, what in found.items())


if __name__ == "__main__":
    places = sys.argv[1:]
    with elsewhere():
        wanted = [c for c in cases() if not places or any(c[0].startswith(p) for p in places)]
    began = time.monotonic()
    found, n = tried(wanted)
    for (place, argument, bad), what in found.items():
        print(f"{place}({argument}={bad}): {what}")
    kinds = Counter(what.split(" ")[0] for what in found.values())
    print(f"{n} calls, {len(found)} faults, {time.monotonic() - began:.0f} s: {dict(kinds)}")
