"""Networks that are written masked, packed or shrunk, and read where nothing else is known."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn

from prunekit import mnist_small, models, pretrained, prune, surgery
from prunekit.baselines.filters import filters
from prunekit.mask import Mask

FORMS = ["masked", "packed", "shrunk"]


@pytest.fixture(scope="module")
def report():
    return prune(filters, tiny_residual(), tiny_images(), share=0.5, epochs=1, bar=False)


@pytest.mark.parametrize("form", FORMS)
def test_what_was_written_answers_the_same(report, form, tmp_path):
    path = report.save(tmp_path / "net", form)
    found, x = models.load(path, tiny_residual(seed=5)), tiny_images().example
    assert not found.training
    with torch.no_grad():
        assert torch.allclose(found(x), report.model.eval()(x), atol=1e-6)
    small = sum(p.numel() for p in report.shrink().parameters())
    whole = sum(p.numel() for p in report.model.parameters())
    assert sum(p.numel() for p in found.parameters()) == (small if form == "shrunk" else whole)
    assert surgery.was_cut(found) == (form == "shrunk")


OTHER_PROCESS = """
import sys, torch
from prunekit import models
x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
torch.save({form: models.load(form)(x).detach() for form in sys.argv[1:]}, "answers.pt")
"""


def test_another_process_that_knows_only_the_files_answers_the_same(tmp_path):
    report = prune(filters, pretrained("vgg_small"), mnist_small(), share=0.5, bar=False)
    for form in FORMS:
        report.save(tmp_path / form, form)
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, *FORMS], cwd=tmp_path, check=True)
    answers = torch.load(tmp_path / "answers.pt")
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    for form in FORMS:
        want = report.shrink()(x) if form == "shrunk" else report.model(x)
        assert torch.equal(answers[form], want.detach()), form


PLAIN = """
import json
import torch
from safetensors.torch import load_file
from tiny import tiny_residual

fresh, info = tiny_residual(seed=5), json.load(open("net.json"))
for name, tensor in load_file("net.safetensors").items():  # every parameter and buffer
    path, _, own = name.rpartition(".")
    getattr(fresh.get_submodule(path), own).data = tensor
for path, attributes in info["plan"]["attributes"].items():
    for attribute, value in attributes.items():
        setattr(fresh.get_submodule(path), attribute, value)
torch.save(fresh.eval()(torch.load("x.pt")).detach(), "answer.pt")
"""


def test_the_recipe_for_plain_torch_gives_the_shrunk_network(report, tmp_path, pytestconfig):
    readme = (pytestconfig.rootpath / "README.md").read_text(encoding="utf-8")
    recipe = PLAIN.split("\n\n")[1].split("torch.save")[0].split("\n", 1)[1]
    assert recipe.strip() in readme
    report.save(tmp_path / "net", "shrunk")
    x = tiny_images().example
    torch.save(x, tmp_path / "x.pt")
    path = str(pytestconfig.rootpath / "tests")
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{PLAIN}"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    assert torch.equal(torch.load(tmp_path / "answer.pt"), report.shrink()(x).detach())


@pytest.mark.parametrize(
    ("name", "settings"),
    [("resnet_20", {"outputs": 4, "width": 0.5}), ("vgg_small", {"inputs": 3}), ("lenet_5", {})],
)
def test_networks_of_build_are_made_from_the_files_alone(name, settings, tmp_path):
    model = models.build(name, seed=3, **settings).eval()
    channels = settings.get("inputs", 3 if name == "resnet_20" else 1)
    x = torch.rand(2, channels, *[32 if name == "resnet_20" else 28] * 2)
    groups = surgery.groups(model, x)
    weight, _, rows, _ = groups.filters(groups.names[0])[0]
    keep = torch.ones(groups.shapes[weight], dtype=torch.bool)
    keep[rows[:2]] = False
    small = surgery.shrink(model, Mask({weight: keep}), x)
    for saved in (model, small):
        models.save(tmp_path / "m", saved, {"told": "as it was"}, example=x)
        assert torch.equal(models.load(tmp_path / "m")(x), saved(x))
    assert json.loads((tmp_path / "m.json").read_text())["told"] == "as it was"


def test_what_does_not_fit_is_refused_by_the_file(tmp_path):
    report = prune(filters, tiny_model(), tiny_data(), share=0.5, bar=False)
    path = report.save(tmp_path / "net", "shrunk")
    with pytest.raises(ValueError, match=r"net\.json is of no network that build knows"):
        models.load(path)
    harmful = surgery.Plan("Sequential", {}, {}, {"0": {"training": 3}})
    with pytest.raises(ValueError, match=r"in which 0\.training counts channels"):
        surgery.rebuild(tiny_model(), harmful)
    with pytest.raises(ValueError, match=r"the plan is for a Sequential with 0\.weight"):
        models.load(path, nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3)))
    # Of the same shapes, but with another function between the layers.
    other = nn.Sequential(nn.Linear(8, 12), nn.Sigmoid(), nn.Linear(12, 3))
    with pytest.raises(ValueError, match=r"net\.json: the network answers otherwise"):
        models.load(path, other)
    before = [p.clone() for p in other.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


@pytest.mark.parametrize(
    "harm",
    [
        lambda told: told.pop("cuts"),
        lambda told: told["cuts"]["0.weight"].update({"0": [[5, 3], [2, 2]]}),
        lambda told: told["cuts"]["0.weight"].update({"0": [[0, 99]]}),
        lambda told: told.update(attributes=3),
        lambda told: told.update(attributes={"0": {"forward": "me"}}),
    ],
)
def test_damaged_plans_are_refused(harm):
    report = prune(filters, tiny_model(), tiny_data(), share=0.5, bar=False)
    plan = surgery.plan_of(report.shrink())
    told = json.loads(json.dumps(plan.to_json()))
    assert surgery.Plan.from_json(told) == plan
    harm(told)
    with pytest.raises(ValueError, match="this is no plan"):
        surgery.Plan.from_json(told)
