"""The loop that most methods are: choose, cut, fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Annotated, Any, Unpack

from torch import nn

from prunekit import search, select, surgery, train
from prunekit._arguments import checked
from prunekit._modules import put_back, snapshot
from prunekit.data import wrap
from prunekit.judge import evaluate
from prunekit.knobs import Choice, Count, Names, Useful, knobs
from prunekit.mask import Mask
from prunekit.steps import Run, Step, derive
from prunekit.train import Tuning, fit
from prunekit.trial import copied

# choose(mask, target): what is left of the mask at that `select.Target`, a sparsity, one a layer or
# a budget, which `select.largest` knows all. It is called once a round, in their order, also by a
# run that is resumed, so it may count.
Choose = Callable[[Mask, Any], Mask]
On = Annotated[str, Choice("masked", "shrunk")]
Rounds = Annotated[Count, Useful(1, 40)]


def _check_tuning(*_: Any, sparsity: select.Target, rounds: int, **others: Any) -> None:
    select.stages(sparsity, rounds)
    declared = knobs(fit)
    for name, value in others.items():
        if name in declared:
            declared[name].check("fit", value)


@checked(check=_check_tuning)
def in_rounds(
    model: nn.Module,
    data: Any,
    mask: Mask,
    choose: Choose,
    *,
    sparsity: select.Target,
    rounds: int,
    seed: int,
    run: Run,
    on: On = "masked",
    recalibrate: bool = False,
    ignore: Names = (),
    **tuning: Unpack[Tuning],
) -> Generator[Step, None, Mask]:
    """Choose what stays, cut the rest and fine-tune, `rounds` times; gives back the last mask.

    ``choose(mask, target)`` gives the next mask and is called once a round; each round's target
    removes an equal share of what is left, so that the last is `sparsity`.

    on: which network is trained: "masked", the whole one, or "shrunk", the one that is left once
        the removed filters are cut out, which is faster; before every step its weights are put back
        under their names. The masks must then be those of `surgery.couple`. Both give the same
        history, to rounding.
    recalibrate: estimate the running statistics of norms anew after each cut.
    ignore: names of weights whose filters stay where the network is cut.

    Raises ValueError, before anything is trained, for a network that cannot be cut so.
    """
    for index, target in enumerate(select.stages(sparsity, rounds), start=1):
        mask = choose(mask, target)
        if recalibrate:
            yield recalibrated(model, data, mask, index, rounds, seed=derive(seed, index), run=run)
        else:
            yield search.cut(model, data, mask, index, rounds, run)
        yield from finetuned(
            model, data, mask, seed=derive(seed, index), run=run, on=on, ignore=ignore, **tuning
        )
    return mask


@checked
def finetuned(
    model: nn.Module,
    data: Any,
    mask: Mask,
    *,
    seed: int,
    run: Run,
    on: On = "masked",
    ignore: Names = (),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Train what a mask leaves, on the network that `in_rounds` says."""
    data = wrap(data)
    settings: dict[str, Any] = dict(phase="finetune", seed=seed, run=run, **tuning)
    if on == "masked":
        yield from fit(model, data, mask=mask, **settings)
        return
    small = surgery.shrink(model, mask, data.example, ignore=ignore, partial=True)
    zeros = Mask.ones(small, example=data.example).left(small)  # of an earlier pruning
    for step in fit(small, data, mask=zeros, **settings):
        surgery.write_back(small, model).eval()
        yield replace(step, mask=mask)


@checked
def recalibrated(
    model: nn.Module, data: Any, mask: Mask, index: int, of: int, *, seed: int, run: Run
) -> Step:
    """As `search.cut`, with running statistics that are of the network that is left."""
    data = wrap(data)
    mask.check(model)
    twin = train.recalibrate(mask.apply_(copied("recalibrate", model)), data, seed=seed, run=run)
    metrics = {data.metric_name: evaluate(twin, data)}
    run.poll()
    put_back(model, snapshot(twin))
    return Step("prune", index, of, mask, metrics, {"recalibrated": True})
