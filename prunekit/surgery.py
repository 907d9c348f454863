"""Surgery: from a mask of filters to a network that is really smaller, with proof.

A filter is more than a row of its weight: its bias, its scale and shift in a norm, the columns of
all layers that read it, and, where networks branch, the filters of other layers that are added to
it, can only go together. `groups` says what hangs together, `couple` completes a mask over it, and
`shrink` cuts a copy and compares it with the masked network before it gives it back.
"""

from __future__ import annotations

import copy
import fnmatch
import html
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunekit._arguments import checked
from prunekit._modules import (
    call,
    check_values,
    device_of,
    each,
    evaluating,
    named_tensors,
    place,
    repeatably,
)
from prunekit._random import LocalRandom
from prunekit.channels import FIXED, Followed, Slot, follow, outside
from prunekit.knobs import Natural, shown
from prunekit.mask import Mask
from prunekit.trial import copied

# ---------------------------------------------------------------------------------------- groups


SHOWN = 6  # layers of a family that are named


class Emptied(ValueError):
    """A layer would keep no filter."""

    def __init__(self, who: str, layer: str):
        super().__init__(f"{who}: {layer} would keep no filter, every layer keeps at least one")


@dataclass(frozen=True)
class Family:
    """Groups that are alike: channels of the same layers.

    name: the weight that makes these channels first; size: how many groups there are; makes: the
    weights of which each group has filters; reads: those that it is an input of; carries: biases,
    norms and the like; fixed: why none of them can go, or "".
    """

    name: str
    size: int
    makes: tuple[str, ...]
    reads: tuple[str, ...]
    carries: tuple[str, ...]
    fixed: str = ""

    def layers(self) -> dict[str, list[str]]:
        """By what they do with these channels, the layers: "made by", "carried by", "read by"."""
        parts = {"made by": self.makes, "carried by": self.carries, "read by": self.reads}
        return {
            what: [*dict.fromkeys(name.rpartition(".")[0] or name for name in names)]
            for what, names in parts.items()
        }

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.size} {'groups' if self.size > 1 else 'group'}"]
        if self.fixed:
            lines[0] += f" that cannot go: {self.fixed}"
        for label, layers in self.layers().items():
            if layers:
                if len(layers) > SHOWN:
                    layers[SHOWN - 1 : -1] = [f"… ({len(layers)} in all)"]
                lines.append(f"    {label:<10} {', '.join(layers)}")
        return "\n".join(lines)


class Groups(Sequence[Family]):
    """What hangs together in a network: families of groups of channels (see `groups`).

    `names` are the families' names; `filters` of a family are the filters that its groups have:
    `[(weight, dimension, rows, group)]`, two arrays of the same length.
    """

    def __init__(self, model: nn.Module, found: Followed, ignored: Iterable[str] = ()):
        self.model, self.ignored = type(model).__name__, {*ignored}
        self.slots, self.counts = found.slots, found.counts
        self.shapes = {name: tuple(a.shape) for name, a in named_tensors(model).items()}
        modules = dict(model.named_modules())
        self.told = {  # numbers in tuples, of which some count channels
            (slot.owner, slot.attribute): tuple(getattr(modules[slot.owner], slot.attribute))
            for slot in found.slots
            if slot.attribute
        }
        self.parameters = [name for name, _ in model.named_parameters()]
        self.unused = [name for name in self.parameters if name not in found.used]
        labels = _components(found.size, found.ties)
        self.made, self.taken = np.zeros((2, found.size), bool)
        for marks, arrays in ((self.made, found.makes), (self.taken, found.takes)):
            for atoms in arrays:
                marks[atoms] = True
        # Groups are numbered by the first atom that a layer makes; what none makes is in none.
        firsts = {int(label): None for label in labels[self.made]}
        number = np.full(found.size + 1, FIXED)
        number[[*firsts]] = np.arange(len(firsts))
        self.group = number[labels]  # (atoms,) the group of each
        self.why = _reasons(labels, found.pins)  # {component: reason}
        self.members: dict[str, np.ndarray] = {}
        self.component, self.total = labels, len(firsts)
        self._families = self._sorted()

    def _sorted(self) -> list[Family]:
        """The families, and which groups are in them: `members`."""
        where: list[list[Any]] = [[] for _ in range(self.total)]  # places, and roles
        roles = np.where(self.made, 0, np.where(self.taken, 1, 2))
        for slot in self.slots:
            place = str(slot), -1 if slot.attribute else slot.dim
            own = slice(slot.start, slot.start + slot.size)
            pairs = zip(self.group[own].tolist(), roles[own].tolist(), strict=True)
            for group, role in sorted({*pairs}):
                if group != FIXED:
                    where[group].append((*place, role))
        self.fixed = self._fixed()
        alike: dict[Any, list[int]] = {}
        for group, places in enumerate(where):
            alike.setdefault((tuple(places), self.fixed[group]), []).append(group)
        families = list[Family]()
        for (places, why), members in alike.items():
            of = [
                tuple(dict.fromkeys(owner for owner, _, r in places if r == role))
                for role in range(3)
            ]
            name, again = of[0][0], 2
            while name in self.members:
                name, again = f"{of[0][0]} ({again})", again + 1
            self.members[name] = np.array(members)
            families.append(Family(name, len(members), of[0], of[1], of[2], why))
        self.places = self._places()
        return families

    def _places(self) -> dict[str, list[Slot]]:
        """In which slots the groups of each family are."""
        family = np.full(self.total + 1, FIXED)
        for number, members in enumerate(self.members.values()):
            family[members] = number
        names = [*self.members]
        found: dict[str, list[Slot]] = {name: [] for name in names}
        for slot in self.slots:
            if not slot.attribute:
                own = self.group[slot.start : slot.start + slot.size]
                for number in np.unique(family[own]).tolist():
                    if number != FIXED:
                        found[names[number]].append(slot)
        return found

    def _fixed(self) -> list[str]:
        """Of each group why it cannot go, or ""."""
        why = [""] * self.total
        for component, reason in self.why.items():
            if (group := int(self.group[component])) != FIXED:
                why[group] = reason
        return why

    def __getitem__(self, i: Any) -> Any:
        return self._families[i]

    def __len__(self) -> int:
        return len(self._families)

    @cached_property
    def names(self) -> list[str]:
        """The names of the families whose groups can go."""
        return [family.name for family in self if not family.fixed]

    def makers(self, names: Iterable[str]) -> tuple[str, ...]:
        """The weights that families of these names are called after, as `ignore` takes them."""
        return tuple(dict.fromkeys(family.makes[0] for family in self if family.name in {*names}))

    @checked
    def filters(self, name: str) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
        """Of the family of this name, the filters that its groups have."""
        return self._of(name, self.made)

    @checked
    def carried(self, name: str) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
        """The same of the biases, scales, shifts and statistics that go with them."""
        return self._of(name, ~self.made & ~self.taken)

    @checked
    def read(self, name: str) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
        """The same of the columns of the layers that read them."""
        return self._of(name, self.taken)

    @checked
    def along(self, weight: str, filter: Natural) -> list[str]:
        """What goes with a filter of a weight, counted from 0, in words; [] if it cannot go.

        Raises ValueError for a weight that has no such filter.
        """
        own = [slot for slot in self.slots if slot.owner == weight and not slot.attribute]
        made = [slot for slot in own if self.made[slot.start : slot.start + slot.size].any()]
        if not made or filter >= made[0].size:
            raise ValueError(f"groups: {weight!r} has no filter {filter} in this {self.model}")
        group = self.group[made[0].start + filter]
        if group == FIXED or self.fixed[group]:
            return []
        words = []
        for slot in self.slots:
            places = np.flatnonzero(self.group[slot.start : slot.start + slot.size] == group)
            if slot.attribute or slot.owner not in self.parameters or not len(places):
                continue
            if self.made[slot.start + places[0]]:
                others = [i for i in places.tolist() if (slot.owner, i) != (weight, filter)]
                words += [f"filter {i} of {slot.owner}" for i in others]
                continue
            what = "input" if self.taken[slot.start + places[0]] else "number"
            which = f"{what} {places[0]}" if len(places) == 1 else f"{len(places)} {what}s"
            words.append(f"{which} of {slot.owner}")
        return words

    def _of(self, name: str, marked: np.ndarray) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
        if name not in self.members:
            raise ValueError(f"groups: there is no family {name!r}, only {[*self.members]}")
        at = np.full(self.total + 1, FIXED)
        at[self.members[name]] = np.arange(len(self.members[name]))
        found = []
        for slot in self.places[name]:
            own = slice(slot.start, slot.start + slot.size)
            groups = np.where(marked[own], at[self.group[own]], FIXED)  # FIXED is the last of `at`
            if len(rows := np.flatnonzero(groups != FIXED)):
                found.append((slot.owner, slot.dim, rows, groups[rows]))
        return found

    def __str__(self) -> str:
        going = sum(family.size for family in self if not family.fixed)
        staying = sum(family.size for family in self if family.fixed)
        head = f"{self.model}: {going:,} groups of channels can go, {staying:,} cannot"
        return "\n".join([head, *map(str, self)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _components(n: int, ties: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(n,) for each atom the smallest of those that it is tied to, over any number of ties."""
    labels = np.arange(n)
    if not ties:
        return labels
    a, b = (np.concatenate(side) for side in zip(*ties, strict=True))
    while True:
        low = np.minimum(labels[a], labels[b])
        before = labels.copy()
        # Both ends, and what they stood for until now, follow the smaller one.
        for ends in (a, b):
            np.minimum.at(labels, before[ends], low)
        while not np.array_equal(labels, nearer := labels[labels]):
            labels = nearer
        if np.array_equal(labels, before):
            return labels


def _reasons(labels: np.ndarray, pins: Sequence[tuple[np.ndarray, str]]) -> dict[int, str]:
    """Of each component that cannot go, the first reason."""
    found: dict[int, str] = {}
    for atoms, why in pins:
        for label in dict.fromkeys(labels[atoms].tolist()):
            found.setdefault(label, why)
    return found


@checked
def groups(model: nn.Module, example: Any, ignore: Iterable[str] | str = ()) -> Groups:
    """Which channels of a network hang together, and which cannot go, and why.

    example: a batch as the model takes it; two of its examples are followed in eval mode, operator
        by operator, through a copy.
    ignore: names, or shell patterns of names, of weights whose filters stay in every cut that is
        made with these groups.

    Filters whose outputs are added to each other, or multiplied, are one group, as is all that goes
    with them: biases, scales and shifts of norms, running statistics, the columns of the layers
    that read them, channels of zeros that pad a shortcut. A grouped convolution loses whole groups.
    What no rule knows cannot go. Printed, each family of groups says what is in it.

    Raises ValueError if the model cannot be copied or fails on the example.
    """
    twin = copy_of("groups", model)
    return Groups(twin, follow(twin, example), _ignored("groups", model, ignore))


def copy_of(who: str, model: nn.Module) -> nn.Module:
    """A copy that can be cut. Raises ValueError for what is compiled, or cannot be copied."""
    if isinstance(model, torch.jit.ScriptModule) or any(
        isinstance(module, torch.jit.ScriptModule) for module in model.modules()
    ):
        raise ValueError(
            f"{who}: {type(model).__name__} has a part that is compiled by torch.jit, which cannot "
            "be cut. Pass the model that it was made of."
        )
    check_values(who, model)
    return copied(who, model)


def _groups(who: str, model: nn.Module, example: Any) -> Groups:
    """Those that are handed over in the place of an example, or new ones."""
    if not isinstance(example, Groups):
        twin = copy_of(who, model)
        return Groups(twin, follow(twin, example))
    shapes = {name: tuple(a.shape) for name, a in named_tensors(model).items()}
    if shapes != example.shapes:
        name = next(n for n in shapes | example.shapes if shapes.get(n) != example.shapes.get(n))
        raise ValueError(
            f"{who}: the groups are of a {example.model} with {name} of shape "
            f"{example.shapes.get(name)}, in this {type(model).__name__} it is {shapes.get(name)}"
        )
    return example


# ---------------------------------------------------------------------------------------- couple


@checked
def couple(
    model: nn.Module,
    mask: Mask,
    example: Any,
    *,
    ignore: Iterable[str] | str = (),
    partial: bool = False,
) -> Mask:
    """The mask that removes, with its filters, all that can only go with them.

    mask: over weights of `model`; what it removes must be whole filters, or whole inputs of a
        layer: rows, or columns, of which nothing is kept.
    example: a batch as the model takes it, or the `groups` that were found with one.
    ignore: names, or shell patterns of names, of weights whose filters stay: groups with a filter
        of theirs stay whole.
    partial: whether more may be removed than whole filters that can go; it stays in the mask, and
        in the smaller network as zeros. A group then goes where all of its filters are removed.

    The result covers the weights, biases, scales and shifts that lose something, and what `mask`
    covers. A network to which it is applied answers as the smaller one of `shrink` does, and
    counting under it gives the smaller one's counts. Coupling again changes nothing.

    Raises ValueError, which names the layer and the reason, for filters that are removed in part or
    cannot go, for a layer that would keep none, and for modules with parameters that did not run.
    """
    return _Cut("couple", _groups("couple", model, example), model, mask, ignore, partial).mask


@checked
def planned(model: nn.Module, mask: Mask, example: Any) -> Plan:
    """How a network would be cut whose mask removes what it may, whole filters or not; nothing is.

    example: a batch as the model takes it, or the `groups` that were found with one.

    It is cut as `shrink` does with `partial`; where groups take the place of an example, which
    would show it, no filter goes that a weight still reads.

    Raises ValueError as `couple` does.
    """
    cut = _Cut("planned", _groups("planned", model, example), model, mask, (), True)
    if isinstance(example, Groups):
        return cut.unheard(model, mask, silent=False).plan()
    whole = mask.apply_(copy_of("planned", model))
    return _not_missed(cut, whole, mask, place(example, device_of(model))).plan()


def matching(who: str, names: Iterable[str], ignore: Iterable[str] | str) -> set[str]:
    """The names that names, or shell patterns of them, mean; ValueError for one that means none."""
    names, found = [*names], set[str]()
    for pattern in (ignore,) if isinstance(ignore, str) else ignore:
        if not isinstance(pattern, str):
            raise TypeError(f"{who}: ignore: must be names or patterns, got {shown(pattern)}")
        hit = set(fnmatch.filter(names, pattern))
        if not hit:
            raise ValueError(
                f"{who}: ignore: no parameter is called {pattern!r}; there are {names}"
            )
        found |= hit
    return found


def _ignored(who: str, model: nn.Module, ignore: Iterable[str] | str) -> set[str]:
    """The parameters that names, or patterns of them, mean; tied ones have several names."""
    first = {id(p): name for name, p in model.named_parameters()}
    every = dict(model.named_parameters(remove_duplicate=False))
    return {first[id(every[name])] for name in matching(who, every, ignore)}


def _modules_of(names: Sequence[str], every: Sequence[str]) -> tuple[str, ...]:
    """Names, and for those that are all of a module's a pattern."""
    found = list[str]()
    for name in names:
        inside = name.rpartition(".")[0] + "."
        whole = inside != "." and all(n in names for n in every if n.startswith(inside))
        found.append(f"{inside}*" if whole else name)
    return tuple(dict.fromkeys(found))


class _Cut:
    """What a mask comes to in a network of these groups: the coupled mask, and the plan."""

    def __init__(
        self,
        who: str,
        groups: Groups,
        model: nn.Module,
        mask: Mask,
        ignore: Iterable[str] | str,
        partial: bool,
    ):
        mask.check(model)
        self.who, self.groups, self.partial = who, groups, partial
        self.ignored = groups.ignored | _ignored(who, model, ignore)
        if unused := [name for name in groups.unused if name not in self.ignored]:
            raise ValueError(
                f"{who}: {unused[0]} of {groups.model} is not used on the example in eval mode, so "
                "nothing is known of what reads it. Pass "
                f"ignore={_modules_of(unused, groups.parameters)!r} to leave it as it is."
            )
        self.fixed = np.array([bool(why) for why in groups.fixed], bool)
        self.stays = self._stays(mask)
        self.mask = self._closed(mask)
        if not partial:
            self._check_whole(mask)

    def _stays(self, mask: Mask) -> np.ndarray:
        """(groups,) which the mask leaves. A group goes with any of its filters or columns; where
        more may be removed than whole filters, with all of its filters."""
        groups = self.groups
        dead = np.zeros(len(groups.group), bool)
        for slot in groups.slots:
            if slot.attribute or slot.owner not in mask or slot.owner in self.ignored:
                continue
            keep = mask[slot.owner].numpy()
            if keep.ndim < 2:
                continue
            alive = keep.any(axis=tuple(d for d in range(keep.ndim) if d != slot.dim))
            if not alive.any():
                raise Emptied(self.who, slot.owner)
            dead[slot.start : slot.start + slot.size] = ~alive
            if not self.partial:
                self._refuse(slot, slot.start + np.flatnonzero(~alive))
        gone = np.zeros(groups.total + 1, bool)
        gone[groups.group[dead]] = True
        if self.partial:
            gone[groups.group[groups.made & ~dead]] = False
            gone[:-1] &= ~self.fixed
        for slot in groups.slots:
            if slot.owner in self.ignored:
                own = slice(slot.start, slot.start + slot.size)
                gone[groups.group[own][groups.made[own]]] = False
        return ~gone[:-1]

    def _refuse(self, slot: Slot, dead: np.ndarray) -> None:
        """Raise ValueError for what is removed and cannot go."""
        groups = self.groups
        for atom in dead.tolist():
            why = groups.why.get(int(groups.component[atom]))
            if why is None and groups.group[atom] == FIXED:
                why = "no layer makes it"
            if why is None:
                continue
            what = "filter" if groups.made[atom] else "place"
            raise ValueError(
                f"{self.who}: {what} {atom - slot.start} of {slot.owner} (dimension {slot.dim}) of "
                f"{groups.model} cannot go: {why}. Keep it in the mask, or pass "
                f"ignore={slot.owner!r}, which leaves the filters of this weight whole."
            )

    @cached_property
    def kept(self) -> dict[Slot, np.ndarray]:
        """What is left of the slots that lose something: the indices."""
        groups, kept = self.groups, dict[Slot, np.ndarray]()
        left = np.append(self.stays, True)[groups.group]  # FIXED, the last, stays
        for slot in groups.slots:
            own = left[slot.start : slot.start + slot.size]
            if own.all():
                continue
            if not own.any() and not slot.attribute:
                raise Emptied(self.who, slot.owner)
            kept[slot] = np.flatnonzero(own)
        return kept

    def _closed(self, mask: Mask) -> Mask:
        touched = {name: keep.clone() for name, keep in mask.items()}
        if not self.partial:  # what is ignored stays whole
            touched = {name: torch.ones_like(keep) for name, keep in touched.items()}
        for slot, places in self.kept.items():
            if slot.attribute or slot.owner not in self.groups.parameters:
                continue
            if slot.owner not in touched:
                touched[slot.owner] = torch.ones(self.groups.shapes[slot.owner], dtype=torch.bool)
            gone = torch.ones(slot.size, dtype=torch.bool)
            gone[torch.from_numpy(places)] = False
            touched[slot.owner].transpose(0, slot.dim)[gone] = False
        return Mask(touched)

    def _check_whole(self, mask: Mask) -> None:
        for name, keep in mask.items():
            if name in self.ignored:
                continue
            extra = self.mask[name] & ~keep
            if extra.any():
                at = extra.nonzero()[0].tolist()
                raise ValueError(
                    f"{self.who}: {name} must lose whole filters, {int(extra.sum()):,} weights "
                    f"that are removed are in none, the first at {at}. Choose filters, as with "
                    "select.pool, or leave the zeros in the network and cut the filters alone."
                )

    def of(self, families: Iterable[str]) -> _Cut | None:
        """The part of the cut that lies in some families of groups, None if none does."""
        stays = np.ones_like(self.stays)
        for family in families:
            members = self.groups.members[family]
            stays[members] = self.stays[members]
        return None if stays.all() else self._staying(stays)

    def unheard(self, model: nn.Module, mask: Mask, silent: bool = True) -> _Cut:
        """The part whose channels are not missed in a model under a mask: no weight that reads them
        is left; or, where `silent` ones may go too, nothing that they carry, such as a bias."""
        groups, parameters = self.groups, dict(model.named_parameters())
        heard, loud = np.zeros((2, groups.total + 1), bool)
        for slot in groups.slots:
            if slot.attribute or slot.owner not in parameters:
                continue
            there = (parameters[slot.owner].detach() != 0).cpu()
            there = there & mask[slot.owner] if slot.owner in mask else there
            others = tuple(d for d in range(there.ndim) if d != slot.dim)
            atoms = slot.start + np.flatnonzero(there.numpy().any(axis=others))
            heard[groups.group[atoms[groups.taken[atoms]]]] = True
            loud[groups.group[atoms[~groups.taken[atoms] & ~groups.made[atoms]]]] = True
        missed = heard & loud if silent else heard
        return self.without(self.stays | missed[:-1], mask)

    def without(self, stays: np.ndarray, mask: Mask) -> _Cut:
        """The same for other groups that stay, (groups,) bool."""
        part = self._staying(stays)
        part.mask = part._closed(mask)
        return part

    def _staying(self, stays: np.ndarray) -> _Cut:
        part = copy.copy(self)
        vars(part).pop("kept", None)  # which was worked out for the others
        part.stays = stays
        return part

    def plan(self) -> Plan:
        cuts: dict[str, dict[int, tuple[int, ...]]] = {}
        sizes: dict[str, dict[str, Any]] = {}
        for slot, places in self.kept.items():
            if slot.attribute:
                told = self.groups.told[slot.owner, slot.attribute]
                own = sizes.setdefault(slot.owner, {}).setdefault(slot.attribute, [*told])
                own[slot.dim] = len(places)
            else:
                cuts.setdefault(slot.owner, {})[slot.dim] = tuple(places.tolist())
        left = np.append(self.stays, True)
        for (path, attribute), arrays in self.groups.counts.items():
            found = {
                int(left[np.append(self.groups.group, FIXED)[atoms]].sum()) for atoms in arrays
            }
            if len(found) > 1:
                raise ValueError(
                    f"{self.who}: {path} of {self.groups.model} runs more than once, and would "
                    f"have {' and '.join(map(str, sorted(found)))} {attribute}"
                )
            if (n := found.pop()) != len(arrays[0]):
                sizes.setdefault(path, {})[attribute] = n
        shapes = {name: self.groups.shapes[name] for name in cuts}
        return Plan(self.groups.model, cuts, shapes, sizes)


# ------------------------------------------------------------------------------------------ plan


@checked
@dataclass(frozen=True)
class Plan:
    """How a network is cut; plain data, from which `rebuild` cuts it again.

    cuts: of each parameter and buffer that loses something, by dimension the indices that stay.
    shapes: what these tensors were before. attributes: what modules say afterwards, such as how
    many groups a convolution has; a list for a tuple, as of padding.
    """

    model: str
    cuts: Mapping[str, Mapping[int, tuple[int, ...]]]
    shapes: Mapping[str, tuple[int, ...]]
    attributes: Mapping[str, Mapping[str, Any]]

    @property
    def widths(self) -> dict[str, dict[int, int]]:
        """Of each tensor that loses something, by dimension how many indices stay."""
        return {
            name: {dim: len(places) for dim, places in dims.items()}
            for name, dims in self.cuts.items()
        }

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON; indices in runs, both ends within."""
        cuts = {
            name: {str(dim): _runs(places) for dim, places in dims.items()}
            for name, dims in self.cuts.items()
        }
        shapes = {name: [*shape] for name, shape in self.shapes.items()}
        attributes = {path: dict(named) for path, named in self.attributes.items()}
        return {"model": self.model, "cuts": cuts, "shapes": shapes, "attributes": attributes}

    @classmethod
    @checked
    def from_json(cls, told: Mapping[str, Any]) -> Plan:
        """Turns `to_json` around. Raises ValueError for what is no plan."""
        try:
            shapes = {str(name): tuple(map(int, shape)) for name, shape in told["shapes"].items()}
            cuts = {
                str(name): {int(dim): _from_runs(runs) for dim, runs in dims.items()}
                for name, dims in told["cuts"].items()
            }
            for name, dims in cuts.items():
                for dim, places in dims.items():
                    if not places or places[0] < 0 or places[-1] >= shapes[name][dim]:
                        raise ValueError(f"{name} has no such places in dimension {dim}")
            attributes = {str(path): dict(named) for path, named in told["attributes"].items()}
            for numbers in (value for named in attributes.values() for value in named.values()):
                if any(
                    type(n) is not int
                    for n in (numbers if isinstance(numbers, list) else [numbers])
                ):
                    raise ValueError(f"attributes must be whole numbers, got {shown(numbers)}")
            return cls(str(told["model"]), cuts, shapes, attributes)
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"Plan: this is no plan: {error}") from error


def _runs(places: Sequence[int]) -> list[list[int]]:
    """[0, 1, 2, 5] -> [[0, 2], [5, 5]]"""
    at = np.array(places)
    ends = np.flatnonzero(np.diff(at) != 1)
    firsts, lasts = at[np.append(0, ends + 1)], at[np.append(ends, len(at) - 1)]
    return [[int(a), int(b)] for a, b in zip(firsts, lasts, strict=True)]


def _from_runs(runs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    places = tuple(i for first, last in runs for i in range(int(first), int(last) + 1))
    if any(first > last for first, last in runs) or any(a >= b for a, b in pairwise(places)):
        raise ValueError("places must rise")
    return places


def _cut(model: nn.Module, plan: Plan) -> nn.Module:
    """Cut the model itself."""
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, dims in plan.cuts.items():
            a = tensors[name]
            for dim, places in dims.items():
                index = torch.tensor(places, dtype=torch.int64, device=a.device)
                a.data = a.data.index_select(dim, index)
    modules = dict(model.named_modules())
    for path, attributes in plan.attributes.items():
        for attribute, value in attributes.items():
            setattr(modules[path], attribute, tuple(value) if isinstance(value, list) else value)
    vars(model)["_prunekit_plan"] = plan  # of this module, also where setattr goes to another
    return model


@checked
def rebuild(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of a network, cut as the plan says; of its weights those that stay.

    Raises ValueError if the plan is for another network.
    """
    check_plan("rebuild", model, plan)
    return _cut(copy_of("rebuild", model), plan)


def check_plan(who: str, model: nn.Module, plan: Plan) -> None:
    """Raise ValueError unless the plan is for a network with tensors of these names and shapes."""
    tensors, modules = named_tensors(model), dict(model.named_modules())
    for name, shape in plan.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            told = f"has {name} of shape {found}" if found is not None else f"has no {name}"
            raise ValueError(
                f"{who}: the plan is for a {plan.model} with {name} of shape {shape}; this "
                f"{type(model).__name__} {told}"
            )
    for path, attributes in plan.attributes.items():
        for attribute, value in attributes.items():
            now = vars(modules[path]).get(attribute) if path in modules else None
            fits = type(now) is int if type(value) is int else isinstance(now, (tuple, list))
            if not fits:
                raise ValueError(
                    f"{who}: the plan is for a {plan.model} in which {path}.{attribute} counts "
                    f"channels; in this {type(model).__name__} it does not"
                )


# ---------------------------------------------------------------------------------------- shrink


@checked
def shrink(
    model: nn.Module,
    mask: Mask,
    example: Any,
    *,
    ignore: Iterable[str] | str = (),
    partial: bool = False,
) -> nn.Module:
    """A smaller network that answers as `model` does under `couple` of `mask`, with proof.

    The filters that the mask removes (see `couple`, also for `ignore`) are cut out of a copy, with
    all that goes with them. Before it is given back, it is compared with the masked network on the
    example, in eval mode, outputs and shapes; and once more with random weights in both, since a
    network whose last layer is zero would prove nothing. The given model stays as it is.

    With `partial` more may be removed than whole filters, and it answers as `model` does under
    `mask` itself. Then filters without weights stay that are heard all the same, as where a bias is
    left and read.

    Raises ValueError as `couple` does, and if the two answer differently, as where a size is
    written in ``forward``; the message says which layers can be left whole with `ignore`.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> keep = torch.tensor([[True], [False], [True]]).expand(3, 4)
    >>> shrink(net, Mask({"0.weight": keep}), torch.rand(2, 4))
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=2, bias=True)
    )
    """
    whole = copy_of("shrink", model)
    cut = _Cut("shrink", Groups(whole, follow(whole, example)), model, mask, ignore, partial)
    x = place(example, device_of(model))
    if partial:
        cut = _not_missed(cut, mask.apply_(whole), mask, x)
    else:
        cut.mask.apply_(whole)
    plan = cut.plan()
    small = _cut(copied("shrink", whole), plan)
    _prove(whole, small, x, cut, "")
    two = each(x, lambda a: a[:2])
    for gain in GAINS:  # the smaller, the deeper a network may be without an overflow
        draw(whole, gain)
        cut.mask.apply_(whole)
        if all(bool(a.isfinite().all()) for a in answers(whole, two) if a.is_floating_point()):
            break
    _prove(whole, _cut(copied("shrink", whole), plan), two, cut, " of random weights")
    return small


def _not_missed(cut: _Cut, whole: nn.Module, mask: Mask, x: Any) -> _Cut:
    """The part of a cut without which a network that is masked answers as before."""
    silent = cut.unheard(whole, mask)
    if not _is_missed(whole, silent, x):
        return silent
    # What is silent before an activation may not be so behind it: a sigmoid makes a half of 0.
    unread, stays = cut.unheard(whole, mask, silent=False), silent.stays.copy()
    for name in _culprits(whole, x, silent, [*cut.groups.members]):
        members = cut.groups.members[name]
        stays[members] = unread.stays[members]
    part = cut.without(stays, mask)
    return unread if _is_missed(whole, part, x) else part


def _is_missed(whole: nn.Module, cut: _Cut, x: Any) -> bool:
    try:
        small = _cut(copied("shrink", whole), cut.plan())
        return bool(_apart(whole, small, x, answers(whole, x)))
    except Exception:  # which the proof will tell
        return False


def _prove(whole: nn.Module, small: nn.Module, x: Any, cut: _Cut, of: str) -> None:
    """Raise ValueError unless both answer the same."""
    want = answers(whole, x)
    try:
        wrong = _apart(whole, small, x, want)
    except Exception as error:
        wrong = f"it fails: {type(error).__name__}: {str(error).rstrip('.')}{_place(error)}"
    if wrong == NOT_FINITE:
        raise ValueError(
            f"shrink: the outputs of {cut.groups.model}{of} are not finite on the example, so that "
            "nothing can be compared. Pass another example."
        )
    if wrong:
        every = [name for name in cut.groups.members if cut.of([name]) is not None]
        alone = _culprits(whole, x, cut, every)
        raise ValueError(
            f"shrink: {cut.groups.model}{of} answers otherwise once it is cut than under the "
            f"mask: {wrong}. Is a size written in forward? Pass "
            f"ignore={cut.groups.makers(alone or every)!r} to leave the filters of these weights "
            "whole."
        )


def _culprits(whole: nn.Module, x: Any, cut: _Cut, families: list[str]) -> list[str]:
    """The families of groups with which alone a network answers otherwise, found by halves."""
    if (part := cut.of(families)) is None:
        return []
    try:
        small = _cut(copied("shrink", whole), part.plan())
        if not _apart(whole, small, x, answers(whole, x)):
            return []
    except Exception:  # which the cut network raises
        pass
    if len(families) == 1:
        return families
    half = len(families) // 2
    halves = families[:half], families[half:]
    return [name for part in halves for name in _culprits(whole, x, cut, part)]


def _apart(whole: nn.Module, small: nn.Module, x: Any, want: list[Tensor]) -> str:
    """What tells the answers of two networks apart, or "".

    Sums in another order give other numbers, which a network can amplify. So where single or half
    precision tells the two apart, or is too coarse to tell, double precision does, where a network
    works in it.
    """
    close = _tolerance(whole)
    wrong = differs(want, answers(small, x), close)
    if not wrong and close <= CLOSE[torch.float32]:
        return ""
    try:
        one, two = (answers(copied("shrink", m).double(), _double(x)) for m in (whole, small))
    except Exception:
        return wrong
    return differs(one, two, CLOSE[torch.float64])


def _double(x: Any) -> Any:
    return each(x, lambda a: a.double() if a.is_floating_point() else a)


def answers(model: nn.Module, x: Any) -> list[Tensor]:
    """What a network answers in eval mode, the same every time."""

    def once() -> Any:
        with torch.no_grad(), evaluating(model), LocalRandom(0):
            return call(model, x)

    return [a for a in tree_leaves(repeatably(model, once)) if isinstance(a, Tensor)]


GAINS = (1.0, 0.3, 0.05)
# How far two answers may lie apart that only the order of sums tells apart, of the largest output.
CLOSE = {torch.float64: 1e-8, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 5e-2}
CLOSE_ELSEWHERE = 2e-3  # on accelerators, which round the factors of products


def _tolerance(model: nn.Module) -> float:
    kinds = [a.dtype for a in named_tensors(model).values() if a.dtype in CLOSE]
    elsewhere = CLOSE_ELSEWHERE if device_of(model).type != "cpu" else 0.0
    return max([elsewhere, *(CLOSE[kind] for kind in kinds)])


NOT_FINITE = "its outputs are not finite"


def differs(want: Sequence[Tensor], got: Sequence[Tensor], close: float) -> str:
    """What tells two answers apart, or "": shapes, kinds, or numbers by more than `close` of the
    largest."""
    if len(want) != len(got):
        return f"it has {len(got)} outputs instead of {len(want)}"
    for a, b in zip(want, got, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"its output is {tuple(b.shape)} {b.dtype}, not {tuple(a.shape)} {a.dtype}"
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return "whole numbers of its output differ"
            continue
        a, b = a.double(), b.double()
        if not (finite := a.isfinite()).equal(b.isfinite()) or not finite.any():
            return NOT_FINITE
        scale = float(a[finite].abs().max())
        if (apart := float((a - b)[finite].abs().max())) > close * scale:
            return f"outputs of up to {scale:.2g} differ by up to {apart:.2g}"
    return ""


def _place(error: Exception) -> str:
    """The line of the model at which it fails."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if outside(f.filename)]
    return (
        f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line})"
        if frames
        else ""
    )


@torch.no_grad()
def draw(model: nn.Module, gain: float = 1.0) -> None:
    """Give all numbers of a model new values of about the size that layers begin with: weights of
    the variance `gain` over the inputs of a filter."""
    generator = torch.Generator().manual_seed(0)
    parameters = {name for name, _ in model.named_parameters()}
    for name, a in named_tensors(model).items():
        if not a.is_floating_point() or not a.numel():
            continue
        drawn = torch.randn(a.shape, generator=generator, dtype=torch.float32)
        if a.ndim > 1 and name in parameters:
            drawn *= (gain / max(a[0].numel(), 1)) ** 0.5
        elif name.endswith(("var", "weight")) or (a.ndim <= 1 and bool((a > 0).all())):
            drawn = 0.5 + torch.rand(a.shape, generator=generator)
        else:
            drawn *= 0.3
        if name in parameters or name.endswith(("running_mean", "running_var")):
            a.copy_(drawn)


# ------------------------------------------------------------------------------------- write back


@checked
def was_cut(model: nn.Module) -> bool:
    """Whether `shrink` or `rebuild` made a network."""
    return isinstance(vars(model).get("_prunekit_plan"), Plan)


@checked
def plan_of(small: nn.Module) -> Plan:
    """The plan by which a network was cut. Raises ValueError for one that was not."""
    if not was_cut(small):
        raise ValueError(
            f"plan_of: {type(small).__name__} was not cut. Pass what shrink or rebuild gave."
        )
    return vars(small)["_prunekit_plan"]


@checked
@torch.no_grad()
def write_back(small: nn.Module, model: nn.Module) -> nn.Module:
    """Put the weights of a shrunk network into the one that it was cut from, in place.

    What was cut is 0 there afterwards, so that `model` is masked and answers as `small` does.
    Running statistics of channels that were cut stay as they were.

    Raises ValueError if `small` was not cut from such a network; then `model` stays as it is.
    """
    plan = plan_of(small)
    check_plan("write_back", model, plan)
    now, own = named_tensors(model), named_tensors(small)
    parameters = {name for name, _ in model.named_parameters()}
    where = {}
    for name, a in own.items():
        cuts = plan.cuts.get(name, {})
        shape = (
            tuple(len(cuts[d]) if d in cuts else n for d, n in enumerate(now[name].shape))
            if name in now
            else None
        )
        if shape != tuple(a.shape):
            raise ValueError(
                f"write_back: {name} must have shape {shape} after the cut, got {tuple(a.shape)}"
            )
        where[name] = [torch.tensor(cuts.get(d, range(n))) for d, n in enumerate(now[name].shape)]
    for name, a in own.items():
        target = now[name]
        if name not in plan.cuts:
            target.copy_(a)
            continue
        full = torch.zeros_like(target) if name in parameters else target.clone()
        full[torch.meshgrid(*where[name], indexing="ij")] = a.to(full)
        target.copy_(full)
    return model
