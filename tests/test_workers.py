"""Candidates judged by threads, processes and Dask: the same results, little sent, clear errors."""

import copy
import functools
import itertools
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny import tiny_data, tiny_model

from prunekit import Data, Journal, Mask, Run, fit, search
from prunekit._modules import state_key
from prunekit.method import method
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.steps import Step, Stopped

CANDIDATES = [(share / 10, seed) for share in (2, 5, 8) for seed in range(4)]


def thin(model, candidate):
    share, seed = candidate
    generator = torch.Generator().manual_seed(seed)
    return Mask(
        {n: torch.rand(k.shape, generator=generator) < share for n, k in Mask.ones(model).items()}
    )


def leaving_a_trace(model, candidate, *, folder, die=False):
    """As `thin`, and notes where the candidate was judged; with `die`, the first to come dies."""
    first = Path(folder, "died")
    if die and candidate == CANDIDATES[5] and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    Path(folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return thin(model, candidate)


def failing(model, candidate):
    if candidate == CANDIDATES[7]:
        raise KeyError("no such layer")
    return thin(model, candidate)


@contextmanager
def processes(n=2):
    with ProcessPoolExecutor(n, multiprocessing.get_context("spawn")) as pool:
        yield pool.map


@contextmanager
def threads():
    with ThreadPoolExecutor(3) as pool:
        yield pool.map


@contextmanager
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client.get_executor(pure=False).map


@pytest.fixture(
    scope="module", params=[threads, processes, cluster], ids=lambda made: made.__name__
)
def workers(request):
    """Each kind, started once for all tests that leave it whole."""
    with request.param() as found:
        yield found


def history(run, **knobs):
    """What a small search tells, and the network that it leaves."""
    model, data = tiny_model(), tiny_data()
    list(fit(model, data, epochs=2, batch=20, lr=0.1))
    steps = differential_evolution(
        model, data, rounds=2, generations=3, population=5, epochs=1, drop=0.2, tolerance=0.2,
        seed=3, run=run, **knobs,
    )  # fmt: skip
    told = [(s.phase, s.index, s.mask.key, str(s.metrics), str(s.info), s.tried) for s in steps]
    return told, state_key(model)


def test_all_workers_give_what_one_thread_gives(workers):
    data = tiny_data()
    models = [tiny_model(seed=seed) for seed in (0, 1)]
    alone = [search.costs(m, data, CANDIDATES, thin) for m in models]
    limits = [sorted(alone[0])[6]] * len(CANDIDATES)
    limited = search.costs(models[0], data, CANDIDATES, thin, limits=limits)
    run = Run(workers=workers)
    for _ in range(2):
        assert [search.costs(m, data, CANDIDATES, thin, run) for m in models] == alone
    assert search.costs(models[0], data, CANDIDATES, thin, run, limits) == limited
    for knobs in ({}, {"judged_by": "loss"}):  # and a whole search
        assert history(run, **knobs) == history(Run(), **knobs)
    assert len(set(alone[0])) > 3


def test_what_is_done_to_a_model_after_it_was_sent_is_nothing_to_the_workers(workers):
    model, data = tiny_model(), tiny_data()
    alone = search.costs(model, data, CANDIDATES, thin)
    for seed in range(3):
        used = copy.deepcopy(model)  # known to the workers by what it holds
        assert search.costs(used, data, CANDIDATES, thin, Run(workers=workers)) == alone
        thin(used, (0.2, seed)).apply_(used)


def test_candidates_over_their_limit_are_infinite_and_the_others_as_without():
    model, data = tiny_model(), tiny_data()
    full = search.costs(model, data, CANDIDATES, thin)
    for limit in (0, min(full), sorted(full)[5], max(full)):
        found = search.costs(model, data, CANDIDATES, thin, limits=[limit] * len(full))
        assert found == [errors if errors <= limit else math.inf for errors in full]


def test_beyond_its_limit_a_candidate_is_not_looked_at():
    """The second batch would not even fit the model."""
    x = torch.zeros(250, 8)

    class Broken(Data):
        def batches(self, split, size, generator=None):
            yield x, torch.ones(250).long()
            yield "not looked at", None

    data = Broken({"train": (x[:3], torch.arange(3)), "validation": (x, torch.ones(250).long())})
    model = tiny_model()
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    assert search.costs(model, data, [(0.5, 0)], thin, limits=[249]) == [math.inf]


def test_a_limit_and_a_journal(tmp_path):
    @method
    def limited(model, data, *, seed: int = 0, run: Run = Run()):
        for limits in ([5] * 12, [20] * 12, None, [60] * 12):
            results = search.costs(model, data, CANDIDATES, thin, run, limits)
            yield Step("search", 1, 4, Mask({}), {}, {"results": results})

    def results(run):
        return [s.info["results"] for s in limited(tiny_model(), tiny_data(), run=run)]

    assert results(Run(journal=Journal(tmp_path))) == results(Run())
    assert results(Run(journal=Journal(tmp_path))) == results(Run())


def test_a_job_that_travels_is_small_whatever_the_data():
    model, x = tiny_model(), torch.zeros(20_000, 8)
    data = Data(
        {"train": (x, torch.arange(20_000) % 3), "validation": (x, torch.arange(20_000) % 3)}
    )
    decode = functools.partial(thin)
    job = search._Job({"model": model, "data": data, "decode": decode})
    assert len(pickle.dumps(job)) < 400
    all_parts = pickle.dumps(job.sending(["model", "data", "decode"]))
    assert 20_000 * 8 * 4 < len(all_parts) < 1.5 * 20_000 * 8 * 4 + 20_000 * 8  # one split only


def test_what_a_worker_was_sent_is_kept_and_the_oldest_forgotten(monkeypatch):
    monkeypatch.setattr(search, "_kept", type(search._kept)())
    data, sizes = tiny_data(), []
    for seed in range(search.KEPT + 3):
        parts = {"model": tiny_model(seed=seed), "data": data, "decode": thin}
        job = search._Job(parts)
        task = (CANDIDATES[0], math.inf)
        arrived = pickle.loads(pickle.dumps(job))
        lacking = arrived(task)
        assert {*lacking.parts} == ({"model"} if seed else {"model", "data", "decode"})
        expected = job(task)
        assert pickle.loads(pickle.dumps(job.sending(lacking.parts)))(task) == expected
        assert pickle.loads(pickle.dumps(job))(task) == expected
        sizes.append(len(search._kept))
    assert sizes[0] == 3
    assert sizes[-1] == sizes[-2] == search.KEPT
    assert job.keys["data"] in search._kept  # used by every job


@pytest.mark.parametrize("crew", [1, 2, 5])
def test_model_and_data_are_sent_once_to_each_worker(monkeypatch, crew):
    """Workers that take turns, each with a memory of its own."""
    memories, sent = [OrderedDict() for _ in range(crew)], []

    def workers(job, tasks):
        for who, task in zip(itertools.cycle(range(crew)), tasks):
            monkeypatch.setattr(search, "_kept", memories[who])
            monkeypatch.setattr(search, "_process", lambda who=who: who)
            sent.extend([who] * bool(job.sent))
            yield pickle.loads(pickle.dumps(job))(task)

    model, data = tiny_model(), tiny_data()
    alone = search.costs(model, data, CANDIDATES, thin)
    for _ in range(2):
        assert search.costs(model, data, CANDIDATES, thin, Run(workers=workers)) == alone
    assert sorted(sent) == [*range(crew)]


def test_what_always_comes_to_the_wrong_worker_is_sent_with_all(monkeypatch):
    """Whoever is free takes the next tasks, here all of a call, and each lacks something else."""
    model, data = tiny_model(), tiny_data()
    keys = search._Job({"model": model, "data": data, "decode": thin}).keys
    memories = itertools.cycle(
        [OrderedDict({keys["model"]: model}), OrderedDict({keys["data"]: data})]
    )

    def workers(job, tasks):
        monkeypatch.setattr(search, "_kept", next(memories).copy())  # and learns nothing
        return [pickle.loads(pickle.dumps(job))(task) for task in tasks]

    found = search.costs(model, data, CANDIDATES, thin, Run(workers=workers))
    assert found == search.costs(model, data, CANDIDATES, thin)


def test_what_is_defined_again_is_another():
    """As in a notebook: the same name, other contents."""

    def defined(number):
        def metric(outputs, targets):
            return float(number)

        class Scaled(torch.nn.Linear):
            def forward(self, x):
                return number * super().forward(x)

        for made in (metric, Scaled):
            made.__qualname__ = made.__name__
        return metric, Scaled

    def keys(metric, kind, decode=thin):
        torch.manual_seed(0)
        x = torch.zeros(9, 8)
        data = Data({"train": (x, x), "validation": (x, x)}, loss=squared, metric=metric)
        return search._Job({"model": kind(8, 8), "data": data, "decode": decode}).keys

    first, second = defined(1), defined(2)
    assert keys(*first) == keys(*first)
    metric = keys(second[0], first[1])
    assert {n for n, key in keys(*first).items() if metric[n] != key} == {"data"}
    kind = keys(first[0], second[1])
    assert {n for n, key in keys(*first).items() if kind[n] != key} == {"model"}
    partial = functools.partial(failing)
    decode = keys(*first, partial)
    assert {n for n, key in keys(*first).items() if decode[n] != key} == {"decode"}
    assert decode == keys(*first, functools.partial(failing))


def test_an_attribute_of_a_model_is_part_of_it():
    model, data = tiny_model(), tiny_data()
    before = search._Job({"model": model, "data": data, "decode": thin}).keys
    model[0].factor = 2.0
    after = search._Job({"model": model, "data": data, "decode": thin}).keys
    assert {n for n in before if before[n] != after[n]} == {"model"}


def test_a_stop_is_seen_while_others_judge():
    def workers(job, tasks):
        for task in tasks:
            yield pickle.loads(pickle.dumps(job.sending(["model", "data", "decode"])))(task)
            judged.append(task)
            if len(judged) == 3:
                stop.set()

    judged, stop = [], threading.Event()
    with pytest.raises(Stopped):
        search.costs(tiny_model(), tiny_data(), CANDIDATES, thin, Run(workers=workers, stop=stop))
    assert 3 <= len(judged) <= 4


def test_what_was_just_sent_is_not_what_is_forgotten(monkeypatch):
    """Who passes jobs on, as a scheduler does, is sent again what it already has."""
    monkeypatch.setattr(search, "_kept", type(search._kept)())
    data, task = tiny_data(), (CANDIDATES[0], math.inf)
    for seed in range(2 * search.KEPT):
        job = search._Job({"model": tiny_model(seed=seed), "data": data, "decode": thin})
        passed = pickle.loads(pickle.dumps(job.sending(["model", "data", "decode"])))
        assert pickle.loads(pickle.dumps(passed))(task) == job(task)


def test_every_candidate_is_judged_once_by_processes(tmp_path):
    decode = functools.partial(leaving_a_trace, folder=str(tmp_path))
    with processes() as workers:
        search.costs(tiny_model(), tiny_data(), CANDIDATES, decode, Run(workers=workers))
        search.costs(tiny_model(), tiny_data(), CANDIDATES, decode, Run(workers=workers))
    assert len([*tmp_path.iterdir()]) == 2 * len(CANDIDATES)


def test_a_worker_of_a_cluster_that_dies_costs_nothing_but_time(tmp_path):
    model, data = tiny_model(), tiny_data()
    decode = functools.partial(leaving_a_trace, folder=str(tmp_path), die=True)
    with cluster() as workers:
        found = search.costs(model, data, CANDIDATES, decode, Run(workers=workers))
    assert (tmp_path / "died").exists()
    assert found == search.costs(model, data, CANDIDATES, thin)


@method(inputs=("folder",))
def in_two_parts(
    model, data, *, folder: str = "", die: bool = True, seed: int = 0, run: Run = Run()
):
    safe = functools.partial(leaving_a_trace, folder=folder)
    fatal = functools.partial(leaving_a_trace, folder=folder, die=die)
    for index, decode in enumerate((safe, fatal), 1):
        results = search.costs(model, data, CANDIDATES, decode, run)
        yield Step("search", index, 2, Mask({}), {}, {"results": results})


def test_a_pool_that_breaks_is_a_clear_error_and_the_journal_is_kept(tmp_path):
    folder, journal = tmp_path / "traces", tmp_path / "journal"
    folder.mkdir()
    with processes() as workers:
        run = Run(workers=workers, journal=Journal(journal))
        stream = in_two_parts(tiny_model(), tiny_data(), folder=str(folder), run=run)
        first = next(stream).info["results"]
        with pytest.raises(RuntimeError, match="search: the workers failed .*run again"):
            next(stream)
    before = len([*folder.iterdir()])
    with processes() as workers:
        run = Run(workers=workers, journal=Journal(journal))
        steps = [*in_two_parts(tiny_model(), tiny_data(), folder=str(folder), run=run)]
    assert [s.info["results"] for s in steps] == [first, first]
    assert len([*folder.iterdir()]) - before <= len(CANDIDATES)


def test_a_cluster_that_goes_away_is_a_clear_error_and_the_journal_is_kept(tmp_path):
    distributed = pytest.importorskip("distributed")
    local = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )
    client = distributed.Client(local)
    folder, journal = tmp_path / "traces", tmp_path / "journal"
    folder.mkdir()
    run = Run(workers=client.get_executor(pure=False).map, journal=Journal(journal))
    stream = in_two_parts(tiny_model(), tiny_data(), folder=str(folder), die=False, run=run)
    first = next(stream).info["results"]
    local.close()
    with pytest.raises(RuntimeError, match="search: the workers failed .*run again"):
        next(stream)
    client.close(0)
    before = len([*folder.iterdir()])
    run = Run(journal=Journal(journal))
    steps = [*in_two_parts(tiny_model(), tiny_data(), folder=str(folder), die=False, run=run)]
    assert [s.info["results"] for s in steps] == [first, first]
    assert len([*folder.iterdir()]) - before == len(CANDIDATES)  # those of the second part


def test_an_error_in_a_worker_names_the_candidate(workers):
    with pytest.raises(KeyError, match="no such layer") as caught:
        search.costs(tiny_model(), tiny_data(), CANDIDATES, failing, Run(workers=workers))
    assert any(repr(CANDIDATES[7]) in note for note in caught.value.__notes__)


def test_a_candidate_whose_metric_is_not_finite_loses_against_all_others():
    x = torch.zeros(9, 8)
    for value in (math.nan, math.inf, -math.inf):
        data = Data(
            {"train": (x, x), "validation": (x, x)}, loss=squared, metric=lambda *_, v=value: v
        )
        assert search.costs(tiny_model(), data, [(0.5, 1)], thin) == [math.inf]


def squared(outputs, targets):
    return (outputs.sum() - targets.sum()) ** 2


class Nearly:
    """A metric with a state."""

    def __init__(self, most):
        self.most = most

    def __call__(self, outputs, targets):
        return min(self.most, -float(torch.nn.functional.cross_entropy(outputs, targets)))


def test_losses_and_metrics_that_are_objects_reach_other_processes_and_lambdas_are_refused():
    splits, model = tiny_data().splits, tiny_model()
    weighted = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    with processes(1) as workers:
        for most in (-1.0, -2.0):
            data = Data(splits, loss=weighted, metric=Nearly(most))
            alone = search.costs(model, data, CANDIDATES, thin)
            assert search.costs(model, data, CANDIDATES, thin, Run(workers=workers)) == alone
            assert min(alone) == -most
        data = Data(splits, loss=lambda outputs, targets: outputs.sum())
        assert len(search.costs(model, data, CANDIDATES, thin)) == len(CANDIDATES)
        with pytest.raises(TypeError, match=r"search: the data's loss cannot be sent .*<lambda>"):
            search.costs(model, data, CANDIDATES, thin, Run(workers=workers))


ORPHANS = """
import multiprocessing, os, sys, time
sys.path[:0] = {paths!r}
from concurrent.futures import ProcessPoolExecutor
import torch
torch.set_num_threads(1)
from tiny import tiny_data, tiny_model
from prunekit import Journal, Run
from prunekit.methods.roulette import roulette

if __name__ == "__main__":
    with ProcessPoolExecutor(3, multiprocessing.get_context(sys.argv[2])) as pool:
        run = Run(journal=Journal(sys.argv[1]), workers=pool.map)
        steps = roulette(tiny_model(), tiny_data(), sparsity=0.9, branches=3, run=run)
        for step in steps:
            print("step", flush=True)
            time.sleep(60)
"""


def alive_in_group(group):
    """Ids of the processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_killed_run_end_and_hold_no_lock(tmp_path, start):
    tests = Path(__file__).parent
    script = tmp_path / "run.py"
    script.write_text(ORPHANS.format(paths=[str(tests), str(tests.parent)]))
    command = [sys.executable, str(script), str(tmp_path / "journal"), start]
    first = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert first.stdout.readline() == b"step\n"
    assert len(alive_in_group(first.pid)) >= 2
    first.kill()
    first.wait()
    if start == "fork":  # at once, while they live
        journal = Journal(tmp_path / "journal")
        journal._lock.acquire(timeout=0)
        journal._lock.release()
    ends = time.monotonic() + (2 if start == "fork" else 60)  # some may still be importing
    while alive_in_group(first.pid) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not alive_in_group(first.pid)
