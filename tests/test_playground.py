"""The playground, without a browser: 8-bit weights, the places of the slider, what they say."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from prunekit import Mask, build, evaluate, models, pretrained
from prunekit.__main__ import main
from prunekit.widgets import Playground
from prunekit.widgets.playground import shown_of


@pytest.fixture(scope="module")
def net():
    return pretrained("lenet_300_100")


@pytest.fixture(scope="module")
def traits(net, digits):
    return shown_of(net, digits.fewer(validation=1_000))


def weights_of(traits):
    flat = np.frombuffer(traits["weights"], dtype=np.int8)
    widths, found = traits["shown"]["widths"], []
    for columns, rows in pairwise(widths):
        found.append(torch.tensor(flat[: rows * columns].reshape(rows, columns)))
        flat = flat[rows * columns :]
    assert not len(flat)
    return found


def test_weights_are_rounded_to_8_bits_and_lose_nearly_nothing(net, traits):
    names = [name for name, p in net.named_parameters() if p.ndim == 2]
    for name, q, scale in zip(names, weights_of(traits), traits["shown"]["scales"], strict=True):
        w = net.get_parameter(name).detach()
        assert float((q.float() * scale - w).abs().max()) <= scale / 2 * 1.001
    assert traits["shown"]["places"][0]["accuracy"] > 0.97


def test_each_place_says_what_the_weights_left_answer(net, traits, digits):
    fewer = digits.fewer(validation=1_000)
    own = build("lenet_300_100")
    names = [name for name, p in own.named_parameters() if p.ndim == 2]
    shown, whole = traits["shown"], weights_of(traits)
    with torch.no_grad():
        for name, q, scale, biases in zip(
            names, whole, shown["scales"], shown["biases"], strict=True
        ):
            own.get_parameter(name).copy_(q.float() * scale)
            own.get_parameter(name.replace("weight", "bias")).copy_(torch.tensor(biases))
    before = -1
    for place in shown["places"][::9]:
        keep = {
            name: q.abs() >= level
            for name, q, level in zip(names, whole, place["levels"], strict=True)
        }
        mask = Mask(keep)
        assert place["accuracy"] == pytest.approx(evaluate(own, fewer, mask=mask), abs=1e-3)
        assert place["left"] == mask.kept
        assert place["sparsity"] > before
        before = place["sparsity"]
    assert before > 0.95


def test_ten_digits_of_each_class_are_shown(traits):
    assert traits["shown"]["labels"] == [digit for digit in range(10) for _ in range(10)]
    assert len(traits["digits"]) == 100 * 28 * 28


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
        build("lenet_5"),
        nn.Sequential(nn.Linear(784, 30), nn.Linear(30, 20), nn.Linear(20, 9)),
        nn.Sequential(nn.Linear(784, 300), nn.Linear(300, 100, bias=False), nn.Linear(100, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.Linear(500, 200), nn.Linear(200, 10)),
    ],
)
def test_a_network_of_another_form_is_refused(model, digits):
    with pytest.raises(ValueError, match="Playground: model must be three linear layers"):
        Playground(model, digits)


def test_a_network_that_computes_otherwise_is_refused(digits):
    tanh = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.Tanh(), nn.Linear(300, 100), nn.Tanh(),
        nn.Linear(100, 10),
    )  # fmt: skip
    with pytest.raises(ValueError, match="must have ReLUs between its layers"):
        Playground(tanh, digits)


def test_of_any_weights_more_and_more_are_removed(digits):
    fewer = digits.fewer(validation=200)
    for net in (build("lenet_300_100", 5), pretrained("lenet_300_100", variant="114x")):
        sparsities = [place["sparsity"] for place in shown_of(net, fewer)["shown"]["places"]]
        assert sparsities == sorted(sparsities)
    assert sparsities[0] > 0.98  # those that an earlier pruning removed
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert shown_of(net, fewer)["shown"]["places"][0]["left"] == 0


def test_data_of_another_form_are_refused(net):
    from tiny import tiny_data

    with pytest.raises(ValueError, match=r"Playground: data must be images \(n, 1, 28, 28\)"):
        Playground(net, tiny_data())


def test_the_page_is_one_file_that_can_be_sent(tmp_path, net):
    out = tmp_path / "page.html"
    assert main(["page", "playground", str(out)]) == 0
    assert out.stat().st_size < 1_200_000
    text = out.read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    models.save(tmp_path / "own", build("lenet_300_100", 5))
    own = tmp_path / "own.html"
    assert main(["page", "playground", str(own), "--model", str(tmp_path / "own")]) == 0
    assert own.read_text() != text


def test_a_model_is_for_the_playground_alone(tmp_path, capsys):
    assert main(["page", "roulette", str(tmp_path / "a.html"), "--model", "net"]) != 0
    assert "--model is for the playground alone" in capsys.readouterr().err
