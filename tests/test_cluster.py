"""Cells on the workers of a Dask cluster."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit import experiments, magnitude
from prunekit.__main__ import main
from prunekit.experiments import Arm, Experiment, cells_of, cluster, outcomes
from prunekit.experiments.cells import _read
from prunekit.experiments.grid import _experiments
from prunekit.steps import Stopped

distributed = pytest.importorskip("distributed")
HERE = Path(__file__).parent
LOCAL = dict(host="127.0.0.1", dashboard=False)
EPOCH = 6  # minibatches of 20 of the tiny data


class Noted(nn.Module):
    """Takes its time in training, and notes each minibatch in a file."""

    def __init__(self, path: str, seconds: float):
        super().__init__()
        self.path, self.seconds = path, seconds

    def forward(self, x):
        if self.training and len(x) > 2:  # no more are tried before the training
            with open(self.path, "ab") as file:
                file.write(b".")
            time.sleep(self.seconds)
        return x


def noted(seed, folder, name, seconds):
    return nn.Sequential(Noted(str(Path(folder, name)), seconds), tiny_model(seed=seed))


def elsewhere():
    """Data that only those have who are told where they are."""
    if not os.environ.get("TOY_DATA"):
        raise FileNotFoundError("toy: the data root lacks toy.npz")
    return tiny_data()


def toy(folder, seconds=0.0, data=tiny_data):
    """Three cells of six epochs, and one that fails."""
    knobs = dict(sparsity=0.5, rounds=2, epochs=3, batch=20)
    settings = dict(folder=str(folder), seconds=seconds)
    arms = {
        name: Arm(magnitude, knobs, start=partial(noted, name=name, **settings))
        for name in ("one", "two", "three")
    }
    arms["fails"] = Arm(magnitude, knobs | dict(lr=1e30), start=partial(tiny_model, 0.0))
    return Experiment("toy", "A toy", "nobody", "reproduction", data, arms, seeds=(0,))


def grid(folder, **settings):
    folder.mkdir(exist_ok=True)
    return cells_of(toy(folder, **settings), False, folder)


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path / "home"))
    _read.cache_clear()
    yield tmp_path / "home"
    _read.cache_clear()


@contextmanager
def workers(**environments):
    """A scheduler and worker processes with these names and variables, and a client of them."""
    kinds = {
        name: {
            "cls": distributed.Nanny,
            "options": dict(LOCAL, env=variables, nthreads=2, silence_logs=50),
        }
        for name, variables in environments.items()
    }
    scheduler = {"cls": distributed.Scheduler, "options": dict(LOCAL, port=0)}
    with (
        distributed.SpecCluster(kinds, scheduler=scheduler, silence_logs=50) as made,
        distributed.Client(made) as client,
    ):
        client.wait_for_workers(len(kinds))
        yield client


def lasting(record):
    gone = ("seconds", "environments", "commits")
    return {name: value for name, value in record.items() if name not in gone}


def until(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come to be in a minute")


def trained(path):
    """The minibatches that were noted in a file."""
    return path.stat().st_size if path.exists() else 0


PROGRAM = """
import sys
from pathlib import Path
import test_cluster
test_cluster._experiments()["toy"] = test_cluster.toy(Path(sys.argv[1]), 0.03)
from prunekit.__main__ import main
sys.exit(main(["reproduce", "toy", "--results", *sys.argv[1:]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
def test_cells_are_those_of_local_processes_though_it_was_ended_and_a_worker_died(home, tmp_path):
    local = {cell.name: outcome for cell, outcome in outcomes(grid(tmp_path / "here"), jobs=2)}
    there = tmp_path / "there"
    there.mkdir()
    notes = [there / name for name in ("one", "two", "three")]
    with workers(first={}, second={}) as client:
        address = client.scheduler.address
        command = [sys.executable, "-c", PROGRAM, str(there), "--dask", address]
        started = subprocess.Popen(command, cwd=HERE, stderr=subprocess.PIPE, text=True)
        until(lambda: any(trained(path) > EPOCH for path in notes))
        started.terminate()
        _, said = started.communicate(timeout=60)
        assert started.returncode == 130, said
        assert "interrupted; what is finished is kept" in said
        assert not any(client.run(cluster._held).values())  # the workers have let go
        before = sum(map(trained, notes))
        assert EPOCH < before < 6 * EPOCH
        assert not [*there.glob("*.json")]

        def kill_who_is_at_it():
            until(lambda: sum(map(trained, notes)) > before + EPOCH)
            busy = [worker for worker, tasks in client.processing().items() if tasks]
            os.kill(client.run(os.getpid)[busy[0]], signal.SIGKILL)

        killer = threading.Thread(target=kill_who_is_at_it)
        killer.start()
        cells = grid(there, seconds=0.03)
        found = {cell.name: outcome for cell, outcome in outcomes(cells, dask=address)}
        killer.join()
        client.wait_for_workers(2)  # or the cluster waits for the new one when it closes
    assert len(found) == 4
    assert str(found["fails"]) == str(local["fails"])
    for cell in cells[:3]:
        assert lasting(found[cell.name]) == lasting(local[cell.name])
        assert experiments.is_done(cell)
        assert 6 * EPOCH <= trained(there / cell.name) <= 8 * EPOCH  # an epoch at most each time
    assert sorted(path.name for path in there.glob("*.json")) == [
        "one-0.json", "three-0.json", "two-0.json"
    ]  # fmt: skip
    assert not [*home.glob("journals/toy/*two*")]


def test_a_worker_without_data_is_named_and_the_others_do_its_work(home, tmp_path, capsys):
    (tmp_path / "file").touch()
    no_place = {"TOY_DATA": "1", "PRUNEKIT_HOME": str(tmp_path / "file")}
    with workers(with_data={"TOY_DATA": "1"}, without={}, no_place=no_place) as client:
        address = client.scheduler.address
        cells = grid(tmp_path / "cells", data=elsewhere)[:2]
        os.environ["TOY_DATA"] = "1"
        try:
            found = [*outcomes(cells, dask=address)]
        finally:
            del os.environ["TOY_DATA"]
        said = capsys.readouterr().out
        assert [outcome["arm"] for _, outcome in found] == ["one", "two"]
        assert "without: toy: the data root lacks toy.npz" in said
        assert f"no_place: {tmp_path / 'file'}" in said
        assert said.count("left out") == 2
        late = [*outcomes(grid(tmp_path / "late"), until=time.time() - 1, dask=address)]
        assert all(isinstance(outcome, Stopped) for _, outcome in late)
        client.retire_workers(
            [w for w, name in client.run(worker_name).items() if name == "with_data"]
        )
        with pytest.raises(ValueError, match="no worker can run the cells: .*toy.npz"):
            [*outcomes(grid(tmp_path / "none", data=elsewhere), dask=address)]


def worker_name(dask_worker):
    return dask_worker.name


def test_a_scheduler_that_goes_is_told_and_what_is_finished_kept(home, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER", 2.0)
    with workers(only={}) as client:
        found = outcomes(grid(tmp_path, seconds=0.01), dask=client.scheduler.address)
        cell, outcome = next(found)
        client.cluster.close()
        with pytest.raises(OSError, match="the Dask scheduler does not answer .*run again"):
            [*found]
    assert cell.path.exists() == isinstance(outcome, dict)


def test_what_cannot_be_reached_is_said_in_one_line(home, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(_experiments(), "toy", toy(tmp_path))
    words = ["reproduce", "toy", "--results", str(tmp_path), "--dask"]
    who = "python -m prunekit reproduce: error: "
    monkeypatch.setattr(cluster, "ANSWER", 0.5)
    for address in ("tcp://127.0.0.1:1", "nowhere", "foo://x:1"):
        assert main([*words, address]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"{who}no Dask scheduler answers at {address!r}")
    for option in ("--jobs", "--threads"):
        assert main([*words, "tcp://127.0.0.1:1", option, "2"]) == 2
        assert capsys.readouterr().err.startswith(f"{who}--jobs and --threads ")
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main([*words, "tcp://127.0.0.1:1"]) == 2
    assert "pip install distributed" in capsys.readouterr().err


class Crew:
    """Stands for a client whose only worker dies over every cell."""

    count = 0

    def nthreads(self):
        self.count += 1
        return {f"tcp://{self.count // 8}": 1}

    def submit(self, function, *_, workers, **__):
        future = Future()
        future.ready = function is cluster._unready
        return future


class Future:
    def done(self):
        return self.ready

    def result(self):
        return None

    def cancel(self):
        pass

    release = cancel


def test_a_cell_over_which_every_worker_dies_is_given_up(tmp_path):
    cells = grid(tmp_path)
    found = [*cluster.on_workers(Crew(), cells[:1])]
    ((cell, outcome),) = found
    assert cell == cells[0]
    assert "3 workers died over it" in str(outcome)
