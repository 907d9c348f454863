"""The front door and the report: what it says and saves, and what is left when it is stopped."""

import base64
import functools
import json
import re
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_data, tiny_model
from torch import nn
from torch.nn import functional as F

from prunekit import (
    Data,
    Journal,
    Run,
    checkpoint,
    compare,
    evaluate,
    fit,
    gradual,
    magnitude,
    prune,
    random,
)
from prunekit import report as report_module
from prunekit._files import seal
from prunekit.baselines.gradient import gradient
from prunekit.method import method as as_method
from prunekit.report import load_mask, with_error


@functools.cache
def dense():
    """A trained tiny model; nobody changes it."""
    model = tiny_model()
    list(fit(model, tiny_data(), epochs=6, batch=20))
    return model


def report(method=magnitude, data=None, model=None, **settings):
    defaults = dict(sparsity=0.75, epochs=2, bar=False)
    return prune(method, model or dense(), data or tiny_data(), **(defaults | settings))


@pytest.fixture(scope="module")
def finished():
    return report(rounds=2)


def applied(model, mask):
    return all(not dict(model.named_parameters())[n][~keep].any() for n, keep in mask.items())


# ------------------------------------------------------------------------------------- the table


def test_before_and_after_are_validation_figures_of_the_two_models(finished):
    assert finished.before == {"accuracy": evaluate(dense(), tiny_data())}
    assert finished.after == {"accuracy": evaluate(finished.model, tiny_data())}
    assert finished.after == {"accuracy": finished.history[-1].metrics["accuracy"]}
    assert finished.mask == finished.history[-1].mask
    assert [s.phase for s in finished.history] == ["prune", "finetune", "finetune"] * 2
    assert not finished.stopped


def test_the_rows_follow_from_the_figures(finished):
    rows = dict(finished.rows())
    before, after = finished.before["accuracy"], finished.after["accuracy"]
    assert rows["method"] == "magnitude"
    assert rows["sparsity"] == "0.750"
    assert rows["parameters kept"] == "48 of 147"  # 33 of 132 weights, and 15 biases
    assert rows["compression"] == "3.1×"
    assert rows["MACs"] == "33 of 132"
    assert rows["validation accuracy before"] == with_error(before, 60)
    assert rows["validation accuracy after"] == with_error(after, 60)
    assert rows["change"] == f"{after - before:+.3f}"
    assert finished.compression == pytest.approx(147 / 48)


def test_knobs_hold_defaults_settings_and_seed(finished):
    assert finished.knobs["rounds"] == 2
    assert finished.knobs["scope"] == "global"
    assert finished.knobs["seed"] == 0


def test_an_accuracy_is_shown_with_its_binomial_error():
    assert with_error(0.9, 100) == "0.900 ± 0.030"
    assert with_error(0.7, 60) == "0.700 ± 0.059"  # n, not n − 1, which gives 0.060
    assert with_error(1.0, 100) == "1.000 ± 0.000"


def test_the_test_split_is_read_only_when_asked_and_every_reading_is_counted():
    splits, data = [], tiny_data()
    batches = data.batches
    data.batches = lambda split, *rest: splits.append(split) or batches(split, *rest)
    made = report(data=data)
    assert "test" not in splits
    assert "test" not in str(made)
    assert made.test() == evaluate(made.model, tiny_data(), "test")
    assert "test accuracy (read once)" in str(made)
    made.test()
    assert f"test accuracy (read 2 times)  {with_error(made.tests[0], 60)}" in re.sub(
        " {3,}", "  ", str(made)
    )


def test_the_text_says_the_same_every_time_and_tells_no_time(finished):
    again = report(rounds=2)
    assert str(again) == str(finished) == repr(finished)
    assert again._repr_html_() == finished._repr_html_()
    for text in (str(finished), finished._repr_html_()):
        assert not re.search(r"\d:\d\d|second|minute|\d ?m?s\b|20\d\d-", text)


def test_html_is_escaped(finished):
    page = replace(finished, method="<script>alert(1)</script> & more")._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page


def test_settings_are_checked_before_any_work():
    with pytest.raises(ValueError, match="magnitude: sparsity must be in"):
        prune(magnitude, tiny_model(), tiny_data(), sparsity=75)
    with pytest.raises(TypeError, match="magnitude: has no knob 'sparsty'"):
        prune(magnitude, tiny_model(), tiny_data(), sparsty=0.5)


# -------------------------------------------------------------------------------------- watching


def test_watchers_see_every_step_in_the_order_they_are_given():
    seen = []

    def note(label, steps):
        for step in steps:
            seen.append((label, step.phase))
            yield step

    report(watch=[partial(note, "a"), partial(note, "b")], epochs=1)
    assert seen == [("a", "prune"), ("b", "prune"), ("a", "finetune"), ("b", "finetune")]
    seen.clear()
    report(watch=partial(note, "only"), epochs=0)
    assert seen == [("only", "prune")]


def test_a_watcher_may_end_the_run_early():
    def two(steps):
        for _, step in zip(range(2), steps, strict=False):
            yield step

    made = report(watch=two, epochs=5)
    assert len(made.history) == 2
    assert made.after == {"accuracy": made.history[-1].metrics["accuracy"]}


def test_the_bar_changes_nothing(capsys):
    assert str(report(bar=True)) == str(report())
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------------------- stopped


def interrupted_after(n):
    def watch(steps):
        for i, step in enumerate(steps, 1):
            yield step
            if i == n:
                raise KeyboardInterrupt

    return watch


def assert_usable(made, steps):
    assert made.stopped
    assert "(stopped)" in str(made)
    assert len(made.history) == steps
    assert applied(made.model, made.mask)
    assert made.after == {"accuracy": evaluate(made.model, tiny_data())}
    if steps:
        assert made.mask == made.history[-1].mask
        assert made.after["accuracy"] == made.history[-1].metrics["accuracy"]
    assert all(p.grad is None for p in made.model.parameters())
    assert made.test() > 0
    made.model(tiny_data().splits["test"][0])


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_ctrl_c_between_two_steps_gives_a_partial_report(n):
    assert_usable(report(rounds=2, watch=interrupted_after(n)), n)


@pytest.mark.parametrize(("call", "steps"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 4), (12, 5)])
def test_ctrl_c_in_the_midst_of_training_gives_a_partial_report(call, steps):
    calls = []

    def loss(out, y):
        calls.append(1)
        if len(calls) == 3 + call:  # the first are those of the trial before any work
            raise KeyboardInterrupt
        return F.cross_entropy(out, y)

    data = Data(tiny_data().splits, loss=loss)
    data.batches = lambda split, size, *rest: Data.batches(data, split, min(size, 40), *rest)
    assert_usable(report(data=data, rounds=2), steps)


def test_ctrl_c_before_the_first_step_gives_the_model_as_it_was():
    def watch(steps):
        raise KeyboardInterrupt
        yield from steps

    made = report(watch=watch)
    assert_usable(made, 0)
    assert str(made.model.state_dict()) == str(dense().state_dict())


@pytest.mark.parametrize("method", [magnitude, gradual])
def test_a_stop_event_gives_a_partial_report(method):
    stop = threading.Event()

    def watch(steps):
        for step in steps:
            stop.set()
            yield step

    assert_usable(report(method, watch=watch, run=Run(stop=stop), epochs=3), 1)


def test_an_error_of_the_method_is_not_swallowed():
    def loss(out, y):
        if len(out) > 2:  # more than is tried before the training
            raise KeyError("inside")
        return F.cross_entropy(out, y)

    with pytest.raises(KeyError):
        report(data=Data(tiny_data().splits, loss=loss))


# ------------------------------------------------------------------------------------------ save

RELOAD = """
import json, sys
import torch
from safetensors.torch import load_file
from torch import nn
model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
model.load_state_dict(load_file(sys.argv[1]))
data = load_file(sys.argv[2])
right = (model(data["x"]).argmax(1) == data["y"]).sum().item()
assert not [name for name in sys.modules if name.startswith("prunekit")]
print(right / len(data["y"]), sum(int((p == 0).sum()) for p in model.parameters()))
"""


def test_a_saved_model_is_read_by_plain_torch_in_another_process(finished, tmp_path):
    path = finished.save(tmp_path / "pruned")
    x, y = tiny_data().splits["validation"]
    save_file({"x": x, "y": y}, tmp_path / "data.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(path), str(tmp_path / "data.safetensors")],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    accuracy, zeros = done.stdout.split()
    assert float(accuracy) == finished.after["accuracy"]
    assert int(zeros) == 99


def test_what_is_saved_beside_says_how_it_was_made(finished, tmp_path):
    finished.save(tmp_path / "pruned")
    info = json.loads((tmp_path / "pruned.json").read_text())
    assert info["method"] == "magnitude"
    assert (info["knobs"]["sparsity"], info["knobs"]["rounds"]) == (0.75, 2)
    assert (info["before"], info["after"]) == (finished.before, finished.after)
    assert info["environments"][0]["torch"] == torch.__version__
    assert load_mask(tmp_path / "pruned") == finished.mask
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pruned.json", "pruned.safetensors"]


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (None, "holds no mask"), ("%%%", "damaged"), ("aGVsbG8=", "damaged"), (3, "holds no mask"),
        ("", "damaged"), (base64.b64encode(zlib.compress(bytes(1 << 26))).decode(), "damaged"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sealed", [True, False])
def test_a_mask_that_cannot_be_read_is_refused_by_name(finished, tmp_path, mask, word, sealed):
    finished.save(tmp_path / "m")
    info = json.loads((tmp_path / "m.json").read_text()) | {"mask": mask}
    if not sealed:  # as the first version wrote them
        info = {name: value for name, value in info.items() if name not in ("format", "seal")}
    else:
        info = seal(info, checkpoint.FORMAT)
    (tmp_path / "m.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=rf"m\.json .*{word}"):
        load_mask(tmp_path / "m")


def test_a_mask_is_unpacked_to_the_length_of_its_shapes_and_no_further(finished):
    packed = finished.mask.to_bytes()
    assert report_module._unpacked(zlib.compress(packed)) == packed
    for more in (b"\0", bytes(1 << 26)):
        with pytest.raises(ValueError, match="more bits than its shapes"):
            report_module._unpacked(zlib.compress(packed + more))
    with pytest.raises(ValueError, match="cut short"):
        report_module._unpacked(zlib.compress(packed)[:-3])


@pytest.mark.parametrize("form", ["format_1", "format_2"])
def test_a_report_of_every_format_is_read(form):
    mask = load_mask(Path(__file__).parent / "fixtures" / form / "report")
    assert (mask.kept, mask.total) == (21, 42)


def test_knobs_are_saved_as_plain_json_without_addresses(finished, tmp_path):
    knobs = {"f": F.relu, "l": [lambda x: x, (1, F.gelu)], "m": {1: nn.ReLU()}}
    replace(finished, knobs=knobs).save(tmp_path / "m")
    text = (tmp_path / "m.json").read_text()
    assert "relu" in text
    assert " at 0x" not in text


# --------------------------------------------------------------------------------------- compare


def test_compare_gives_mean_and_spread_over_the_seeds():
    found = compare([magnitude, random], dense(), tiny_data(), sparsity=0.6, epochs=1, bar=False)
    for method in (magnitude, random):
        values = [
            report(method, sparsity=0.6, epochs=1, seed=s).after["accuracy"] for s in (0, 1, 2)
        ]
        row = found.frame.loc[method.__name__]
        assert row["accuracy"] == pytest.approx(np.mean(values))
        assert row["spread"] == pytest.approx(np.std(values, ddof=1))
        assert row["seeds"] == 3
        assert row["sparsity"] == pytest.approx(79 / 132)
        assert f"{np.mean(values):.3f} ({np.std(values, ddof=1):.3f})" in str(found)


def test_compare_takes_partial_methods_labels_and_a_model_for_each_seed():
    methods = {
        "few <b>": partial(magnitude, sparsity=0.2),
        "many": partial(magnitude, sparsity=0.8),
    }
    found = compare(methods, lambda s: tiny_model(seed=s), tiny_data(), seeds=(4, 5), bar=False)
    for label, sparsity in (("few <b>", 0.2), ("many", 0.8)):
        for made, seed in zip(found.reports[label], (4, 5), strict=True):
            expected = report(model=tiny_model(seed=seed), sparsity=sparsity, epochs=0, seed=seed)
            assert (made.after, made.mask) == (expected.after, expected.mask)
    assert "<b>" not in found._repr_html_()
    assert "few &lt;b&gt;" in found._repr_html_()


def test_compare_names_partial_methods_by_their_knobs():
    found = compare(
        [partial(magnitude, sparsity=0.2)], tiny_model(), tiny_data(), seeds=[0], bar=False
    )
    assert [*found.reports] == ["magnitude (sparsity=0.2)"]
    assert np.isnan(found.frame["spread"].iloc[0])


def test_compare_keeps_what_is_finished_when_it_is_stopped():
    stop = threading.Event()
    seen = []

    def metric(out, y):
        seen.append(1)
        if len(seen) == 5:
            stop.set()
        return -float(F.cross_entropy(out, y))

    data = Data(tiny_data().splits, metric=metric)
    found = compare([magnitude, random], tiny_model(), data, run=Run(stop=stop), bar=False)
    assert 0 < sum(map(len, found.reports.values())) < 6
    str(found)


def test_compare_refuses_a_knob_that_one_method_has_not_before_any_run():
    begun = []

    def metric(out, y):
        begun.append(len(y))
        return float((out.argmax(1) == y).float().mean())

    data = Data(tiny_data().splits, metric=metric)
    with pytest.raises(TypeError, match="^random: has no knob 'times_weight'"):
        compare([gradient, random], tiny_model(), data, times_weight=True, bar=False)
    with pytest.raises(ValueError, match="^random: sparsity must be in"):
        compare([magnitude, partial(random, sparsity=2)], tiny_model(), data, bar=False)
    with pytest.raises(TypeError, match="fit takes no budget"):
        compare([magnitude, fit], tiny_model(), data, budget={"macs": 0.5}, bar=False)
    assert not begun


def test_compare_keeps_what_is_finished_when_a_run_fails():
    @as_method
    def fails(model, data, *, seed: int = 0, run: Run = Run()):
        yield from magnitude(model, data, seed=seed, run=run)
        if seed == 1:
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more") as error:
        compare([magnitude, fails], tiny_model(), tiny_data(), seeds=(0, 1), bar=False)
    assert "compare: this was fails with seed 1" in error.value.__notes__
    reports = error.value.finished.reports
    assert {label: len(found) for label, found in reports.items()} == {"magnitude": 2, "fails": 1}


def test_compare_refuses_nothing_to_compare_and_a_journal(tmp_path):
    with pytest.raises(ValueError, match="at least one method and one seed"):
        compare([], tiny_model(), tiny_data())
    with pytest.raises(ValueError, match="a journal belongs to one run"):
        compare([magnitude], tiny_model(), tiny_data(), run=Run(journal=Journal(tmp_path)))


def test_prune_runs_fit_too():
    made = prune(fit, tiny_model(), tiny_data(), epochs=4, batch=20, bar=False)
    assert made.sparsity == 0
    assert made.compression == 1
    assert made.after["accuracy"] > made.before["accuracy"]
