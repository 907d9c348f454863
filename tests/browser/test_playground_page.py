"""The playground in a browser: answers equal to torch's, units, digits of one's own."""

import numpy as np
import pytest
import torch
from conftest import both_themes, drawn_alone

from prunekit import pretrained
from prunekit.datasets import mnist_small
from prunekit.widgets import Playground

EXPOSE = """
window.later = () => {
  const box = document.createElement("div");
  el.replaceChildren();
  render({ model, el: box });
  document.body.append(box);
};
window.asked = (bytes, levels, dead) => {
  const watched = reader(values.shown, bytesOf(values.weights)).watch(Uint8Array.from(bytes));
  return levels.map((own) => {
    dead.forEach((gone, k) => gone.forEach((i) => (watched.dead[k][i] = 1)));
    return watched.answers(own).map(({ answer, layers }) => [answer, [...layers[2]]]);
  });
};
window.pad = (draw) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [200, 200];
  draw(canvas.getContext("2d"));
  return [...asDigit(canvas, 28)];
};"""


@pytest.fixture(scope="module")
def view():
    return Playground(pretrained("lenet_300_100"), mnist_small())


@pytest.fixture
def page(tab, tmp_path, view):
    values = {"shown": view.shown, "weights": view.weights, "digits": view.digits}
    return drawn_alone(tab, tmp_path, view, values, EXPOSE)


def by_torch(view, images, levels, dead=((), (), ())):
    """Outputs (n, 10) in double precision, of the weights that are left."""
    shown, flat = view.shown, np.frombuffer(view.weights, dtype=np.int8)
    x = (images.double().flatten(1) / 255 - shown["mean"]) / shown["std"]
    for k in range(3):
        columns, rows = shown["widths"][k], shown["widths"][k + 1]
        q = torch.tensor(flat[: rows * columns].reshape(rows, columns)).double()
        flat = flat[rows * columns :]
        w = shown["scales"][k] * q * (q.abs() >= levels[k])
        bias = torch.tensor(shown["biases"][k]).double()
        x = x @ w.T + bias
        if k < 2:
            x = x.relu()
        for i in dead[k]:
            x[:, i] = 0.0 if k < 2 else -torch.inf
    return x


@pytest.mark.parametrize("dead", [((), (), ()), ((3, 50, 299), (7,), (4,))])
def test_answers_are_torch_s_to_the_last(page, view, digits, dead):
    images = digits.splits["validation"][0][:300]
    places = [place["levels"] for place in view.shown["places"]]
    # There and back: what comes and goes is added and taken off.
    levels = [*places[::7], *places[::-9], places[0]]
    found = page.evaluate(
        "([bytes, levels, dead]) => asked(bytes, levels, dead)",
        [images.flatten().tolist(), levels, [list(gone) for gone in dead]],
    )
    for own, told in zip(levels, found, strict=True):
        outputs = by_torch(view, images, own, dead)
        assert [answer for answer, _ in told] == outputs.argmax(1).tolist()
        numbers = torch.tensor([out for _, out in told]).double()
        torch.testing.assert_close(numbers, outputs, rtol=1e-5, atol=1e-4)


def test_the_slider_says_what_is_left_and_who_is_forgotten(page, view):
    slider = page.get_by_label("weights removed")
    words = page.locator(".pk-words").first
    slider.press("End")
    last = view.shown["places"][-1]
    page.wait_for_function("() => document.querySelector('.pk-wrong').textContent")
    text = words.inner_text()
    assert f"{100 * last['sparsity']:.1f} % removed" in text
    assert f"{last['left']:,} of 266,200 weights left" in text
    assert f"{100 * last['accuracy']:.1f} % of 5,000 validation images right" in text
    recall = page.locator(".pk-recall").get_attribute("aria-label")
    assert f"8: {100 * last['recall'][8]:.1f} %" in recall
    assert "Newly read wrongly: " in page.locator(".pk-wrong").inner_text()
    slider.press("Home")
    page.wait_for_function("() => !document.querySelector('.pk-wrong').textContent")
    assert "266,200 of 266,200" in words.inner_text()


def test_an_answer_that_is_taken_out_is_forgotten_and_comes_back(page):
    page.get_by_label("layer").select_option("2")
    page.get_by_label("unit", exact=True).fill("4")
    page.get_by_role("button", name="take out").click()
    assert "answer 4 is out" in page.locator(".pk-playground").inner_text()
    page.get_by_label("weights removed").press("End")
    assert "which answers 4" not in page.locator(".pk-net").get_attribute("aria-label")
    assert "4: 0.0 %" in page.locator(".pk-recall").get_attribute("aria-label")
    assert "; 1 unit out; " in page.locator(".pk-words").first.inner_text()
    page.get_by_role("button", name="bring all back").click()
    assert "answer 4 gives" in page.locator(".pk-playground").inner_text()
    assert "of 5,000 validation images right" in page.locator(".pk-words").first.inner_text()


@pytest.mark.parametrize("number", ["10", "-1", "0.5", ""])
def test_a_unit_that_is_not_there_is_told(page, number):
    page.get_by_label("layer").select_option("2")
    page.get_by_label("unit", exact=True).fill(number)
    page.get_by_role("button", name="take out").click()
    words = page.locator(".pk-playground").inner_text()
    assert "There is no such unit here: they go from 0 to 9." in words
    assert "out;" not in page.locator(".pk-words").first.inner_text()


def test_a_click_on_a_unit_takes_it_out(page):
    box = page.locator(".pk-net").bounding_box()
    unit = box["width"] / 960
    x, y = box["x"] + (770 + 60) * unit, box["y"] + (60 + 4 * 29) * unit  # on the bar of answer 4
    page.mouse.click(x, y)
    assert "answer 4 is out; a click brings it back" in page.locator(".pk-playground").inner_text()
    page.mouse.click(x, y)
    assert "answer 4 gives" in page.locator(".pk-playground").inner_text()


def test_a_finger_looks_first_and_takes_out_with_a_second_tap(page):
    picture = page.locator(".pk-net")
    box = picture.bounding_box()
    at = {"x": 774 * box["width"] / 960, "y": 176 * box["width"] / 960}
    for words in ("answer 4 gives", "answer 4 is out"):
        place = {"clientX": box["x"] + at["x"], "clientY": box["y"] + at["y"]}
        picture.evaluate(
            "(e, place) => e.dispatchEvent(new PointerEvent('click', place))",
            place | {"pointerType": "touch"},
        )
        assert words in page.locator(".pk-playground").inner_text()


@both_themes
def test_what_is_drawn_thins_as_the_weights_go(page):
    painted = """() => {
      const canvas = document.querySelector(".pk-net");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, i) => i % 4 === 3 && value > 0).length;
    }"""
    counts = []
    for place in (0, 12, 30, 60):
        page.get_by_label("weights removed").fill(str(place))
        page.wait_for_timeout(200)
        counts.append(page.evaluate(painted))
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 0.7 * counts[0]


def test_a_digit_of_one_s_own_is_read_by_both(page):
    box = page.locator(".pk-pad").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 170, steps=8)
    page.mouse.up()
    assert "whole network: 1; now: 1" in page.locator(".pk-playground").inner_text()
    page.get_by_role("button", name="clear").click()
    assert "whole network: " not in page.locator(".pk-playground").inner_text()


def test_what_is_drawn_is_made_as_mnist_s_digits_are(page):
    code = """() => pad((c) => { c.fillStyle = "black"; c.fillRect(10, 20, 30, 90); })"""
    image = np.array(page.evaluate(code)).reshape(28, 28)
    rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
    assert rows[-1] - rows[0] + 1 in (20, 21)
    assert columns[-1] - columns[0] + 1 in (6, 7, 8)
    mass = image / image.sum()
    centre = [(mass * grid).sum() for grid in np.indices((28, 28))]
    assert centre == pytest.approx([13.5, 13.5], abs=0.75)
    assert not any(page.evaluate("() => pad(() => {})"))


@both_themes
def test_it_takes_the_colours_of_the_page_that_it_is_put_into_later(page):
    page.evaluate("later()")
    page.wait_for_timeout(300)
    brightest, darkest = page.evaluate("""() => {
        const canvas = document.querySelector(".pk-net");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const grey = [];  // opaque pixels without a colour of their own: text and digit
        for (let i = 0; i < data.length; i += 4) {
            const [r, g, b, a] = data.subarray(i, i + 4);
            if (a > 250 && Math.max(r, g, b) - Math.min(r, g, b) < 8) grey.push(r);
        }
        return [Math.max(...grey), Math.min(...grey)];
    }""")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert brightest > 200 if dark else darkest < 50


def test_digits_are_chosen_by_key_and_by_click(page):
    table = page.locator(".pk-digits")
    table.focus()
    table.press("ArrowDown")
    assert "digit 50, a 5" in table.get_attribute("aria-label")
    box = table.bounding_box()
    page.mouse.click(box["x"] + 5, box["y"] + 5)
    assert "digit 0, a 0" in table.get_attribute("aria-label")
