"""Panels without a browser: what stands in the controls, and that clicks do what they say."""

import asyncio
import base64
import io
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from ipywidgets import HTML
from matplotlib.pyplot import imread
from tiny import tiny_data, tiny_model

from prunekit import Data, Mask, Step, fit, gradual, magnitude, plot, prune, show
from prunekit.knobs import Count, helps, knobs
from prunekit.method import method
from prunekit.methods.roulette import roulette
from prunekit.prune import share_done
from prunekit.steps import Run
from prunekit.widgets import Guess, Panel
from prunekit.widgets.running import parts

METHODS = [*show.functions("methods").values(), *show.functions("baselines").values()]
SMALL = dict(sparsity=0.5, rounds=3, epochs=2)


def panel(method=magnitude, **settings):
    settings = settings or SMALL
    return Panel(method, tiny_model(), tiny_data(), **settings)


async def until(condition, seconds=20):
    """Let the loop turn until something holds."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def finished(made):
    await until(lambda: made.running.state == "ended" and not made.running.busy)


def click(made, name):
    made.buttons[name].click()


def told(steps):
    return [(s.phase, s.index, s.of, s.mask, dict(s.metrics)) for s in steps]


# -------------------------------------------------------------------------------------- controls


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_every_knob_has_a_control_at_its_default_and_words_of_help(method):
    made = Panel(method, tiny_model(), tiny_data())
    assert made.values() == {name: knob.default for name, knob in made.knobs.items()}
    assert made.settings() == {}
    said = helps(method)
    for name in made.knobs:
        if name != "seed":
            assert len(said[name]) > 8, name


def test_helps_joins_the_lines_of_a_knob():
    def documented():
        """What it does.

        first: one line.
        second: a line
            and its end.

        Text that is: no knob's, and
            indented.
        """

    assert helps(documented) == {"first": "one line.", "second": "a line and its end."}


def test_a_typed_number_is_taken_exactly_and_moves_the_slider():
    control = panel().controls["sparsity"]
    control.field.value = "0.123456789"
    assert control.read() == 0.123456789
    assert control.slider.value == pytest.approx(0.123456789)
    control.slider.value = 0.7
    assert control.read() == 0.7


def test_a_slider_reaches_every_value_that_a_preset_needs():
    made = panel(rounds=2, presets={"long": {"rounds": 70}})
    made.chooser.value = "long"
    assert made.controls["rounds"].slider.value == 70
    assert made.settings()["rounds"] == 70


def test_a_preset_changes_its_values_and_puts_the_rest_back():
    made = panel(sparsity=0.5, presets={"hard": dict(sparsity=0.8)})
    assert made.chooser.value is None
    made.controls["rounds"].set(7)
    made.chooser.value = "hard"
    assert made.settings() == {"sparsity": 0.8}
    assert made.restore.disabled


def test_the_preset_that_the_settings_are_is_marked_and_restored():
    made = panel(sparsity=0.5, presets={"soft": {}, "hard": dict(sparsity=0.8)})
    assert made.chooser.value == "soft"
    made.controls["sparsity"].field.value = "0.80"
    assert made.chooser.value == "hard"
    made.controls["rounds"].set(7)
    assert made.chooser.value is None
    made.restore.click()
    assert made.chooser.value == "hard"
    assert made.settings() == {"sparsity": 0.8}


def test_what_is_typed_quickly_is_not_lost_to_the_slider_that_follows():
    async def run():
        control = panel().controls["sparsity"]
        for text in ("0", "0.", "0.9", "0.95"):
            control.field.value = text
        await asyncio.sleep(0.1)
        assert control.field.value == "0.95"
        assert control.slider.value == pytest.approx(0.95)

    asyncio.run(run())


def test_a_preset_that_passes_another_on_its_way_is_what_it_says():
    presets = {"start": {}, "half": dict(sparsity=0.5), "all": dict(sparsity=0.5, rounds=4)}

    async def run():
        made = panel(sparsity=0.3, rounds=2, presets=presets)
        for label in ("all", "start", "half", "all"):
            made.chooser.value = label
            await asyncio.sleep(0.1)
            assert made.chooser.value == label
            assert made._label() == label
        made.controls["rounds"].set(9)
        await asyncio.sleep(0.1)
        assert made.chooser.value is None
        made.restore.click()
        await asyncio.sleep(0.1)
        assert made.chooser.value == "all"

    asyncio.run(run())


def test_a_slider_by_decades_takes_its_value_and_gives_it_back():
    control = panel(lr=0.1).controls["lr"]
    assert control.slider.value == pytest.approx(-1)
    control.slider.value = -2.5
    assert control.read() == pytest.approx(10**-2.5, rel=0.05)
    at = control.slider.value
    control.field.value = "7"  # more than is useful, but allowed
    assert control.read() == 7
    assert control.slider.value == control.slider.max > at
    assert control.wrong.value == ""


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_what_is_useful_is_allowed_and_the_default_is_among_it_or_ends_it(method):
    for knob in knobs(method).values():
        if knob.useful is None:
            continue
        low, high = knob.useful.low, knob.useful.high
        assert low < high
        assert not knob.wrong(int(low) if knob.whole else low), knob
        assert not knob.wrong(int(high) if knob.whole else high), knob
        assert low <= knob.default <= high, knob


def test_tuples_and_names_are_read_as_such():
    made = panel()
    made.controls["sensitivities"].field.value = "0.5, 1"
    made.controls["ignore"].field.value = "0.weight, 2.*"
    assert made.settings()["sensitivities"] == (0.5, 1.0)
    assert made.settings()["ignore"] == ("0.weight", "2.*")


@pytest.mark.parametrize(
    ("name", "typed", "said", "beside"),
    [
        ("sparsity", "95", "Pass 0.95 for 95 %", "Pass 0.95 for 95 %"),
        (
            "sparsity", "many", "sparsity must be a number in [0, 1), got &#x27;many&#x27;",
            "a number from 0 on and below 1 is needed, got &#x27;many&#x27;.",
        ),
        (
            "rounds", "2.5", "rounds must be a whole number",
            "a whole number from 1 on is needed, got 2.5.",
        ),
        ("seed", "-1", "seed must be in [0, inf)", "from 0 on is needed, got -1."),
        ("lr", "0", "lr must be in (0, inf)", "a number above 0 is needed, got 0."),
        ("sparsity", "<img src=x>", "&lt;img src=x&gt;", "&lt;img src=x&gt;"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_said_and_nothing_runs(name, typed, said, beside):
    made = panel()
    made.controls[name].field.value = typed
    assert beside in made.controls[name].wrong.value  # at once
    assert "<img" not in made.controls[name].wrong.value
    click(made, "Run")
    assert made.running.state == "idle"
    assert said in made.message.value
    assert "<img" not in made.message.value
    assert made.code.text.startswith("# ")
    made.controls[name].set(made.start_values[name])
    assert made.controls[name].wrong.value == ""


def test_what_the_method_has_not_is_refused_when_the_panel_is_made():
    with pytest.raises(ValueError, match=r"Panel: magnitude has no knob 'wheel': \['sparsity'"):
        panel(wheel="lin")
    with pytest.raises(ValueError, match="magnitude has no knob 'depth'"):
        panel(show=["depth"])
    with pytest.raises(ValueError, match="magnitude: sparsity must be in"):
        panel(presets={"wrong": dict(sparsity=2.0)})


def test_the_code_is_the_call_that_gives_the_same_report():
    made = panel(sparsity=0.7, rounds=2, scope="layer", ignore=("0.bias",), biases=True, seed=4)
    click(made, "Run")
    names = dict(prune=prune, magnitude=magnitude, model=tiny_model(), data=tiny_data())
    exec(made.code.text, names)
    assert names["report"].knobs == made.report.knobs
    assert told(names["report"].history) == told(made.report.history)


# --------------------------------------------------------------------------------------- running


@pytest.mark.parametrize(("method", "settings"), [
    (magnitude, SMALL), (gradual, dict(epochs=3, every=2)), (roulette, dict(branches=2)),
])  # fmt: skip
def test_a_run_is_what_prune_does(method, settings):
    async def run():
        made = panel(method, **settings)
        click(made, "Run")
        await finished(made)
        return made

    made = asyncio.run(run())
    alone = prune(method, tiny_model(), tiny_data(), bar=False, **settings)
    assert told(made.report.history) == told(alone.history)
    assert str(made.report) == str(alone)
    assert made.left.value == "done"
    assert made.bar.value == 1
    assert made.image.value.startswith(
        '<img alt="magnitude: ' if method is magnitude else "<img alt="
    )
    assert f"{alone.sparsity:.3f}" in made.table.value
    assert "test" not in made.table.value


def test_two_panels_are_each_as_if_alone():
    async def run():
        made = [panel(seed=seed, **SMALL) for seed in (0, 1)]
        for each in made:
            click(each, "Run")
        await until(lambda: all(each.report for each in made))
        return made

    for seed, each in enumerate(asyncio.run(run())):
        alone = prune(magnitude, tiny_model(), tiny_data(), bar=False, seed=seed, **SMALL)
        assert told(each.report.history) == told(alone.history)


def test_paused_stepped_and_gone_on_it_is_the_same_run():
    async def run():
        made = panel()
        click(made, "Step")
        await until(lambda: made.running.state == "paused" and not made.running.busy)
        assert len(made.running.steps) == 1
        assert made.buttons["Run"].description == "Go on"
        click(made, "Step")
        await until(lambda: len(made.running.steps) == 2 and not made.running.busy)
        click(made, "Run")
        click(made, "Pause")  # at once, or a quick machine would have come to the end
        await until(lambda: len(made.running.steps) == 3 and not made.running.busy)
        await asyncio.sleep(0.1)
        assert len(made.running.steps) == 3
        assert {n: b.disabled for n, b in made.buttons.items()} == {
            "Run": False, "Pause": True, "Step": False, "Stop": False, "Reset": False
        }  # fmt: skip
        click(made, "Run")
        await finished(made)
        return made

    alone = prune(magnitude, tiny_model(), tiny_data(), bar=False, **SMALL)
    assert told(asyncio.run(run()).report.history) == told(alone.history)


class Slow(Data):
    """Data whose minibatches take a while, and are counted."""

    given = 0

    def batches(self, split, size, generator=None):
        for batch in super().batches(split, size, generator):
            if split == "train":
                time.sleep(0.02)
                self.given += 1
            yield batch


def test_stop_ends_within_a_minibatch_and_leaves_a_report():
    async def run():
        x, y = tiny_data().splits["train"]
        data = Slow(tiny_data().splits | {"train": (x.repeat(200, 1), y.repeat(200))})
        made = Panel(magnitude, tiny_model(), data, sparsity=0.5, rounds=2, epochs=9)
        click(made, "Run")
        await until(lambda: len(made.running.steps) == 1)
        click(made, "Stop")
        await until(made.running.stop.is_set)
        given = data.given
        await finished(made)
        return made, data.given - given

    made, more = asyncio.run(run())
    assert more <= 2  # of 188 in an epoch: the one under way, and one that was being handed over
    assert made.report.stopped
    assert made.left.value == "stopped"
    assert len(made.report.history) == 1


def test_reset_gives_up_the_run_and_what_it_still_sends_is_not_taken():
    async def run():
        made = panel()
        made.controls["rounds"].set(9)
        click(made, "Run")
        await until(lambda: made.running.steps)
        click(made, "Reset")
        await until(lambda: made.running.state == "idle")
        await asyncio.sleep(0.2)
        assert made.running.steps == []
        assert made.table.value == ""
        assert made.values()["rounds"] == 9  # what is set stays
        made.restore.click()
        await until(lambda: made.values() == made.start_values)
        click(made, "Run")
        await finished(made)
        return made

    alone = prune(magnitude, tiny_model(), tiny_data(), bar=False, **SMALL)
    assert told(asyncio.run(run()).report.history) == told(alone.history)


def test_controls_are_locked_while_it_runs():
    async def run():
        made = panel()
        click(made, "Step")
        await until(lambda: made.running.state == "paused")
        assert all(c.parts[0].disabled for c in made.controls.values())
        assert made.chooser.disabled
        click(made, "Stop")
        await finished(made)
        assert not any(c.parts[0].disabled for c in made.controls.values())
        assert not made.chooser.disabled

    asyncio.run(run())


@method
def broken(model, data, *, epochs: Count = 1, seed=0, run=Run()):
    """Fails after a step. arXiv 0000.00000."""
    yield from fit(model, data, epochs=1, seed=seed, run=run)
    error = RuntimeError("the <b>disk</b> is full")
    error.add_note("while evaluating the candidate 7")
    raise error


def test_an_error_inside_a_method_is_said_in_the_panel():
    async def run():
        made = panel(broken, seed=1)
        click(made, "Run")
        await finished(made)
        return made

    made = asyncio.run(run())
    assert made.message.value == (
        "RuntimeError: the &lt;b&gt;disk&lt;/b&gt; is full; while evaluating the candidate 7"
    )
    assert made.left.value == "failed"
    assert not made.buttons["Run"].disabled


def test_steps_are_taken_in_a_worker_and_widgets_touched_in_the_loop(monkeypatch):
    threads = {"step": set(), "widget": set()}

    @method
    def noted(model, data, *, seed=0, run=Run()):
        """arXiv 0000.00000."""
        threads["step"].add(threading.current_thread().name)
        yield from fit(model, data, seed=seed, run=run)

    changed = Panel._changed

    def seen(self, step: Step | None):
        threads["widget"].add(threading.current_thread().name)
        changed(self, step)

    monkeypatch.setattr(Panel, "_changed", seen)

    async def run():
        made = panel(noted, seed=2)
        await asyncio.to_thread(click, made, "Run")  # as from a subshell
        await finished(made)

    asyncio.run(run())
    assert threads["widget"] == {threading.main_thread().name}
    assert len(threads["step"]) == 1
    assert next(iter(threads["step"])).startswith("prunekit-panel")


def test_the_callers_thread_count_is_the_workers():
    counts, before = [], torch.get_num_threads()

    @method
    def counting(model, data, *, seed=0, run=Run()):
        """arXiv 0000.00000."""
        counts.append(torch.get_num_threads())
        yield from fit(model, data, seed=seed, run=run)

    async def run():
        made = panel(counting, seed=2)
        click(made, "Run")
        await finished(made)

    torch.set_num_threads(before + 1)
    try:
        asyncio.run(run())
    finally:
        torch.set_num_threads(before)
    assert counts == [before + 1]


def test_it_can_be_stopped_before_its_first_step():
    async def run():
        x, y = tiny_data().splits["train"]
        data = Slow(tiny_data().splits | {"train": (x.repeat(200, 1), y.repeat(200))})
        made = Panel(gradual, tiny_model(), data, epochs=9)
        click(made, "Run")
        await until(lambda: made.running.state == "running")
        assert not made.buttons["Stop"].disabled
        assert made.buttons["Run"].disabled
        assert all(c.parts[0].disabled for c in made.controls.values())
        click(made, "Stop")
        await finished(made)
        return made

    made = asyncio.run(run())
    assert made.left.value == "stopped"
    assert made.running.steps == []


def test_a_figure_that_fails_is_said_and_the_run_goes_on():
    def broken_figure(steps, dense):
        raise KeyError("accuracy")

    made = panel(draw=broken_figure, **SMALL)
    click(made, "Run")
    assert "the figure cannot be drawn: KeyError" in made.message.value
    assert len(made.report.history) == 9


def test_the_picture_has_no_background():
    made = panel(**SMALL)
    click(made, "Run")
    png = base64.b64decode(made.image.value.split("base64,")[1].split('"')[0])
    assert imread(io.BytesIO(png))[0, 0, 3] == 0


def test_earlier_runs_stay_pale_until_reset():
    drawn = []

    def draw(steps, dense):
        figure = plot.history(steps, dense=dense)
        drawn.append(figure)
        return figure

    def pale():
        return [line for line in drawn[-1].axes[0].lines if line.get_alpha() == 0.6]

    made = panel(draw=draw, **SMALL)
    for count in (0, 1, 2):
        click(made, "Run")
        assert len(pale()) == count
    assert [*pale()[0].get_ydata()] == [*drawn[-1].axes[0].lines[0].get_ydata()]
    assert "the runs before" in made.image.value
    click(made, "Reset")
    assert made.image.value == made.table.value == ""
    click(made, "Run")
    assert pale() == []


def test_picture_and_table_are_of_the_same_step():
    drawn, shown = [], []

    async def run():
        def draw(steps, dense):
            drawn.append(len(steps))
            return plot.history(steps, dense=dense)

        def pictured(change):
            shown.append((change["new"] != "", drawn[-1], made.table.value.count("<tr>") - 1))

        made = panel(draw=draw, sparsity=0.5, rounds=9)
        made.image.observe(pictured, "value")
        click(made, "Run")
        await finished(made)

    asyncio.run(run())
    assert shown == [(True, count, min(count, 6)) for count in drawn]  # it never goes in between
    assert drawn[-1] == 9


def test_the_code_has_the_names_of_the_notebook(monkeypatch):
    model, data = tiny_model(), tiny_data()
    for names, said in (
        (dict(net=model, digits=data), "prune(magnitude, net, digits"),
        (dict(nets=[None, model], of={"a": data}), "prune(magnitude, nets[1], of['a']"),
        (dict(_=model, odd={object(): data}), "prune(magnitude, model, data"),
    ):
        monkeypatch.setattr("prunekit.widgets.panel.names_of_the_notebook", lambda n=names: n)
        assert said in Panel(magnitude, model, data).code.text


def test_the_readers_own_figures_stay_open():
    from matplotlib import pyplot

    before, mine = pyplot.get_fignums(), pyplot.figure()
    click(panel(**SMALL), "Run")
    assert pyplot.get_fignums() == [*before, mine.number]
    pyplot.close(mine)


def test_a_stop_after_the_end_changes_nothing():
    made = panel(guess=(guess := guessing()), **SMALL)
    guess.field.value = "50"
    guess.commit()
    click(made, "Run")
    made.running.end()
    assert not made.report.stopped
    assert made.left.value == "done"
    assert "right on the spot" in made.message.value


def test_go_on_during_a_single_step_is_not_lost():
    async def run():
        x, y = tiny_data().splits["train"]
        data = Slow(tiny_data().splits | {"train": (x.repeat(20, 1), y.repeat(20))})
        made = Panel(gradual, tiny_model(), data, epochs=3)
        click(made, "Step")
        await until(lambda: made.running.state == "running" and made.running.pruning)
        click(made, "Pause")
        await until(lambda: made.running.state == "paused")
        assert made.buttons["Step"].disabled  # one is under way
        click(made, "Run")
        await finished(made)
        return made

    assert len(asyncio.run(run()).report.history) == 3


def test_whatever_a_method_raises_ends_the_run():
    @method
    def leaving(model, data, *, seed=0, run=Run()):
        """arXiv 0000.00000."""
        yield from fit(model, data, seed=seed, run=run)
        raise SystemExit("no more")

    async def run():
        made = panel(leaving, seed=2)
        click(made, "Run")
        await finished(made)
        return made

    assert "SystemExit: no more" in asyncio.run(run()).message.value


def test_the_model_is_that_of_the_click():
    async def run():
        model = tiny_model()
        made = Panel(magnitude, model, tiny_data(), **SMALL)
        click(made, "Run")
        await asyncio.sleep(0)
        await until(lambda: made.running.state == "running")
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        await finished(made)
        return made

    alone = prune(magnitude, tiny_model(), tiny_data(), bar=False, **SMALL)
    assert told(asyncio.run(run()).report.history) == told(alone.history)


def test_a_partial_function_brings_its_settings():
    made = Panel(partial(magnitude, sparsity=0.3), tiny_model(), tiny_data(), rounds=2)
    assert made.settings() == {"sparsity": 0.3, "rounds": 2}
    assert repr(made) == "Panel(magnitude)"


def test_a_large_whole_number_stays_one():
    control = panel(seed=20240917).controls["seed"]
    control.slider.value = control.slider.value - 7
    assert control.read() == 20240910


def test_a_typed_number_is_not_rounded_by_the_slider_that_follows_it():
    async def run():
        control = panel().controls["sparsity"]
        control.field.value = "0.123456789"
        await asyncio.sleep(0.05)
        return control

    control = asyncio.run(run())
    assert control.read() == 0.123456789
    assert control.slider.value == pytest.approx(0.123456789)


def test_the_bar_never_goes_back_more_than_a_last_training():
    steps = []
    for search, prune_ in ((4, 1), (4, 2)):
        steps += [Step("search", i, 4, Mask({}), {}) for i in range(1, search + 1)]
        steps += [Step("prune", prune_, 2, Mask({}), {})]
        steps += [Step("finetune", i, 3, Mask({}), {}) for i in (1, 2, 3)]
    shares = [share_done(steps[:n]) for n in range(1, len(steps) + 1)]
    assert shares == sorted(shares)
    assert shares[-1] == 1


# ----------------------------------------------------------------------------------------- guess


def guessing():
    return Guess(
        "How many <weights> stay?", lambda r: 100 * (1 - r.sparsity), unit="%",
        across=lambda value: value / 100,
    )  # fmt: skip


def test_nothing_runs_before_the_prediction_is_committed():
    made = panel(guess=guessing(), **SMALL)
    click(made, "Run")
    assert made.running.state == "idle"
    assert "commit" in made.message.value
    made.guess.field.value = "60"
    made.guess.button.click()
    assert made.message.value == ""


def test_of_other_settings_nothing_is_said_and_the_picture_is_pale():
    made = panel(presets={"half": {}, "most": dict(sparsity=0.9)}, guess=guessing(), **SMALL)
    made.guess.field.value = "60"
    made.guess.button.click()
    click(made, "Run")
    assert made.table.value
    assert made.message.value
    assert made.left.value == "done"
    made.chooser.value = "most"
    assert (made.table.value, made.message.value, made.left.value) == ("", "", "")
    assert made.image.value
    assert "pk-past" in made.image._dom_classes
    made.guess.field.value = "60"
    made.guess.button.click()
    click(made, "Run")
    assert made.table.value
    assert "pk-past" not in made.image._dom_classes


@pytest.mark.parametrize(
    ("typed", "said"),
    [("60", "You said 60 %, it is 50 %: 10 too high."), ("20,5", "29.5 too low"), ("50", "right")],
)
def test_the_gap_is_told_after_the_run(typed, said):
    guess = guessing()
    made = panel(guess=guess, **SMALL)
    guess.field.value = typed
    guess.button.click()
    assert guess.field.disabled
    click(made, "Run")
    assert said in made.message.value


def test_every_preset_is_a_question_of_its_own():
    guess, drawn = guessing(), []
    guess.draw = lambda figure: drawn.append(figure)
    made = panel(guess=guess, presets={"half": {}, "most": dict(sparsity=0.9)}, **SMALL)
    guess.field.value = "60"
    guess.button.click()
    made.chooser.value = "most"
    assert "most:" in guess.words.value
    assert (guess.field.value, guess.field.disabled) == ("", False)
    click(made, "Run")
    assert "First commit" in made.message.value
    guess.field.value = "20"
    guess.button.click()
    click(made, "Run")
    assert "You said 20 %, it is 9.85 %" in made.message.value
    assert drawn
    made.chooser.value = "half"
    assert guess.field.value == "60"
    made.controls["seed"].set(7)  # another draw, the same question
    click(made, "Run")
    assert "You said 60 %" in made.message.value


def test_settings_of_ones_own_need_no_prediction_and_are_held_against_none():
    guess, drawn = guessing(), []
    guess.draw = lambda figure: drawn.append(figure)
    made = panel(guess=guess, **SMALL)
    guess.field.value = "60"
    guess.button.click()
    made.controls["epochs"].set(1)
    assert "epochs 1:" in guess.words.value
    click(made, "Run")
    assert made.message.value == "Here it is 50 %."
    assert drawn == []
    guess.field.value = "40"
    guess.button.click()
    click(made, "Run")
    assert "You said 40 %" in made.message.value


def test_a_number_can_be_predicted_again():
    guess = guessing()
    guess.field.value = "60"
    guess.button.click()
    assert guess.button.description == "Predict again"
    guess.button.click()
    assert (guess.value, guess.field.disabled, guess.said.value) == (None, False, "")


def test_a_model_that_cannot_be_copied_is_told_and_not_waited_for():
    model = tiny_model()
    model.seen = model[0].weight * 2  # what a layer computed, kept with its history
    made = Panel(magnitude, model, tiny_data(), **SMALL)
    click(made, "Run")
    assert "RuntimeError" in made.message.value
    assert made.running.state == "ended"
    assert not made.buttons["Run"].disabled
    del model.seen
    click(made, "Run")
    assert made.report is not None


def test_the_time_left_does_not_count_a_pause(monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("prunekit.widgets.panel.time", clock)

    async def run():
        made = Panel(magnitude, tiny_model(), tiny_data(), sparsity=0.5, rounds=9, epochs=9)
        click(made, "Step")
        await until(lambda: made.running.state == "paused" and not made.running.busy)
        now[0] = 5_000.0
        click(made, "Run")
        await until(lambda: "s left" in made.left.value or made.running.state == "ended")
        left = made.left.value
        click(made, "Stop")
        await finished(made)
        return left

    assert asyncio.run(run()) == "about 0 s left"


@pytest.mark.parametrize("typed", ["", "a lot", "nan", "inf"])
def test_a_guess_is_a_number(typed):
    guess = guessing()
    guess.field.value = typed
    guess.button.click()
    assert guess.value is None
    assert "a number is needed" in guess.said.value


def test_a_guess_that_cannot_be_is_refused_and_another_is_taken():
    guess = Guess("How many stay?", lambda report: 1.0, least=0)
    for typed, said in (("-5", "it cannot be below 0, got -5"), ("0", "committed")):
        guess.field.value = typed
        guess.button.click()
        assert guess.said.value == said
    assert guess.value == 0


def test_code_in_words_of_help_is_shown_as_code():
    words = [part.value for part in parts(panel()) if isinstance(part, HTML)]
    assert any("<code>sparsity</code>" in text for text in words)
    assert not any("`" in text for text in words)


def test_the_guess_lies_dashed_over_the_figure():
    guess = guessing()
    guess.field.value = "40"
    guess.button.click()
    from matplotlib import pyplot

    figure, axis = pyplot.subplots()
    guess.draw(figure)
    (line,) = axis.lines
    assert line.get_ydata()[0] == 0.4
    assert line.get_linestyle() == "--" or line.is_dashed()
    assert [t.get_text() for t in axis.texts] == ["your guess"]
    pyplot.close(figure)


# ----------------------------------------------------------------------------------------- shown


def test_repr_and_fallback_are_stable_and_escaped():
    settings = dict(ignore=("<b>",), sparsity=0.5, show=("ignore",))
    made = panel(**settings)
    assert repr(made) == "Panel(magnitude)"
    bundle = made._repr_mimebundle_()
    assert bundle["text/plain"] == "Panel(magnitude)"
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "&lt;b&gt;" in bundle["text/html"]
    assert "<b>'" not in bundle["text/html"]
    assert bundle["text/html"] == panel(**settings)._repr_mimebundle_()["text/html"]


def test_per_cent_below_one_are_asked_for_twice():
    guess = Guess("how many?", lambda report: 1.0, unit="%")
    guess.field.value = "0.95"
    guess.button.click()
    assert guess.said.value == "0.95 %, or 95 %? Commit again what you mean."
    assert guess.value is None
    guess.button.click()
    assert guess.value == 0.95
    other = Guess("how many?", lambda report: 1.0, unit="points")
    other.field.value = "0.95"
    other.button.click()
    assert other.value == 0.95
