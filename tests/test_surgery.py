"""Surgery: what hangs together, and the law that a cut network answers as the masked one."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_data
from torch import nn
from zoo import GOING, ZOO, Of

from prunekit import channels, count, models, prune, surgery
from prunekit._modules import call, named_tensors
from prunekit._random import LocalRandom
from prunekit._torchvision import torchvision
from prunekit.baselines.filters import filters
from prunekit.mask import Mask
from prunekit.methods.filter_clustering import filter_clustering
from prunekit.methods.optimal_threshold import optimal_threshold


def drawn(model, seed=0):
    """Random numbers in all weights, norms and statistics, so that nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, a in named_tensors(model).items():
            if a.is_floating_point() and a.numel():
                if name.endswith("var") or (a.ndim == 1 and name.endswith("weight")):
                    a.copy_(0.5 + torch.rand(a.shape, generator=generator))
                elif a.ndim > 1:
                    a.copy_(torch.randn(a.shape, generator=generator) * a[0].numel() ** -0.5)
                else:
                    a.copy_(0.5 * torch.randn(a.shape, generator=generator))
    return model


def filters_of(groups, gone):
    """The mask of the filters of some groups: {family: bool tensor, True where one goes}."""
    masks = {}
    for name, leaves in gone.items():
        for weight, dim, rows, of in groups.filters(name):
            keep = masks.setdefault(weight, torch.ones(groups.shapes[weight], dtype=torch.bool))
            for row, group in zip(rows.tolist(), of.tolist(), strict=True):
                if leaves[group]:
                    keep.select(dim, row).fill_(False)
    return Mask(masks)


def chosen(groups, share, seed):
    """Some groups of each family, never all of one."""
    generator, gone = torch.Generator().manual_seed(seed), {}
    for name in groups.names:
        n = len(groups.members[name])
        gone[name] = torch.rand(n, generator=generator) < share
        gone[name][torch.randint(n, (), generator=generator)] = False
    return gone


def answers(model, x):
    with torch.no_grad():
        out = call(model, x)
    return out if isinstance(out, torch.Tensor) else out[0]


def apart(a, b):
    """The largest difference, of the largest number."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / a.abs().max())


SIZES = {
    nn.Linear: lambda m: {"out_features": m.weight.shape[0], "in_features": m.weight.shape[1]},
    nn.modules.conv._ConvNd: lambda m: {
        ("in" if m.transposed else "out") + "_channels": m.weight.shape[0],
        ("out" if m.transposed else "in") + "_channels": m.weight.shape[1] * m.groups,
    },
    nn.modules.batchnorm._NormBase: lambda m: (
        {} if m.running_var is None else {"num_features": len(m.running_var)}
    ),
    nn.GroupNorm: lambda m: {} if m.weight is None else {"num_channels": len(m.weight)},
    nn.Embedding: lambda m: {"embedding_dim": m.weight.shape[1]},
}  # what layers say of their tensors


def ran(model, x):
    """The modules that are at work."""
    found, hooks = [], []
    for module in model.modules():
        hooks.append(module.register_forward_hook(lambda m, *_: found.append(m)))
    answers(model, x)
    for hook in hooks:
        hook.remove()
    return found


def law(model, x, mask, close=1e-5, counted=True):
    """Check the law for one mask; how far the mask moves the answer."""
    before = {name: a.clone() for name, a in named_tensors(model).items()}
    coupled, small = surgery.couple(model, mask, x), surgery.shrink(model, mask, x)
    masked = coupled.apply_(copy.deepcopy(model))
    want, got = answers(masked, x), answers(small, x)
    assert apart(want, got) < close
    # Coupling again changes nothing; it removes nothing that is in no group of the mask.
    assert surgery.couple(model, coupled, x) == coupled
    assert all(not bool((coupled[name] & ~keep).any()) for name, keep in mask.items())
    # Counting under the coupled mask is counting the smaller network.
    assert count.params(model, coupled) == count.params(small)
    if counted:
        assert count.macs(model, x, coupled).sparse == count.macs(small, x).dense
    for module in ran(small, x):
        for kind in (kind for kind in SIZES if isinstance(module, kind)):
            said = SIZES[kind](module)
            assert {name: getattr(module, name) for name in said} == said
    # Written back, the weights of the smaller network are those of the masked one.
    whole = surgery.write_back(small, drawn(copy.deepcopy(model), 9))
    weights = dict(masked.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in whole.named_parameters())
    # By its plan alone the same network is cut again; the given one is as it was.
    again = surgery.rebuild(masked, surgery.plan_of(small))
    assert all(
        torch.equal(a, b)
        for a, b in zip(named_tensors(again).values(), named_tensors(small).values(), strict=True)
    )
    assert all(torch.equal(a, before[name]) for name, a in named_tensors(model).items())
    return apart(answers(model, x), want)


@pytest.mark.parametrize("name", ZOO)
def test_as_many_groups_can_go_as_by_hand(name):
    groups = surgery.groups(*ZOO[name]())
    assert sum(family.size for family in groups if not family.fixed) == GOING[name]
    assert sum(len(groups.members[name]) for name in groups.names) == GOING[name]


@pytest.mark.parametrize("name", [name for name, going in GOING.items() if going])
def test_a_cut_network_answers_as_the_masked_one(name):
    model, x = ZOO[name]()
    moved = 0.0
    for seed, share in enumerate([0.2, 0.5, 0.8, 0.5]):
        drawn(model, seed)
        groups = surgery.groups(model, x)
        gone = chosen(groups, share, seed)
        # Zeros in a product of two parameters are not followed where multiply-adds are counted.
        counted = name != "two_factors"
        moved = max(moved, law(model, x, filters_of(groups, gone), counted=counted))
    assert moved > 1e-3  # else a network that does not read its filters would pass


OWN = {
    "lenet_300_100": (1, 28, 28), "lenet_5": (1, 28, 28), "lenet_5_1998": (1, 28, 28),
    "vgg_small": (1, 28, 28), "alexnet": (3, 32, 32), "vgg_16": (3, 32, 32),
    "resnet_20": (3, 32, 32), "resnet_56": (3, 32, 32),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_the_law_holds_for_the_networks_of_the_papers(name):
    model, x = drawn(models.build(name).eval()), torch.rand(2, *OWN[name])
    groups = surgery.groups(model, x)
    assert law(model, x, filters_of(groups, chosen(groups, 0.4, 1))) > 1e-3


THEIRS = [
    "resnet18", "mobilenet_v2", "densenet121", "squeezenet1_1", "resnext50_32x4d",
    "convnext_tiny", "vit_b_16",
]  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_the_law_holds_for_networks_of_torchvision(name):
    settings = {"image_size": 32} if name == "vit_b_16" else {}
    with LocalRandom(0):
        model = getattr(torchvision().models, name)(**settings).eval()
        x = torch.rand(2, 3, 32, 32)
    drawn(model)
    groups = surgery.groups(model, x)
    assert len(groups.names) > 3
    mask = filters_of(groups, chosen(groups, 0.3, 1))
    coupled, small = surgery.couple(model, mask, x), surgery.shrink(model, mask, x)
    want = answers(coupled.apply_(copy.deepcopy(model)), x)
    assert apart(want, answers(small, x)) < 1e-5
    assert apart(answers(model, x), want) > 1e-3
    assert count.params(model, coupled) == count.params(small)
    assert count.macs(model, x, coupled).sparse == count.macs(small, x).dense


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(n for n in ZOO if GOING[n])), st.integers(0, 10**6), st.data())
def test_what_is_chosen_among_groups_is_what_goes(name, seed, data):
    model, x = ZOO[name]()
    groups = surgery.groups(model, x)
    gone = chosen(groups, data.draw(st.floats(0, 0.9)), seed)
    coupled = surgery.couple(model, filters_of(groups, gone), groups)
    for family, leaves in gone.items():
        for weight, dim, rows, of in groups.filters(family):
            keep = coupled.get(weight, torch.ones(groups.shapes[weight], dtype=torch.bool))
            for row, group in zip(rows.tolist(), of.tolist(), strict=True):
                assert bool(keep.select(dim, row).any()) != bool(leaves[group])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_precisions_are_cut_at_their_own(kind):
    model, x = ZOO["residual"]()
    model, x = drawn(model).to(kind), x.to(kind)
    groups = surgery.groups(model, x)
    mask = filters_of(groups, chosen(groups, 0.5, 3))
    small = surgery.shrink(model, mask, x)
    want = answers(surgery.couple(model, mask, x).apply_(copy.deepcopy(model)), x)
    assert answers(small, x).dtype == kind
    assert apart(want, answers(small, x)) < (0.05 if kind == torch.bfloat16 else 1e-12)


# -------------------------------------------------------------------------------------- the rules


def holds(name):
    """Whether all that is known of a network of the zoo is found there, and it can be cut."""
    model, x = ZOO[name]()
    try:
        groups = surgery.groups(drawn(model), x)
        if sum(family.size for family in groups if not family.fixed) != GOING[name]:
            return False
        if GOING[name]:
            for seed in (1, 2):
                mask = filters_of(groups, chosen(groups, 0.5, seed))
                law(model, x, mask, counted=name != "two_factors")
    except Exception:
        return False
    return True


def asked():
    """By rule, and by what it says (a step of it), in which networks of the zoo it does so."""
    found = {}

    def noting(rule, name):
        def noted(follower, given, outs):
            found.setdefault(rule, {}).setdefault("", []).append(name)
            for step in ("tie", "pin", "count"):
                setattr(follower, step, saying(follower, rule, step, name))
            try:
                return rule(follower, given, outs)
            finally:
                for step in ("tie", "pin", "count"):
                    delattr(follower, step)

        return noted

    def saying(follower, rule, step, name):
        def said(*args, **kwargs):
            atoms = [a for a in args if isinstance(a, np.ndarray) and (a != channels.FIXED).any()]
            if atoms and (step != "tie" or args[0] is not args[1]):
                found[rule].setdefault(step, []).append(name)
            return getattr(type(follower), step)(follower, *args, **kwargs)

        return said

    for name, build in ZOO.items():
        with pytest.MonkeyPatch.context() as patch:
            for operator, rule in channels.RULES.items():
                patch.setitem(channels.RULES, operator, noting(rule, name))
            surgery.groups(*build())
    return found


ASKED = asked()
RULES = [*dict.fromkeys(channels.RULES.values())]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_without_a_rule_a_network_is_cut_otherwise(rule, monkeypatch):
    for operator in [name for name, known in channels.RULES.items() if known is rule]:
        monkeypatch.delitem(channels.RULES, operator)
    assert not all(holds(name) for name in dict.fromkeys(ASKED[rule][""]))


# What these say cannot go no layer makes, or what is said besides keeps it: they give the reason.
REASONS = [("_batch_norm", "pin"), ("_expanded", "pin"), ("_looked_up", "pin")]


@pytest.mark.parametrize(
    ("rule", "step"),
    [
        (rule, step)
        for rule in RULES
        for step in ASKED[rule]
        if step and (rule.__name__, step) not in REASONS
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_no_step_of_a_rule_can_be_left_out(rule, step, monkeypatch):
    def without(follower, given, outs):
        setattr(follower, step, lambda *args, **kwargs: True)
        try:
            return rule(follower, given, outs)
        finally:
            delattr(follower, step)

    for operator in [name for name, known in channels.RULES.items() if known is rule]:
        monkeypatch.setitem(channels.RULES, operator, without)
    assert not all(holds(name) for name in dict.fromkeys(ASKED[rule][step]))


# --------------------------------------------------------------------------------- what is refused


def first_gone(model, weight):
    """The mask that removes the first filter of a weight."""
    keep = torch.ones(dict(model.named_parameters())[weight].shape, dtype=torch.bool)
    keep[0] = False
    return Mask({weight: keep})


class Written(nn.Module):
    """The size of what is flattened is written in forward."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1)
        self.out = nn.Linear(6 * 16, 2)

    def forward(self, x):
        x = torch.relu(self.two(torch.relu(self.one(x))))
        return self.out(x.view(-1, 96))


def test_a_size_that_is_written_in_forward_is_told_with_what_to_leave():
    model, x = drawn(Written().eval()), torch.rand(2, 1, 6, 6)
    both = Mask({**first_gone(model, "one.weight"), **first_gone(model, "two.weight")})
    with pytest.raises(ValueError, match=r"96.*ignore=\('two\.weight',\)") as told:
        surgery.shrink(model, both, x)
    assert "test_surgery.py" in str(told.value)
    small = surgery.shrink(model, both, x, ignore=["two.weight"])
    assert small.one.weight.shape[0] == 3
    assert small.two.weight.shape[:2] == (6, 3)


def test_twice_as_many_answers_are_no_answer():
    """With half of the channels, the same view makes one example of two."""

    class Halves(Written):
        def forward(self, x):
            return torch.relu(self.two(torch.relu(self.one(x)))).view(-1, 96).sum(1, keepdim=True)

    model, x = drawn(Halves().eval()), torch.rand(2, 1, 6, 6)
    keep = torch.ones(6, 4, 1, 1, dtype=torch.bool)
    keep[:3] = False
    with pytest.raises(ValueError, match=r"cannot go: |its output is \(1, 1\)"):
        surgery.shrink(model, Mask({"two.weight": keep}), x, ignore="out.*")


def test_a_network_whose_last_layer_is_zero_is_proven_all_the_same(monkeypatch):
    model, x = ZOO["residual"]()
    groups = surgery.groups(model, x)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    mask = filters_of(groups, chosen(groups, 0.5, 1))
    surgery.shrink(model, mask, x)
    rule = channels.RULES["convolution"]

    def wrong(follower, told, outs):  # reads its inputs from behind
        axes = rule(follower, told, outs)
        return [[axes[0][0], None if axes[0][1] is None else axes[0][1][::-1], *axes[0][2:]]]

    monkeypatch.setitem(channels.RULES, "convolution", wrong)
    with pytest.raises(ValueError, match="of random weights answers otherwise"):
        surgery.shrink(model, first_gone(model, groups.names[0]), x)


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        ({"0.weight": [[1, 1, 1, 0]] + [[1] * 4] * 4}, "must lose whole filters, 1 weights"),
        ({"0.weight": [[0] * 4] * 5}, "0.weight would keep no filter"),
        ({"2.weight": [[0] * 5] + [[1] * 5] * 3, "4.weight": [[0] * 4] * 3}, "keep no filter"),
        ({"4.weight": [[0] * 4] + [[1] * 4] * 2}, "filter 0 of 4.weight .* is an output of the"),
        ({"0.weight": [[0, 1, 1, 1]] * 5}, r"place 0 of 0.weight .* the network's input"),
        ({"0.bias": [0, 1, 1, 1, 1]}, "0.bias must lose whole filters"),
    ],
)
def test_what_is_no_whole_filter_or_cannot_go_is_refused(mask, why):
    model, x = ZOO["linear"]()
    mask = Mask({name: torch.tensor(keep, dtype=torch.bool) for name, keep in mask.items()})
    before = copy.deepcopy(model.state_dict())
    for cut in (surgery.couple, surgery.shrink):
        with pytest.raises(ValueError, match=why):
            cut(model, mask, x)
    assert all(torch.equal(a, before[name]) for name, a in model.state_dict().items())


def with_unused():
    return Of(
        lambda m, x: m.out(torch.relu(m.into(x))),
        into=nn.Linear(8, 5), out=nn.Linear(5, 3), aux=nn.Linear(5, 2), last=nn.Bilinear(2, 2, 2),
    )  # fmt: skip


def test_a_part_that_did_not_run_is_refused_or_left():
    model, x = with_unused(), torch.rand(2, 8)
    mask = first_gone(model, "into.weight")
    patterns = ("aux.*", "last.*")
    with pytest.raises(ValueError, match="aux.weight of Of is not used on the example") as error:
        surgery.shrink(model, mask, x)
    assert f"Pass ignore={patterns}" in str(error.value)
    small = surgery.shrink(model, mask, x, ignore=patterns)
    assert (small.into.out_features, small.aux.in_features) == (4, 5)
    left = surgery.groups(model, x, patterns)
    assert surgery.couple(model, mask, left) == surgery.couple(model, mask, x, ignore=patterns)


def test_a_parameter_beside_others_that_ran_is_named_alone():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
            self.net.token = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return self.net(x)

    model = Beside()
    with pytest.raises(ValueError, match=r"Pass ignore=\('net.token',\)"):
        surgery.shrink(model, first_gone(model, "net.0.weight"), torch.rand(2, 4))


@pytest.mark.parametrize("method", [filters, filter_clustering, optimal_threshold])
def test_a_part_that_did_not_run_is_left_by_methods_and_by_what_follows(method):
    data, ignore = tiny_data(), ("aux.*", "last.*")
    with LocalRandom(0):
        model = with_unused()
    settings = dict(method.quick, epochs=1, bar=False)
    report = prune(method, model, data, ignore=ignore, **settings)
    small = report.shrink()
    for own in (ignore, ["aux.*", "last.*"]):
        assert report.shrink(own).into.out_features == small.into.out_features < 5
    with pytest.raises(ValueError, match="is not used on the example"):
        report.shrink("aux.*")
    assert small.aux.in_features == 5
    costs = count.costs(model, report.mask, data.example, ignore=ignore, seconds=0.01)
    assert costs.rows["shrunk"]["params"] == count.params(small)


# ------------------------------------------------------------------------- more than whole filters


def thinned(model, x, seed, share=0.9):
    """A mask of single weights, of which some rows and columns lose all, and biases some."""
    generator = torch.Generator().manual_seed(seed)
    mask = {}
    for name, keep in Mask.ones(model, biases=True, example=x).items():
        left = torch.rand(keep.shape, generator=generator) > share
        if keep.ndim > 1:
            for d in range(2):
                gone = torch.rand(keep.shape[d], generator=generator) < 0.4
                left.transpose(0, d)[gone] = False
        left.view(-1)[0] = True
        mask[name] = left
    return Mask(mask)


CUT_THINNED = ["linear", "flattened", "residual", "joined", "gated", "depthwise", "transposed",
               "group_norm", "halves", "layer_normed", "tied", "over_tokens"]  # fmt: skip


@pytest.mark.parametrize("name", CUT_THINNED)
def test_where_single_weights_are_removed_the_smaller_network_answers_as_the_masked_one(name):
    model, x = ZOO[name]()
    removed = 0
    for seed in range(6):
        mask = thinned(drawn(model, seed), x, seed)
        want = answers(mask.apply_(copy.deepcopy(model)), x)
        small = surgery.shrink(model, mask, x, partial=True)
        assert apart(want, answers(small, x)) < 1e-5
        removed += count.params(model) - count.params(small)
    assert removed or name in ("layer_normed", "tied", "depthwise", "group_norm")


@pytest.mark.parametrize(
    ("act", "biases", "width"),
    [
        (nn.ReLU, False, 3),  # the bias of the unit is read
        (nn.ReLU, True, 2),
        (nn.Sigmoid, True, 3),  # 0 becomes a half, which is read
    ],
)
def test_a_filter_without_weights_goes_where_it_is_not_heard(act, biases, width):
    model = nn.Sequential(nn.Linear(4, 3), act(), nn.Linear(3, 2))
    rows = torch.tensor([True, False, True])
    mask = {"0.weight": rows[:, None].expand(3, 4)} | ({"0.bias": rows} if biases else {})
    small = surgery.shrink(drawn(model), Mask(mask), torch.rand(5, 4), partial=True)
    assert small[0].out_features == width
    mask["2.weight"] = rows.expand(2, 3)  # nobody reads it
    small = surgery.shrink(drawn(model), Mask(mask), torch.rand(5, 4), partial=True)
    assert small[0].out_features == 2


def test_what_is_missed_in_one_layer_lets_the_others_go():
    """A norm without a scale makes another number of 0 than 0."""
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 5), nn.ReLU(),
        nn.Linear(5, 2),
    )  # fmt: skip
    rows = {"0": torch.arange(6) > 1, "2": torch.arange(5) > 1}
    mask = {f"{n}.weight": keep[:, None].expand(-1, model[int(n)].in_features)
            for n, keep in rows.items()}  # fmt: skip
    mask |= {f"{n}.bias": keep for n, keep in rows.items()}
    x = torch.rand(3, 4)
    small = surgery.shrink(drawn(model).eval(), Mask(mask), x, partial=True)
    assert (small[0].out_features, small[2].out_features) == (6, 3)
    want = answers(Mask(mask).apply_(copy.deepcopy(model)), x)
    assert apart(want, answers(small, x)) < 1e-5
    assert surgery.planned(model, Mask(mask), x) == surgery.plan_of(small)


def test_ignore_takes_every_name_of_tied_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.out(torch.relu(self.two(torch.relu(self.one(x)))))

    for ignore in ("one.weight", "two.weight"):
        groups = surgery.groups(Tied(), torch.rand(2, 8), ignore)
        assert groups.ignored == {"one.weight"}


def test_the_plan_is_kept_by_a_wrapper_that_hands_its_attributes_on(tmp_path):
    inner = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    model, x = torch.compile(inner, backend="eager"), torch.rand(2, 8)
    mask = first_gone(model, "_orig_mod.0.weight")
    small = surgery.shrink(model, mask, x)
    assert surgery.was_cut(small)
    assert small._orig_mod[0].out_features == 5
    report = prune(filters, model, tiny_data(), epochs=1, bar=False)
    report.save(tmp_path / "net", "shrunk")
    again = models.load(tmp_path / "net", model)
    example = tiny_data().example
    assert torch.equal(answers(again.eval(), example), answers(report.shrink().eval(), example))


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
def test_what_goes_into_a_layer_that_holds_its_size_cannot_go(layer):
    model = Of(
        lambda m, x: m.out(m.inner(torch.relu(m.into(x)))[0]),
        into=nn.Linear(4, 6), inner=layer(6, 5, batch_first=True), out=nn.Linear(5, 2),
    )  # fmt: skip
    groups = surgery.groups(model, torch.rand(2, 7, 4))
    assert f"it goes into {layer.__name__}, which holds" in groups[0].fixed


def test_what_goes_into_attention_cannot_go_and_is_named_as_ignore_takes_it():
    model = Of(
        lambda m, x: m.out(m.inner(*[torch.relu(m.into(x))] * 3)[0]),
        into=nn.Linear(4, 6), inner=nn.MultiheadAttention(6, 2, batch_first=True),
        out=nn.Linear(6, 2),
    )  # fmt: skip
    groups = surgery.groups(model, torch.rand(2, 7, 4))
    assert "MultiheadAttention" in groups[0].fixed
    assert groups.makers([family.name for family in groups])[0] == "into.weight"


def test_groups_plans_and_patterns_of_others_are_refused():
    model, x = ZOO["linear"]()
    other, y = ZOO["flattened"]()
    mask = first_gone(model, "0.weight")
    small = surgery.shrink(model, mask, x)
    with pytest.raises(ValueError, match="the groups are of a Sequential with"):
        surgery.couple(model, mask, surgery.groups(other, y))
    with pytest.raises(ValueError, match="the plan is for a Sequential with 0.weight of shape"):
        surgery.rebuild(other, surgery.plan_of(small))
    with pytest.raises(ValueError, match="the plan is for a Sequential with 0.weight of shape"):
        surgery.write_back(small, other)
    with pytest.raises(ValueError, match="Sequential was not cut"):
        surgery.write_back(model, model)
    with pytest.raises(ValueError, match=r"ignore: no parameter is called 'haed\.\*'"):
        surgery.couple(model, mask, x, ignore="haed.*")
    with pytest.raises(ValueError, match="compiled by torch.jit"):
        surgery.groups(torch.jit.script(model), x)
    with pytest.raises(ValueError, match="fails on the example"):
        surgery.groups(model, torch.rand(2, 5))


def test_the_mode_and_the_hooks_stay():
    model, x = ZOO["residual"]()
    model.train()
    groups = surgery.groups(model, x)
    small = surgery.shrink(model, filters_of(groups, chosen(groups, 0.5, 1)), x)
    assert model.training
    assert small.training
    for module in [*model.modules(), *small.modules()]:
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


# ------------------------------------------------------------------------------- torch-pruning


@pytest.mark.parametrize("name", ["lenet_5", "vgg_small", "vgg_16"])
def test_torch_pruning_cuts_the_same_where_it_is_right(name):
    import torch_pruning

    model, x = drawn(models.build(name).eval()), torch.rand(2, *OWN[name])
    groups = surgery.groups(model, x)
    modules = dict(model.named_modules())
    for family in groups.names[:4]:
        weight, _, rows, _ = groups.filters(family)[0]
        gone = rows[:: max(len(rows) // 3, 1)].tolist()[:2]
        keep = torch.ones(groups.shapes[weight], dtype=torch.bool)
        keep[gone] = False
        small = surgery.shrink(model, Mask({weight: keep}), x)
        peer = copy.deepcopy(model)
        graph = torch_pruning.DependencyGraph().build_dependency(peer, x)
        layer = dict(peer.named_modules())[weight.rpartition(".")[0]]
        prune = (
            torch_pruning.prune_linear_out_channels
            if isinstance(modules[weight.rpartition(".")[0]], nn.Linear)
            else torch_pruning.prune_conv_out_channels
        )
        graph.get_pruning_group(layer, prune, idxs=gone).prune()
        theirs, ours = peer.state_dict(), small.state_dict()
        assert all(torch.equal(a, ours[name]) for name, a in theirs.items())
