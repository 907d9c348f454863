"""What a replay is given, and its page, without a browser."""

import json
import re

import numpy as np
import pytest
import torch
from tiny import tiny_data, tiny_model

from prunekit import Mask, Step, experiments, magnitude, prune
from prunekit.__main__ import main
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.methods.roulette import roulette
from prunekit.widgets import Replay
from prunekit.widgets.replay import page, traits


def masks(shown):
    """The masks of each step, read as the view reads them."""
    told, start, read = shown["masks"], 0, {}

    def part(length):
        nonlocal start
        start += length
        return np.frombuffer(told[start - length : start], np.uint8)

    for layer in shown["run"]["layers"]:
        size, wide = layer["rows"] * layer["columns"], -(-len(layer["changes"]) // 8)
        rows = part(layer["histories"] * wide).reshape(-1, wide or 1)
        length = size * layer["width"] if layer["histories"] else 0
        bits = np.unpackbits(part(-(-length // 8)), count=length).reshape(-1, layer["width"])
        numbers = bits @ (1 << np.arange(layer["width"])[::-1])
        found, now = [], np.ones(size, bool)
        for number in range(len(shown["run"]["phase"])):
            if number in layer["changes"]:
                at = layer["changes"].index(number)
                now = np.unpackbits(rows, axis=1)[:, at].astype(bool)[numbers]
            found.append(now)
        read[layer["name"]] = found
    assert start == len(told)
    return read


@pytest.mark.parametrize(("method", "knobs"), [
    (magnitude, dict(sparsity=0.7, rounds=3, epochs=2)),
    (roulette, dict(branches=3, sparsity=0.4)),
    (differential_evolution,
     dict(rounds=2, generations=3, population=5, epochs=3, splice=0.5, tolerance=0.05)),
])  # fmt: skip
def test_a_replay_is_given_every_step_with_its_masks(method, knobs):
    report = prune(method, tiny_model(), tiny_data(), bar=False, **knobs)
    shown = traits(report.history, "t", report.before["accuracy"])
    read, run = masks(shown), shown["run"]
    assert len(run["phase"]) == len(report.history)
    for number, step in enumerate(report.history):
        for name, keep in step.mask.items():
            assert np.array_equal(read[name][number], keep.numpy().reshape(-1))
        assert run["sparsity"][number] == pytest.approx(step.sparsity, abs=1e-5)
        assert run["value"][number] == pytest.approx(step.metrics["accuracy"], abs=1e-5)
        assert (run["index"][number], run["of"][number]) == (step.index, step.of)
        tried = step.tried and (step.tried.kept if step.tried.vectors else step.tried.costs)
        entry = run["lineage"]["entries"][number]
        assert (tuple(entry["values"]) if entry else None) == tried
    assert json.loads(json.dumps(run)) == run
    assert "NaN" not in json.dumps(run)


def test_what_is_no_number_is_left_out():
    step = Step("finetune", 1, 1, Mask({}), {"loss": 1.0, "accuracy": float("nan")})
    assert traits([step])["run"]["value"] == [None]


def test_a_run_without_a_step_is_refused():
    with pytest.raises(ValueError, match="replay: there is no step to show"):
        traits([])


def test_a_replay_is_made_from_a_report_its_steps_or_an_experiment():
    report = prune(magnitude, tiny_model(), tiny_data(), bar=False)
    of_report, of_steps = Replay(report), Replay(report.history, "mine")
    assert (of_report.run["title"], of_steps.run["title"]) == ("magnitude", "mine")
    assert of_report.run["dense"] == report.before["accuracy"]
    assert repr(of_report) == f"Replay({len(report.history)} steps)"
    assert of_report.masks == of_steps.masks
    with pytest.raises(ValueError, match="no recorded run with masks"):
        Replay("baselines")


def test_the_recorded_run_is_replayed_as_it_was():
    shown, steps = Replay("roulette"), experiments.showcase("roulette")
    read = masks({"run": shown.run, "masks": shown.masks})
    assert np.array_equal(read["fc1.weight"][-1], steps[-1].mask["fc1.weight"].reshape(-1).numpy())
    assert shown.run["lineage"]["entries"][0]["values"] == [*steps[0].tried.costs]


def test_a_recorded_run_has_a_title_that_names_its_experiment_and_what_of_it_is_shown():
    title = Replay("de-lenet300").run["title"]
    assert title.startswith("Evolved thresholds on LeNet-300-100")
    assert title.endswith("the recorded run “evolution”, seed 0")
    assert "de-lenet300" not in title


def test_a_page_needs_nothing_else_and_no_text_gets_out_of_it():
    keep = torch.tensor([[True, False]])
    name = "</script><img onerror=alert(1)>"
    step = Step("prune", 1, 1, Mask({name: keep}), {"accuracy": 0.5})
    text = page(traits([step], "<b>a</b></script>"))
    assert len(re.findall("</script>", text)) == text.count("<script")
    assert "<img" not in text
    assert "<title>&lt;b&gt;a" in text
    assert not re.search(r"https?://|import\s|src=", text)
    found = json.loads(re.search(r'"replay"\), (.*)\);', text)[1])["run"]
    assert found["layers"][0]["name"] == name


def test_the_command_writes_the_page_whole_or_not_at_all(tmp_path, capsys):
    out = tmp_path / "roulette.html"
    assert main(["page", "roulette", str(out)]) == 0
    assert out.read_text().startswith("<!doctype html>")
    assert main(["page", "baselines", str(tmp_path / "no.html")]) == 2
    assert "no recorded run with masks" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["roulette.html"]
