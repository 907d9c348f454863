"""Journals: what a killed run had computed is read back, and nothing else is."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit import Data, Journal, Mask, Run, Step, fit, gradual, magnitude, prune, train
from prunekit import journal as journal_module
from prunekit.journal import Fit
from prunekit.knobs import Count
from prunekit.method import method


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def figures(steps):
    return [(s.phase, s.index, s.of, s.mask, s.metrics) for s in steps]


RECIPES = {
    "magnitude": (magnitude, dict(sparsity=0.8, rounds=2, epochs=2)),
    "gradual": (gradual, dict(sparsity=0.8, epochs=4, every=1)),
    "fit": (fit, dict(epochs=3, batch=30)),
    "adam": (fit, dict(epochs=3, batch=30, optimizer="adam")),
}


def start(recipe, path=None, model=None, **others):
    m, knobs = RECIPES[recipe]
    run = Run(journal=Journal(path)) if path is not None else Run()
    model = model if model is not None else tiny_model(dropout=0.3)
    return m(model, tiny_data(), **(knobs | others), run=run)


def log(path):
    return path / "log.txt"


def entries(path):
    return [json.loads(line[9:]) for line in log(path).read_text().splitlines()]


def replace_line(path, number, change):
    lines = log(path).read_bytes().splitlines(keepends=True)
    lines[number] = change(lines[number])
    log(path).write_bytes(b"".join(lines))


# ---------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_has_the_history_and_weights_of_an_uninterrupted_one(recipe, tmp_path):
    whole = tiny_model(dropout=0.3)
    expected = figures(start(recipe, model=whole))
    for n in range(len(expected) + 1):
        stream = start(recipe, tmp_path / f"{n}")
        assert figures(next(stream) for _ in range(n)) == expected[:n]
        stream.close()
        model = tiny_model(dropout=0.3)
        assert figures(start(recipe, tmp_path / f"{n}", model)) == expected
        assert same(weights(model), weights(whole))


def test_buffers_and_their_counters_come_back(tmp_path):
    def normed():
        first, relu, last = tiny_model()
        return nn.Sequential(first, nn.BatchNorm1d(12), relu, last)

    whole = normed()
    expected = figures(start("fit", model=whole))
    stream = start("fit", tmp_path, normed())
    next(stream)
    stream.close()
    model = normed()
    assert figures(start("fit", tmp_path, model)) == expected
    assert same(weights(model), weights(whole))
    assert model[1].num_batches_tracked == 3 * 4


def test_a_finished_run_is_read_back_without_training_or_evaluating(tmp_path):
    list(start("magnitude", tmp_path))
    size = log(tmp_path).stat().st_size
    calls = []
    data = tiny_data()
    batches = data.batches
    data.batches = lambda split, *rest: calls.append(split) or batches(split, *rest)
    m, knobs = RECIPES["magnitude"]
    stream = m(tiny_model(dropout=0.3), data, **knobs, run=Run(journal=Journal(tmp_path)))
    calls.clear()  # of the trial before any work
    list(stream)
    assert "train" not in calls
    assert log(tmp_path).stat().st_size == size


def test_a_finished_fit_holds_only_the_kept_weights(tmp_path):
    model = tiny_model()
    report = prune(
        magnitude, model, tiny_data(), sparsity=0.9, epochs=1, bar=False,
        run=Run(journal=Journal(tmp_path)),
    )  # fmt: skip
    (file,) = tmp_path.glob("fit-*.safetensors")
    saved = Journal(tmp_path).load_fit(file.stem.removeprefix("fit-"))
    n = sum(t.numel() for t in saved.tensors.values())
    assert n == sum(p.numel() for p in model.parameters()) - (report.mask.total - report.mask.kept)


def test_an_entry_of_other_weights_or_knobs_is_not_taken(tmp_path):
    @method
    def twice(model, data, *, epochs: Count = 1, seed: int = 0, run: Run = Run()):
        yield from fit(model, data, epochs=epochs, lr=0.1, seed=1, run=run)
        yield from fit(model, data, epochs=epochs, lr=0.1, seed=1, run=run)
        yield from fit(model, data, epochs=epochs, lr=0.2, seed=1, run=run)

    expected = figures(twice(tiny_model(), tiny_data()))
    assert len({step[-1]["loss"] for step in expected}) == 3
    assert figures(twice(tiny_model(), tiny_data(), run=Run(journal=Journal(tmp_path)))) == expected
    assert len([*tmp_path.glob("fit-*")]) == 3


# --------------------------------------------------------------------------------------- damage


def test_a_torn_last_line_is_dropped_wherever_it_is_torn(tmp_path):
    expected = figures(start("magnitude", tmp_path))
    whole = log(tmp_path).read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for gone in (*range(1, last, 7), last - 1, len(whole) - 5):
        log(tmp_path).write_bytes(whole[:-gone])
        assert figures(start("magnitude", tmp_path)) == expected
        assert log(tmp_path).read_bytes() == whole


def flipped(line):
    return line.replace(line[12:13], b"#", 1)


def test_a_damaged_line_costs_that_line_and_is_told_by_number(tmp_path, monkeypatch):
    expected = figures(start("magnitude", tmp_path))
    whole = log(tmp_path).read_bytes()
    lines = whole.splitlines(keepends=True)
    for number, line in enumerate(lines):
        replace_line(tmp_path, number, flipped)
        with pytest.warns(UserWarning, match=rf"log.txt: .*line {number + 1} of {len(lines)};"):
            assert figures(start("magnitude", tmp_path)) == expected
        found = log(tmp_path).read_bytes().splitlines(keepends=True)
        assert [other for other in found if other != line] == [x for x in lines if x != line]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is said once
            assert figures(start("magnitude", tmp_path)) == expected
        log(tmp_path).write_bytes(whole)


def test_without_a_whole_header_a_journal_is_refused_and_stays(tmp_path):
    list(start("magnitude", tmp_path))
    replace_line(tmp_path, 0, flipped)
    replace_line(tmp_path, 1, flipped)
    before = log(tmp_path).read_bytes()
    with pytest.raises(ValueError, match=r"log.txt: its header, line 1, is damaged.* start anew"):
        next(start("magnitude", tmp_path))
    assert log(tmp_path).read_bytes() == before


def test_every_flipped_bit_of_a_log_is_told_and_the_history_stays(tmp_path):
    expected = figures(start("magnitude", tmp_path, sparsity=0.5, epochs=0))
    whole = log(tmp_path).read_bytes()
    for place in range(0, len(whole) - 1, 37):  # without its last newline it would be torn
        harmed = bytearray(whole)
        harmed[place] ^= 1 << place % 8
        log(tmp_path).write_bytes(harmed)
        with pytest.warns(UserWarning, match="log.txt: dropped"):
            assert figures(start("magnitude", tmp_path, sparsity=0.5, epochs=0)) == expected


def test_every_flipped_bit_of_a_fit_is_told_or_changes_nothing(tmp_path):
    state = Fit(1, [{"loss": 0.5}], {1: b"mask"}, {"w": torch.arange(3.0)}, {"form": "fp32"})
    journal = Journal(tmp_path)
    journal.save_fit("abc", state)
    (file,) = tmp_path.iterdir()
    whole, told = file.read_bytes(), 0
    for place in range(0, len(whole), 3):
        harmed = bytearray(whole)
        harmed[place] ^= 1 << place % 8
        file.write_bytes(harmed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = journal.load_fit("abc")
        if caught:
            told += 1
            assert loaded is None
            assert str(file) in str(caught[0].message)
        else:
            assert same(loaded.tensors, state.tensors)
            assert replace(loaded, tensors=state.tensors) == state
    assert told > len(whole) / 3 * 0.8
    file.write_bytes(whole)
    file.rename(tmp_path / "fit-other.safetensors")
    with pytest.warns(UserWarning, match="fit-other.* it is another fit's"):
        assert journal.load_fit("other") is None


def test_a_newer_format_is_refused_by_name(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "FORMAT", journal_module.FORMAT + 1)
        list(start("fit", tmp_path))
    with pytest.raises(ValueError, match=r"log\.txt is of a newer format, 3; .*Update prunekit"):
        next(start("fit", tmp_path))
    (file,) = tmp_path.glob("fit-*")
    with pytest.raises(ValueError, match=r"fit-.*safetensors is of a newer format, 3"):
        Journal(tmp_path).load_fit(file.stem.removeprefix("fit-"))


FIXTURES = Path(__file__).parent / "fixtures"  # what each format was written as


def first_model():
    """The model of the fixtures; its weights are the same on every processor."""
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(((torch.arange(p.numel()) * 7 % 11 - 5.5) / 8).reshape(p.shape))
    return net.eval()


def first_data():
    y = torch.arange(30) % 3
    x = (torch.arange(120) * 5 % 13 / 4).reshape(30, 4) + y[:, None]
    splits = {"train": (x, y), "validation": (x[:12], y[:12]), "test": (x[12:], y[12:])}
    return Data(splits, name="thirty")


@pytest.mark.parametrize(
    ("method", "knobs", "recorded", "trained"),
    [
        (magnitude, dict(sparsity=0.5, rounds=2, epochs=2), 2, 2),
        (gradual, dict(sparsity=0.5, epochs=3, every=1, optimizer="adam"), 2, 1),
    ],
)
@pytest.mark.parametrize("form", ["format_1", "format_2"])
def test_a_run_goes_on_from_a_journal_of_every_format(
    tmp_path, monkeypatch, form, method, knobs, recorded, trained
):
    """`recorded` epochs are in its file; `trained` are left to do."""
    if "bias=True" not in repr(torch.nn.BatchNorm1d(2)):
        pytest.skip("written with a torch that describes its layers in other words")
    shutil.copytree(FIXTURES / form / method.__name__, tmp_path / "j")
    version = entries(tmp_path / "j")[0]["header"]["prunekit"]
    monkeypatch.setattr(journal_module, "__version__", version)
    (file,) = (tmp_path / "j").glob("fit-*")
    past = Journal(tmp_path / "j").load_fit(file.stem.removeprefix("fit-"))
    epochs, real = [], train._Loop.epoch
    monkeypatch.setattr(train._Loop, "epoch", lambda *a: epochs.append(1) or real(*a))

    def go():
        run = Run(journal=Journal(tmp_path / "j", any_code=True))
        return figures(method(first_model(), first_data(), **knobs, run=run))

    history = go()
    assert len(epochs) == trained
    assert [step[-1] for step in history if "loss" in step[-1]][:recorded] == past.metrics
    assert go() == history
    assert len(epochs) == trained
    with pytest.raises(ValueError, match="belongs to another run, its seed is 0"):
        run = Run(journal=Journal(tmp_path / "j", any_code=True))
        next(method(first_model(), first_data(), **knobs, seed=1, run=run))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone", "other"])
def test_a_fit_that_cannot_be_read_counts_as_absent(tmp_path, damage):
    expected = figures(start("fit", tmp_path))
    (file,) = tmp_path.glob("fit-*")
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-9])
    elif damage == "flip":
        content[-3] ^= 1
        file.write_bytes(content)
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "gone":
        file.unlink()
    else:
        file.write_text("something else altogether, long enough for a header")
    said = "gone" if damage == "gone" else "starts anew, its file is damaged"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("gone", stacklevel=1)
        assert Journal(tmp_path).load_fit(file.stem.removeprefix("fit-")) is None
        assert figures(start("fit", tmp_path)) == expected
    assert said in str(caught[-1].message)
    assert Journal(tmp_path).load_fit(file.stem.removeprefix("fit-")).epoch == 3


def test_what_is_saved_of_a_fit_is_what_is_loaded(tmp_path):
    fit_state = Fit(
        2,
        [{"loss": 0.1}, {"loss": float("nan")}],
        {1: b"one", 2: b"\x00\xff"},
        {"w.a": torch.randn(3, 2), "w.n": torch.tensor(7), "w.none": torch.zeros(0, 3)},
        {"0.step": 3, "1.momentum_buffer": None},
    )
    journal = Journal(tmp_path)
    journal.save_fit("abc", fit_state)
    loaded = journal.load_fit("abc")
    assert same(loaded.tensors, fit_state.tensors)
    assert (loaded.epoch, loaded.masks, loaded.extra) == (2, fit_state.masks, fit_state.extra)
    assert str(loaded.metrics) == str(fit_state.metrics)
    assert [p.name for p in tmp_path.iterdir()] == ["fit-abc.safetensors"]


# ----------------------------------------------------------------------------------------- disks


LIMITED = """
import resource, signal, sys
sys.path[:0] = {paths!r}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from tiny import tiny_data, tiny_model
from prunekit import Journal, Run, fit, magnitude
folder = Path(sys.argv[1])

def run(name, method, **knobs):
    return method(tiny_model(), tiny_data(), **knobs, run=Run(journal=Journal(folder / name)))

def refused(limit, file, steps):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        list(steps)
    except OSError as error:
        assert Path(error.filename).name.startswith(file), error
    else:
        raise AssertionError(file)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    for log in folder.glob("*/log.txt"):
        assert not log.read_bytes() or log.read_bytes().endswith(b"\\n")
    assert not [*folder.glob("*/*.tmp")]

refused(500, "log.txt", run("a", fit, epochs=1))
list(run("a", fit, epochs=1))
(fitted,) = (folder / "a").glob("fit-*")
fitted.unlink()
refused(500, "fit-", run("a", fit, epochs=1))
next(run("b", magnitude, epochs=0, rounds=40))
size = (folder / "b" / "log.txt").stat().st_size
refused(size + 100, "log.txt", run("b", magnitude, epochs=0, rounds=40))
assert (folder / "b" / "log.txt").stat().st_size > size
list(run("b", magnitude, epochs=0, rounds=40))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of Unix")
def test_a_full_disk_names_the_file_leaves_nothing_half_written_and_the_run_goes_on(tmp_path):
    tests = Path(__file__).parent
    script = LIMITED.format(paths=[str(tests), str(tests.parent)])
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_too_little_room_for_a_fit_is_told_before_any_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    needed = 147 * 4 * 2
    with pytest.raises(OSError, match=f"a fit in the journal needs about {needed:,} bytes"):
        next(start("fit", tmp_path / "sgd"))
    with pytest.raises(OSError, match=f"about {147 * 4 * 3:,} bytes, the disk has 1,000 left"):
        next(start("adam", tmp_path / "adam"))
    assert len([*start("magnitude", tmp_path / "none", epochs=0)]) == 2
    monkeypatch.undo()
    assert len([*start("fit", tmp_path / "sgd")]) == 3  # nothing is locked


def test_what_killed_writers_of_fits_left_goes_when_the_journal_is_opened(tmp_path):
    next(start("fit", tmp_path))
    left = [tmp_path / f".fit-abc.safetensors.{how}.tmp" for how in ("0123abcd", "012345-1-abcdef")]
    for path in left:
        path.write_text("half")
    list(start("fit", tmp_path))
    assert not [*tmp_path.glob("*.tmp")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_no_part_in_an_open_journal(tmp_path):
    stream = start("fit", tmp_path)
    next(stream)
    ready, write = os.pipe()
    goes_on, end = os.pipe()
    child = os.fork()
    if not child:
        try:
            stream.close()
        finally:
            os.write(write, b"1")
            os.read(goes_on, 1)
            os._exit(0)
    assert os.read(ready, 1) == b"1"
    with pytest.raises(ValueError, match="is in use"):
        next(start("fit", tmp_path))
    stream.close()
    assert len([*start("fit", tmp_path)]) == 3  # while the child lives
    os.write(end, b"1")
    os.waitpid(child, 0)


# --------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (dict(rounds=3), "its rounds is 2, this run's is 3"),
        (dict(sparsity=0.7), "its sparsity is 0.8, this run's is 0.7"),
        (dict(ignore=("0.weight",)), "its ignore is "),
        (dict(seed=1), "its seed is 0, this run's is 1"),
        (dict(model=tiny_model(dropout=0.3, seed=1)), "its weights is "),
        (dict(model=tiny_model()), "its model is "),
    ],
)
def test_the_journal_of_another_run_is_refused_and_the_difference_is_named(tmp_path, others, named):
    list(start("magnitude", tmp_path))
    before = log(tmp_path).read_bytes()
    with pytest.raises(ValueError, match="belongs to another run") as error:
        next(start("magnitude", tmp_path, **others))
    assert named in str(error.value)
    assert log(tmp_path).read_bytes() == before
    list(start("magnitude", tmp_path))  # the refused run has left no lock


def test_the_journal_of_another_method_is_refused(tmp_path):
    list(start("magnitude", tmp_path))
    with pytest.raises(ValueError, match="its method is magnitude, this run's is gradual"):
        next(start("gradual", tmp_path))


def test_the_journal_of_other_data_is_refused(tmp_path):
    list(start("fit", tmp_path))
    m, knobs = RECIPES["fit"]
    with pytest.raises(ValueError, match="its data is "):
        next(
            m(
                tiny_model(dropout=0.3),
                tiny_data(seed=1),
                **knobs,
                run=Run(journal=Journal(tmp_path)),
            )
        )


class Distill:
    """A loss with a state."""

    def __init__(self, temperature):
        self.temperature = temperature

    def loss(self, outputs, y):
        return nn.functional.cross_entropy(outputs / self.temperature, y)


def cross_entropy(outputs, y):
    """Called like torch's, and another."""
    return nn.functional.cross_entropy(outputs, y, label_smoothing=0.3)


def shifted(x, generator):
    return x + 0.1


def losing(loss, augment=None):
    data = tiny_data()
    return Data(data.splits, name=data.name, loss=loss, augment=augment)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (losing(nn.functional.cross_entropy), losing(cross_entropy), "its loss is torch.*"),
        (losing(Distill(1.0).loss), losing(Distill(8.0).loss), "its loss is .*1.0.*8.0"),
        (
            losing(nn.CrossEntropyLoss()),
            losing(nn.CrossEntropyLoss(label_smoothing=0.1)),
            "its loss is ",
        ),
        (
            losing(nn.functional.cross_entropy),
            losing(nn.functional.cross_entropy, shifted),
            "its augment is None, this run's is .*shifted",
        ),
    ],
)
def test_another_loss_or_augmentation_never_gets_this_ones_results(tmp_path, first, second, named):
    run = Run(journal=Journal(tmp_path))
    list(fit(tiny_model(), first, run=run))
    with pytest.raises(ValueError, match=f"belongs to another run, {named}"):
        next(fit(tiny_model(), second, run=run))
    list(fit(tiny_model(), first, run=run))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (lambda: losing(lambda outputs, y: 0 * outputs.sum()), "the data's loss must have a name"),
        (
            lambda: Data(tiny_data().splits, metric=lambda outputs, y: 0.5),
            "the data's metric must have a name",
        ),
    ],
)
def test_a_loss_without_a_name_works_without_a_journal_and_is_refused_with_one(
    tmp_path, data, what
):
    assert len([*fit(tiny_model(), data(), epochs=1)]) == 1
    with pytest.raises(TypeError, match=f"fit: with a journal, {what}.*<lambda>.*def at the top"):
        next(fit(tiny_model(), data(), run=Run(journal=Journal(tmp_path / "j"))))
    assert not (tmp_path / "j").exists()


def test_a_method_of_the_same_name_is_another(tmp_path):
    def called(number):
        def mine(model, data, *, seed: int = 0, run: Run = Run()):
            yield Step("train", 1, 1, Mask({}), {})

        mine.__qualname__ = f"mine{number}"
        return method(mine)

    list(called(1)(tiny_model(), tiny_data(), run=Run(journal=Journal(tmp_path, any_code=True))))
    with pytest.raises(ValueError, match=r"its function is \S*mine1, this run's is \S*mine2"):
        next(called(2)(tiny_model(), tiny_data(), run=Run(journal=Journal(tmp_path))))


CODE = """
from torch import nn
class Net(nn.Sequential):
    def forward(self, x):
        return super().forward(x).relu()
"""


def net_of(text, folder, number):
    """A net whose class is written in a file of its own, always under the same name."""
    path = folder / f"net{number}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("net", path)
    sys.modules["net"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Net(*tiny_model())


def test_a_changed_forward_is_refused_and_a_changed_comment_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "net", None)
    run = Run(journal=Journal(tmp_path / "journal"))
    whole = figures(fit(net_of(CODE, tmp_path, 0), tiny_data(), run=run))
    commented = CODE.replace("return", "# the same\n        return")
    assert figures(fit(net_of(commented, tmp_path, 1), tiny_data(), run=run)) == whole
    changed = net_of(CODE.replace("relu", "sin"), tmp_path, 2)
    with pytest.raises(
        ValueError, match="code of fit, its loss, metric, augmentation or model.*any_code=True"
    ):
        next(fit(changed, tiny_data(), run=run))
    free = Journal(tmp_path / "journal", any_code=True)
    list(fit(changed, tiny_data(), run=Run(journal=free)))
    assert len(free.codes) == 2


@pytest.mark.parametrize("name", ["scale", "_scale"])
def test_a_plain_attribute_of_a_model_is_part_of_it(tmp_path, name):
    def net(scale):
        model = tiny_model()
        setattr(model, name, torch.tensor(scale))
        return model

    run = Run(journal=Journal(tmp_path))
    list(fit(net(1.0), tiny_data(), run=run))
    with pytest.raises(ValueError, match=r"its model is .*scale"):
        next(fit(net(2.0), tiny_data(), run=run))


def test_an_entry_cannot_be_written_before_a_method_opens_the_journal(tmp_path):
    with pytest.raises(ValueError, match=r"is not open. Hand it to a method"):
        Journal(tmp_path).put("key", 1)


def test_the_journal_of_another_version_is_refused(tmp_path, monkeypatch):
    list(start("fit", tmp_path))
    monkeypatch.setattr(journal_module, "__version__", "9.9.9")
    with pytest.raises(ValueError, match=r"its prunekit is .*, this run's is 9\.9\.9"):
        next(start("fit", tmp_path))


def test_data_without_a_key_cannot_be_journalled(tmp_path):
    data = tiny_data()
    data.key = ""
    with pytest.raises(ValueError, match="fit: data needs a key"):
        next(fit(tiny_model(), data, run=Run(journal=Journal(tmp_path))))


# ---------------------------------------------------------------------------------- lock, places


def test_an_open_journal_is_locked(tmp_path):
    first = start("magnitude", tmp_path)
    next(first)
    with pytest.raises(ValueError, match="is in use by another run"):
        next(start("magnitude", tmp_path))
    next(first)  # the one that holds it goes on
    first.close()
    list(start("magnitude", tmp_path))


def test_a_journal_opened_in_one_thread_is_closed_from_another(tmp_path):
    journal = Journal(tmp_path)
    stream = fit(tiny_model(), tiny_data(), epochs=2, run=Run(journal=journal))
    thread = threading.Thread(target=next, args=(stream,))
    thread.start()
    thread.join()
    stream.close()
    assert not journal.is_open
    assert len([*fit(tiny_model(), tiny_data(), epochs=2, run=Run(journal=Journal(tmp_path)))]) == 2


def test_a_bare_name_lies_below_home_and_a_path_where_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path / "home"))
    assert Journal("mine").path == tmp_path / "home" / "journals" / "mine"
    assert Journal(tmp_path / "mine").path == tmp_path / "mine"
    assert Journal("a/b").path == Path("a/b")


# ---------------------------------------------------------------------------------- environments


def test_the_environment_is_written_only_when_it_changed(tmp_path, monkeypatch):
    def lines():
        return [e["environment"] for e in entries(tmp_path) if "environment" in e]

    for _ in range(2):
        list(start("fit", tmp_path))
    assert lines() == [journal_module.environment()]
    other = journal_module.environment() | {"threads": 99}
    monkeypatch.setattr(journal_module, "environment", lambda *_: other)
    for _ in range(2):
        list(start("fit", tmp_path))
    assert [found["threads"] for found in lines()] == [torch.get_num_threads(), 99]


def test_a_report_says_when_a_run_went_on_under_another_environment(tmp_path, monkeypatch):
    def report():
        m, knobs = RECIPES["magnitude"]
        run = Run(journal=Journal(tmp_path))
        return prune(m, tiny_model(dropout=0.3), tiny_data(), run=run, bar=False, **knobs)

    stream = start("magnitude", tmp_path)
    next(stream)
    stream.close()
    same_place = report()
    assert len(same_place.environments) == 1
    assert "another environment" not in str(same_place)
    other = journal_module.environment() | {"torch": "9.9"}
    monkeypatch.setattr(journal_module, "environment", lambda *_: other)
    elsewhere = report()
    assert [e["torch"] for e in elsewhere.environments] == [torch.__version__, "9.9"]
    assert "another environment" in str(elsewhere)
    assert isinstance(elsewhere.history[0], Step)


def test_a_second_stream_on_an_open_journal_is_refused(tmp_path):
    run = Run(journal=Journal(tmp_path / "j"))
    first = fit(tiny_model(), tiny_data(), epochs=2, run=run)
    next(first)
    with pytest.raises(ValueError, match="in use"):
        next(fit(tiny_model(), tiny_data(), epochs=2, run=run))
    assert len([*first]) == 1
    assert not run.journal.is_open


def test_a_path_with_a_folder_is_not_a_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Journal("./mine").path.resolve() == tmp_path / "mine"
    assert Journal("mine").path.parent.name == "journals"
