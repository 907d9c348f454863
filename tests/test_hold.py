"""Holding a mask in a training loop of one's own: zeros stay, and nothing is left behind."""

import copy
import io
from functools import partial

import pytest
import torch
from hypothesis import given
from test_mask import masks
from tiny import tiny_data, tiny_model
from torch import multiprocessing, nn
from torch.nn.functional import cross_entropy

from prunekit._torchvision import torchvision
from prunekit.mask import Mask

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "unfused": partial(torch.optim.Adam, lr=0.01, foreach=False),
    "lbfgs": partial(torch.optim.LBFGS, lr=0.1, max_iter=3),
}


def half(model, seed=0, **which):
    """A mask that keeps about half of the weights."""
    g = torch.Generator().manual_seed(seed)
    every = Mask.ones(model, **which)
    return Mask({name: torch.rand(keep.shape, generator=g) < 0.5 for name, keep in every.items()})


def batches(n=8, size=20, seed=0):
    x, y = tiny_data(seed).splits["train"]
    for i in range(n):
        at = torch.arange(i * size, (i + 1) * size) % len(y)
        yield x[at], y[at]


def loss_of(model, x, y):
    return cross_entropy(model(x), y)


def train(model, optimizer, after=lambda: None, scheduler=None):
    """A plain loop; `after` is called after every step."""
    for x, y in batches():

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = loss_of(model, x, y)
            loss.backward()
            return loss

        optimizer.step(closure)
        after()
        if scheduler is not None:
            scheduler.step()


def removed(model, mask):
    """All removed weights, joined."""
    parameters = dict(model.named_parameters())
    return torch.cat([parameters[name].detach()[~keep] for name, keep in mask.items()])


def assert_held(model, mask):
    gone = removed(model, mask)
    assert torch.equal(gone, torch.zeros_like(gone))
    assert not torch.signbit(gone).any()
    assert all(
        bool((dict(model.named_parameters())[name][keep] != 0).all()) for name, keep in mask.items()
    )


def same_weights(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_plain_loop_trains_as_one_that_applies_the_mask_after_every_step(make):
    model = tiny_model()
    twin, mask = copy.deepcopy(model), half(model, biases=True)
    optimizer, other = make(model.parameters()), make(twin.parameters())
    mask.apply_(twin)
    train(twin, other, after=lambda: mask.apply_(twin))
    with mask.hold(model, optimizer):
        assert_held(model, mask)  # at once, before the first step
        train(model, optimizer, after=lambda: assert_held(model, mask))
    assert same_weights(model, twin)


def test_without_the_hold_the_weights_come_back():
    model, mask = tiny_model(), half(tiny_model())
    optimizer = OPTIMIZERS["momentum"](mask.apply_(model).parameters())
    train(model, optimizer)
    assert (removed(model, mask) != 0).any()


def test_a_scheduler_around_the_step_does_not_matter():
    model, mask = tiny_model(), half(tiny_model())
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with mask.hold(model, optimizer):
        train(model, optimizer, scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2))
        assert_held(model, mask)


def test_nothing_is_left_when_the_hold_is_taken_off():
    model, mask = tiny_model(), half(tiny_model())
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    train(model, optimizer)

    def everything():
        inside = [
            {key: repr(value) for key, value in vars(module).items() if key != "_parameters"}
            for module in model.modules()
        ]
        hooks = {key: dict(v) for key, v in vars(optimizer).items() if key.endswith("_hooks")}
        return inside, [*model.state_dict()], vars(optimizer).keys(), hooks

    before = everything()
    handle = mask.hold(model, optimizer)
    assert everything() != before
    train(model, optimizer)
    handle.remove()
    handle.remove()  # once more does no harm
    assert everything() == before
    assert not optimizer._optimizer_step_post_hooks
    train(model, optimizer)
    assert (removed(model, mask) != 0).any()


def test_an_exception_inside_takes_the_hold_off():
    model, mask = tiny_model(), half(tiny_model())
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with pytest.raises(KeyboardInterrupt), mask.hold(model, optimizer):
        raise KeyboardInterrupt
    assert not optimizer._optimizer_step_post_hooks


def test_two_holds_keep_what_both_keep():
    model = tiny_model()
    one, two = half(model, 1), half(model, 2)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    with one.hold(model, optimizer), two.hold(model, optimizer):
        train(model, optimizer)
        assert_held(model, one & two)


@pytest.mark.parametrize("change", [nn.Module.double, lambda m: m.to(torch.bfloat16)])
def test_weights_that_change_their_type_stay_held(change):
    model, mask = tiny_model(), half(tiny_model())
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with mask.hold(model, optimizer):
        change(model)
        for x, y in batches():
            loss_of(model, x.to(model[0].weight.dtype), y).backward()
            optimizer.step()
            assert_held(model, mask)


def test_weights_that_are_loaded_meanwhile_are_cut_at_the_next_step():
    model, mask = tiny_model(), half(tiny_model())
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with mask.hold(model, optimizer):
        model.load_state_dict(tiny_model(seed=1).state_dict())
        train(model, optimizer, after=lambda: assert_held(model, mask))


def test_what_is_held_can_be_copied_and_saved():
    model, mask = tiny_model(), half(tiny_model())
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with mask.hold(model, optimizer):
        train(model, optimizer)
        both, saved = copy.deepcopy((model, optimizer)), io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
        torch.save((model, optimizer), io.BytesIO())
    assert same_weights(both[0], model)
    assert not both[1]._optimizer_step_post_hooks  # nobody asked to hold the copy
    saved.seek(0)
    state = torch.load(saved)
    fresh = tiny_model(seed=1)
    again = OPTIMIZERS["momentum"](fresh.parameters())
    fresh.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    with mask.hold(fresh, again), mask.hold(model, optimizer):
        train(fresh, again)
        train(model, optimizer)
    assert same_weights(fresh, model)


def test_a_gradient_scaler_also_when_it_skips_a_step():
    model, mask = tiny_model(), half(tiny_model())
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    with mask.hold(model, optimizer):
        for i, (x, y) in enumerate(batches()):
            before = copy.deepcopy(model)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, x, y) * (torch.inf if i == 3 else 1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert same_weights(model, before) == (i == 3)
            assert_held(model, mask)


@given(masks())
def test_every_mask_is_held(mask):
    """Also empty tensors, scalars and masks that remove nothing or everything."""
    mask = Mask({f"p{i}": keep for i, keep in enumerate([*mask.values(), torch.tensor(False)])})
    model = nn.ParameterDict({name: torch.ones(keep.shape) for name, keep in mask.items()})
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with mask.hold(model, optimizer):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        for name, keep in mask.items():
            assert torch.equal(model[name].detach(), 0.9 * keep)


# ------------------------------------------------------------------------------------- refusals


def test_an_optimizer_without_a_masked_weight_is_refused_and_the_model_stays():
    model, mask = tiny_model(), half(tiny_model())
    before, optimizer = copy.deepcopy(model), torch.optim.SGD(model[0].parameters(), 0.1)
    with pytest.raises(ValueError, match=r"hold: the optimizer SGD does not train '2\.weight'"):
        mask.hold(model, optimizer)
    assert same_weights(model, before)
    assert not optimizer._optimizer_step_post_hooks


def test_an_optimizer_of_a_copy_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"does not train '0\.weight'"):
        half(model).hold(model, OPTIMIZERS["adamw"](copy.deepcopy(model).parameters()))


@pytest.mark.parametrize("other", [None, torch.optim.SGD, "sgd"])
def test_what_is_no_optimizer_is_refused(other):
    with pytest.raises(ValueError, match=r"hold: optimizer must be a torch\.optim\.Optimizer, got"):
        half(tiny_model()).hold(tiny_model(), other)


def test_a_mask_of_another_model_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"has no parameter 'weight'; it has \['0\.weight'"):
        half(nn.Linear(2, 2)).hold(model, OPTIMIZERS["sgd"](model.parameters()))


# ----------------------------------------------------------------------- other people's loops


def work(rank, folder):
    """One of two processes: every other example of each batch, gradients averaged by torch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    for place in ("module", "wrapper"):
        torch.save(trained_by_two(rank, place), f"{folder}/{place}-{rank}.pt")
    torch.distributed.barrier()  # or who is done first takes the meeting away from the other
    torch.distributed.destroy_process_group()


def trained_by_two(rank, place):
    model = nn.parallel.DistributedDataParallel(tiny_model())
    held = model.module if place == "module" else model
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with half(held).hold(held, optimizer):
        for x, y in batches():
            optimizer.zero_grad()
            loss_of(model, x[rank::2], y[rank::2]).backward()
            optimizer.step()
    return model.module.state_dict()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without processes")
def test_two_processes_train_the_held_model_as_one_does(tmp_path):
    """Held is the module in its wrapper, or the wrapper."""
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    model, mask = tiny_model(), half(tiny_model())
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with mask.hold(model, optimizer):
        train(model, optimizer)
    expected = model.state_dict()
    for path in sorted(tmp_path.glob("*.pt")):
        weights = torch.load(path)
        torch.testing.assert_close(weights, expected)
        model.load_state_dict(weights)
        assert_held(model, mask)
    assert len([*tmp_path.glob("*.pt")]) == 4


@pytest.mark.parametrize("where", ["configure_optimizers", "on_fit_start"])
@pytest.mark.filterwarnings("ignore")  # Lightning's own advice
def test_lightning_trains_the_held_model_as_a_plain_loop_does(where, tmp_path):
    torchvision()  # Lightning imports it and needs it to be whole
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = tiny_model()
            self.mask = half(self)

        def configure_optimizers(self):
            optimizer = OPTIMIZERS["momentum"](self.parameters())
            if where == "configure_optimizers":
                self.handle = self.mask.hold(self, optimizer)
            return optimizer

        def on_fit_start(self):
            if where == "on_fit_start":
                self.handle = self.mask.hold(self, self.optimizers())

        def training_step(self, batch):
            return loss_of(self.net, *batch)

        def on_train_batch_end(self, *_):
            assert_held(self, self.mask)

        def on_fit_end(self):
            self.handle.remove()

    module, twin = Module(), tiny_model()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([*batches()], batch_size=None))
    assert trainer.global_step == 8
    assert not trainer.optimizers[0]._optimizer_step_post_hooks
    optimizer = OPTIMIZERS["momentum"](twin.parameters())
    with half(twin).hold(twin, optimizer):
        train(twin, optimizer)
    assert same_weights(module.net, twin)
