"""The products of a forward pass, watched operator by operator, and what feeds them.

One pass on one example shows which parameters are multiplied with the input as matrices, as they
are or worked out (cast, transposed, normed) before, and what zeros in them come to. The watcher
belongs to its thread and changes no setting: whatever runs in other threads stays as it is.
"""

from __future__ import annotations

import functools
import math
import re
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from prunekit._modules import (
    call,
    check_values,
    device_of,
    each,
    evaluating,
    place,
    repeatably,
    structure,
)
from prunekit._random import LocalRandom, draws
from prunekit.knobs import shown

# ------------------------------------------------------------------------------------- products


@dataclass(frozen=True)
class Product:
    """A product in a forward pass: how many multiply-adds, and of which factors.

    Each element of a factor takes part in equally many multiply-adds. form: how two factors meet:
    as "matrices" `(..., m, k)` and `(..., k, n)`, element by element as "places" that broadcast, or
    only by their "shares".
    """

    count: int
    factors: tuple[Tensor, ...]
    form: str = "shares"

    def kept(self, keeps: Iterable[Tensor | None]) -> float:
        """The multiply-adds that are left: of each factor which elements are kept, None for all."""
        known = [keep.cpu() for keep in keeps if keep is not None]
        if not self.count or not known:
            return self.count
        if len(known) == 1 or self.form == "shares":
            kept = math.prod(int(keep.sum()) for keep in known)
            return self.count * kept / math.prod(keep.numel() for keep in known)
        if self.form == "places":
            return int(functools.reduce(torch.logical_and, known).sum())
        a, b = known
        return int((a.sum(-2) * b.sum(-1)).sum())


# Operators that multiply two matrices or vectors: how many arguments stand before these.
_MATRICES = {
    "mm": 0, "bmm": 0, "mv": 0, "dot": 0, "vdot": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1,
    "addmv": 1, "addr": 1, "_addmm_activation": 1, "_scaled_mm": 0, "_int_mm": 0,
    "_sparse_addmm": 1, "_sparse_sparse_matmul": 0, "_sparse_mm_reduce_impl": 0,
}  # fmt: skip
# Layers in one operator: each of its matrices meets every row of the input once.
_LAYERS = (
    "mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn", "_lstm_mps",
    "_native_multi_head_attention", "_transformer_encoder_layer_fwd",
)  # fmt: skip
# Operators whose result has the elements of their argument.
_COPIES = ("_to_copy", "clone")
# Operators that read rows of a table: a product with rows of which one element is 1.
_LOOKUPS = ("embedding", "_embedding_bag", "_embedding_bag_forward_only", "index", "index_select")


def name_of(func: Any) -> str:
    """What an operator is called, without the mark of those that write into their argument."""
    return str(getattr(func, "overloadpacket", func)).rpartition(".")[2].rstrip("_")


def _multiplies(name: str) -> bool:
    return (
        name in (*_MATRICES, *_LAYERS, "_trilinear")
        or "conv" in name
        or name.startswith("_scaled_dot_product_")
    )


def bound(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operator by name."""
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def _products(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Any:
    """The products that an operator is made of: `Product`s, without the elementwise ones."""
    name = name_of(func)
    if name in _MATRICES:
        yield _matrices(name, *args[_MATRICES[name] : _MATRICES[name] + 2])
    elif name in _LAYERS:
        yield from _layer(bound(func, args, kwargs))
    elif name.startswith("_scaled_dot_product_") and "backward" not in name:
        query, key, value = args[:3]  # (..., tokens, width of a head)
        form = "matrices" if query.shape[:-2] == key.shape[:-2] else "shares"  # shared heads
        yield Product(query.numel() * key.shape[-2], (query, key.transpose(-2, -1)), form)
        yield Product(query.shape[:-1].numel() * value.shape[-2] * value.shape[-1], (value,))
    elif name == "_trilinear":
        yield _trilinear(*args[:6])
    elif "conv" in name and "backward" not in name and isinstance(out, Tensor):
        x, w = args[:2]
        if name == "conv_tbc":  # (time, n, c)
            yield Product(w.numel() * out.shape[:2].numel(), (x, w))
            return
        transposed = bound(func, args, kwargs).get("transposed", "transpose" in name)
        places = (x if transposed else out).shape[2:].numel()
        yield Product(w.numel() * x.shape[0] * places, (x, w))


def _matrices(name: str, a: Tensor, b: Tensor) -> Product:
    if name == "addr":  # a column and a row
        a, b = a.unsqueeze(1), b.unsqueeze(0)
    a = a.unsqueeze(0) if a.ndim == 1 else a
    b = b.unsqueeze(1) if b.ndim == 1 else b
    count = a.numel() * b.shape[-1]
    for sparse in (t for t in (a, b) if t.layout is not torch.strided):
        count = count * sparse._nnz() // max(sparse.numel(), 1)  # it costs what it stores
    dense = tuple(t for t in (a, b) if t.layout is torch.strided)
    return Product(count, dense, "matrices" if len(dense) == 2 else "shares")


def _layer(given: dict[str, Any]) -> Iterator[Product]:
    x = next(iter(given.values()))
    width = given.get("embed_dim") or x.shape[-1]
    for name, value in given.items():
        for w in tree_leaves(value):
            if isinstance(w, Tensor) and w.ndim == 2 and re.search("weight|params", name):
                yield Product(x.numel() // width * w.numel(), (w,))
    if "embed_dim" in given:  # queries and keys, weights and values; heads share the width
        lengths = [part.shape[0] for part in (x.unbind() if x.is_nested else x)]
        yield Product(2 * width * sum(n * n for n in lengths), ())


def _trilinear(a: Tensor, w: Tensor, b: Tensor, *new: list[int]) -> Product:
    for dimensions, i in zip(new, range(3), strict=True):
        for d in dimensions:
            a, w, b = (t.unsqueeze(d) if i == j else t for j, t in enumerate((a, w, b)))
    parts = torch.broadcast_tensors(a, w, b)
    return Product(parts[0].numel(), parts, "places")


def _summed(
    pair: tuple[Tensor, Tensor], func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Product | None:
    """The dot products that an elementwise product is, if a dimension of both is summed up next."""
    a, b = torch.broadcast_tensors(*pair)
    dims = bound(func, args, kwargs).get("dim") or range(a.ndim)
    dims = [dims] if isinstance(dims, int) else dims
    one = pair[0] is pair[1]  # a squared norm
    if one or not any(a.stride(d) and b.stride(d) and a.shape[d] > 1 for d in dims):
        return None
    return Product(a.numel(), (a, b), "places")


# --------------------------------------------------------------------------------------- memory


def _tensors(values: Any) -> list[Tensor]:
    """All dense tensors in nested arguments or results that have a memory."""
    leaves = [a for a in tree_leaves(values) if isinstance(a, Tensor)]
    return [a for a in leaves if a.layout is torch.strided and a.untyped_storage().nbytes()]


def _memory(a: Tensor) -> tuple[int, int]:
    """Where the memory of a tensor, which views share, begins, and how many bytes it has."""
    return a.untyped_storage().data_ptr(), a.untyped_storage().nbytes()


def _span(a: Tensor) -> tuple[int, int]:
    """The bytes of its memory between which a tensor lies."""
    last = sum((n - 1) * step for n, step in zip(a.shape, a.stride(), strict=True))
    start = int(a.storage_offset())
    return start * a.element_size(), (start + int(last) + 1) * a.element_size()


def _in(storage: torch.UntypedStorage, a: Tensor) -> Tensor:
    """What lies in a memory at the place that a tensor has in its own."""
    at = (a.storage_offset(), a.shape, a.stride())
    return torch.empty(0, dtype=a.dtype, device=a.device).set_(storage, *at)


Memory = tuple[int, int]
Removed = dict[str, Callable[[], Tensor]]  # where it is, worked out when it is needed


class _Twins:
    """Copies of weights, and of what is worked out from them, where removed weights alone are 0.

    There is one for each *case*, a mapping of names to what is removed. A weight is recognised by
    its memory, also as a view or in a common buffer.
    """

    def __init__(self, parameters: Mapping[str, Tensor], cases: Mapping[Hashable, Removed]):
        self.parameters, self.cases = parameters, cases
        self.roots: dict[Memory, list[str]] = {}
        self.stored: dict[Memory, dict[Hashable, torch.UntypedStorage]] = {}
        self.copies: dict[Memory, tuple[Tensor, Callable[[Tensor], Tensor]]] = {}
        self.of_name: dict[str, list[Hashable]] = {name: [] for name in parameters}
        for case, removed in cases.items():
            for name in removed:
                self.of_name[name].append(case)
        for name, p in parameters.items():
            if _tensors(p):
                self.roots.setdefault(_memory(p), []).append(name)

    def names(self, a: Tensor) -> list[str]:
        """The parameters that lie where a tensor lies, if nothing has been written there."""
        memory = _memory(a)
        if memory in self.copies and memory not in self.stored:
            return self.names(self.copies[memory][0])
        if memory in self.stored or not a.numel():
            return []
        start, stop = _span(a)
        spans = ((name, *_span(self.parameters[name])) for name in self.roots.get(memory, ()))
        return [name for name, first, end in spans if first < stop and start < end]

    def cases_of(self, a: Tensor, everything: bool = False) -> list[Hashable]:
        """In which cases a tensor has a twin; `everything`: anything in its memory."""
        memory = _memory(a)
        if memory in self.copies and memory not in self.stored:
            return self.cases_of(self.copies[memory][0], everything)
        if memory in self.stored:
            return [*self.stored[memory]]
        names = self.roots.get(memory, []) if everything else self.names(a)
        return [case for name in names for case in self.of_name[name]]

    def of(self, a: Tensor, case: Hashable) -> Tensor | None:
        """The twin of a tensor, which may be a view; None where it is as the tensor itself."""
        memory = _memory(a)
        if memory in self.stored:
            twin = self.stored[memory].get(case, self.stored[memory].get(None))
            return _in(twin, a) if twin is not None else None
        if memory in self.copies:
            source, copy = self.copies[memory]
            twin_of = self.of(source, case)
            return None if twin_of is None else _in(copy(twin_of).untyped_storage(), a)
        if case in (cases := self.cases_of(a)) or None in cases:
            return _in(self._root(memory, case), a)
        return None

    @torch.no_grad()
    def _root(self, memory: Memory, case: Hashable) -> torch.UntypedStorage:
        names = self.roots[memory]
        storage = self.parameters[names[0]].untyped_storage().clone()
        for name in names:
            twin = _in(storage, self.parameters[name])
            twin.masked_fill_(twin == 0, 1)
        for name in names:
            if (removed := self.cases[case].get(name)) is not None:
                twin = _in(storage, self.parameters[name])
                twin.masked_fill_(removed().to(twin.device), 0)
        return storage

    def own(self, a: Tensor, case: Hashable) -> Tensor:
        """The twin of a tensor to write into; without one it begins as a plain copy."""
        memory = _memory(a)
        if memory not in self.stored:  # all at once: what they are made of may be written next
            cases = dict.fromkeys([*self.cases_of(a, everything=True), case])
            self.stored[memory] = {one: self._begun(a, one) for one in cases}
        twins = self.stored[memory]
        if case not in twins:
            twins[case] = (twins.get(None) or a.untyped_storage()).clone()
        return _in(twins[case], a)

    def _begun(self, a: Tensor, case: Hashable) -> torch.UntypedStorage:
        memory = _memory(a)
        if memory in self.roots:
            return self._root(memory, case)
        known = self.of(a, case)
        return (a if known is None else known).untyped_storage().clone()

    def keep(self, case: Hashable) -> None:
        """Make the twins of a case once and for all."""
        for memory, names in self.roots.items():
            if any(case in self.of_name[name] for name in names):
                self.stored[memory] = {case: self._root(memory, case)}

    def forget(self, memory: Memory) -> None:
        self.stored.pop(memory, None)
        self.copies.pop(memory, None)
        self.roots.pop(memory, None)


def with_zeros(parameters: Mapping[str, Tensor]) -> Removed:
    """A case in which nothing is removed, of the parameters that have zeros: these become 1."""
    return {
        name: functools.partial(torch.zeros, (), dtype=torch.bool, device="cpu")
        for name, p in parameters.items()
        if bool((p == 0).any())
    }


# --------------------------------------------------------------------------------- the watched pass


@functools.cache
def _composite(func: Any) -> bool:
    """Whether an operator is made of others, which show themselves only without inference mode."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return bool(has_kernel(func.name(), "CompositeImplicitAutograd"))


class Operators(TorchDispatchMode):
    """Gives `operator` every operator of a forward pass of this thread, and what it is called with.

    An operator that is made of others is taken apart, where it can be.
    """

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the operator, and give what it gives."""
        raise NotImplementedError

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        if _composite(func):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        return self.operator(func, args, kwargs)


class Watcher(Operators):
    """Sees every operator of a forward pass of this thread, and tells `product` of its products.

    What the model works out from parameters alone is worked out from their twins too, and the
    result is a twin again. What depends on the input has none, nor has a product of matrices: zeros
    there are no removed weights. What is drawn at random counts as an input.
    """

    formulas: Mapping[Any, Callable[..., int]] = {}  # FLOPs of operators that are not known here

    def __init__(self, parameters: Mapping[str, Tensor], cases: Mapping[Hashable, Removed], x: Any):
        super().__init__()
        self.twins = _Twins(parameters, cases)
        self.moving = {_memory(part) for part in _tensors(x)}  # what depends on the input
        # By the operator before: where the elementwise product lies, and its factors.
        self.multiplied: tuple[Memory, tuple[Tensor, Tensor]] | None = None

    def follows(self, case: Hashable) -> bool:
        """Whether the results of products of parameters have twins, too."""
        return False

    def product(self, product: Product, out: Any) -> None:
        """A product has been made; its result is `out`."""

    def taken(self, func: Any, args: tuple[Any, ...], given: list[Tensor], moving: bool) -> None:
        """An operator takes these tensors; moving: it depends on the input."""

    def made(self, out: Any, anew: set[Memory]) -> None:
        """An operator has made this, `anew` or written there; its products have been told of."""

    def moves(self, a: Tensor) -> bool:
        """Whether a tensor depends on the input."""
        return _memory(a) in self.moving

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, tensors = name_of(func), _tensors((args, kwargs))
        if name == "embedding_renorm":  # scales rows in place: zeros stay where they are
            return func(*args, **kwargs)
        if name == "lift_fresh":
            tensors = []  # a new constant, whatever lay there before
        given = {_memory(a) for a in tensors}
        drawn = torch.Tag.nondeterministic_seeded in func.tags and draws(func, args, kwargs)
        moving = drawn or not given.isdisjoint(self.moving)
        weight = not moving
        floats = (kwargs.get("dtype") or torch.float).is_floating_point
        copies = weight and name in _COPIES and floats and bool(self.twins.names(args[0]))
        weight = weight and not copies
        # Before the operator itself, which may write into what it is given.
        twins = self._on_twins(func, args, kwargs, tensors) if weight else {}
        out = func(*args, **kwargs)
        self.taken(func, args, tensors, moving)
        products = [*_products(func, args, kwargs, out)]
        if not products and (flops := self.formulas.get(func.overloadpacket)):
            products = [Product(flops(*args, **kwargs, out_val=out) // 2, ())]
        for product in products:
            self.product(product, out)
        self._elementwise(func, name, args, kwargs, out)
        outs = {_memory(a) for a in _tensors(out)}
        self.made(out, outs if func._schema.is_mutable else outs - given)
        for i, a in enumerate(_tensors(out)):
            memory = _memory(a)
            if moving or memory not in given or _multiplies(name):
                self.twins.forget(memory)
                (self.moving.add if moving else self.moving.discard)(memory)
            if memory in given:
                continue
            if copies:
                self.twins.copies[memory] = args[0], functools.partial(_again, func, args, kwargs)
            for case, results in twins.items():
                if results is None:  # it cannot be worked out
                    self.twins.own(a, case).fill_(math.nan if a.is_floating_point() else 1)
                elif results[i].shape == a.shape:
                    self.twins.own(a, case).copy_(results[i])
        return out

    def _elementwise(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """An elementwise product that is summed up at once, as in a dot product."""
        before, self.multiplied = self.multiplied, None
        if name == "mul" and all(isinstance(a, Tensor) for a in args) and _tensors(out):
            self.multiplied = _memory(out), args[:2]
        elif (
            name in ("sum", "mean")
            and before
            and _tensors(args[0])
            and _memory(args[0]) == before[0]
            and (product := _summed(before[1], func, args, kwargs))
        ):
            self.product(product, out)

    def _on_twins(
        self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]
    ) -> dict[Hashable, list[Tensor] | None]:
        """What the operator gives for the twins; tensors without one stand for themselves."""
        writes = func._schema.is_mutable
        cases = dict.fromkeys(case for a in tensors for case in self.twins.cases_of(a, writes))
        if _multiplies(name_of(func)):
            cases = {case: None for case in cases if self.follows(case)}
        if not cases or (not writes and _views(func)):
            return {}

        def twin(a: Any, case: Hashable) -> Any:
            if not isinstance(a, Tensor):
                return a
            if not _tensors(a):  # one without elements may be written into, too
                return a.clone() if writes else a
            if writes:
                return self.twins.own(a, case)
            return a if (known := self.twins.of(a, case)) is None else known

        found: dict[Hashable, list[Tensor] | None] = {}
        for case in cases:
            replaced = tree_map(functools.partial(twin, case=case), (args, kwargs))
            try:
                found[case] = _tensors(func(*replaced[0], **replaced[1]))
            except Exception:  # such as a matrix that has no inverse any more
                found[case] = None
        return found


def _again(func: Any, args: Any, kwargs: Any, a: Tensor) -> Tensor:
    """The same operator on another tensor."""
    return func(a, *args[1:], **kwargs)


def _views(func: Any) -> bool:
    """Whether the results of an operator are all views of its arguments."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None for r in returns)


@contextmanager
def watching(model: nn.Module, watcher: Operators) -> Iterator[None]:
    """Inside, `model` answers in eval mode and `watcher` sees it; random draws come from a seed."""
    remembers = torch.is_autocast_cache_enabled()  # casts from before have no known origin
    torch.set_autocast_cache_enabled(False)
    try:
        with (
            evaluating(model),
            torch.inference_mode(False),
            torch.no_grad(),
            LocalRandom(0),
            watcher,
        ):
            yield
    finally:
        torch.set_autocast_cache_enabled(remembers)


def first(who: str, model: nn.Module, x: Any, n: int | None = 1) -> Any:
    """The first `n` examples of a batch, None for all, on the model's device.

    Raises ValueError that names `who` unless x is a tensor or a tuple or mapping of tensors.
    """
    leaves = tree_leaves(x)
    wrong = [a for a in leaves if not isinstance(a, Tensor) or not a.ndim or not len(a)]
    wrong += [a for a in leaves if not wrong and (a.is_meta or a.layout is not torch.strided)]
    if wrong or not leaves:
        found = wrong[0] if wrong else x
        kind = (
            f"{found.layout} {found.device} {tuple(found.shape)}"
            if isinstance(found, Tensor)
            else shown(found)
        )
        raise ValueError(
            f"{who}: the example must be a batch as the model takes it, a tensor (n, ...) or a "
            f"tuple or mapping of such tensors, got {kind}. Pass one x of your data."
        )
    if next(model.parameters(), None) is not None:
        x = place(x, device_of(model))
    return each(x, lambda tensor: tensor[:n])


# ------------------------------------------------------------------------------ what feeds products

# The classes whose matrices are multiplied with the input, wherever they stand.
_FEEDING = (
    nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase,
    nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag,
)  # fmt: skip
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
# What these classes call their matrices; `torch.nn.utils` appends to it.
_THEIRS = re.compile(r"((in|[qkv])_proj_)?weight(_(ih|hh|hr)(_l\d+(_reverse)?)?)?(_orig)?")


@dataclass(frozen=True)
class Verdict:
    """Whether a parameter is a matrix that feeds a product, and why, in a few words."""

    feeds: bool
    why: str


@dataclass(frozen=True)
class Watched:
    """What one watched pass gave: the model's answer, and verdicts on parameters that it used."""

    outputs: Any
    verdicts: dict[str, Verdict]


def _held(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Each module with what it calls a parameter that it holds; the layer for a parametrised one.

    What a parametrisation holds beside the one original weight is called by its own name.
    """
    layers = {}
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for name, inner in module.parametrizations.items():  # type: ignore[union-attr, operator]
                layers[inner] = module, name
    for module in model.modules():
        layer, weight = layers.get(module, (module, ""))
        for name, p in module.named_parameters(recurse=False):
            yield layer, weight if weight and name == "original" else name, p


# What people call tables of places, and what is added, joined or scaled with: without an example
# nothing else tells these from matrices.
_PLACES = re.compile(r"position|pos_?emb|(^|[._])(pos|w?pe)([._]|$)")
_OTHERS = re.compile(r"bias|token|table|scale|gamma|temperature")


def _by_class(layer: nn.Module, name: str, p: nn.Parameter, path: str) -> Verdict:
    """The verdict by the module that holds a parameter as `name`, by its shape and by its path."""
    kind, shape = type(layer).__name__.removeprefix("Parametrized"), tuple(p.shape)
    if p.ndim < 2:
        return Verdict(False, f"it has {p.ndim} dimension{'s' * (p.ndim != 1)}, a matrix has two")
    if p.is_complex():
        return Verdict(False, "its values are complex, only real ones are pruned")
    if not p.is_floating_point():
        return Verdict(False, f"its values are {str(p.dtype).removeprefix('torch.')}, not floats")
    if isinstance(layer, NORMS):
        return Verdict(False, f"{_SCALE}, {kind}")
    table, own = isinstance(layer, (nn.Embedding, nn.EmbeddingBag)), _THEIRS.fullmatch(name)
    feeds = isinstance(layer, _FEEDING) and own is not None
    said = _PLACES.search(path) if table else _PLACES.search(name) or _OTHERS.search(name)
    if said and (table or not feeds):
        return Verdict(False, "its name says that it is a scale, a token or a table")
    if feeds:
        return Verdict(True, f"it is the weight of a layer, {kind}")
    if shape[0] == 1 or sum(n > 1 for n in shape) < 2:
        return Verdict(False, f"its shape {shape} is that of a scale, a token or a table")
    return Verdict(True, f"it is a matrix of {kind}")


def _all_by_class(model: nn.Module) -> tuple[dict[str, Verdict], set[str]]:
    """The verdicts by class, and the names of those that layers of torch hold as theirs."""
    check_values("prunable", model)
    names = {id(p): name for name, p in model.named_parameters()}
    verdicts: dict[str, Verdict] = {}
    theirs = set()
    for layer, own, p in _held(model):
        name = names[id(p)]
        verdict = _by_class(layer, own, p, name)
        if name not in verdicts or verdict.feeds:  # tied: one place is enough
            verdicts[name] = verdict
        if isinstance(layer, _FEEDING) and _THEIRS.fullmatch(own):
            theirs.add(name)
    return {name: verdicts[name] for name in names.values()}, theirs


def _other(half: Callable[[], Tensor]) -> Tensor:
    return ~half()


def _half(shape: torch.Size) -> Tensor:
    """About half of the elements, but of no row or column of several all.

    Few of the first and many of the last, so that places that stand for others are seen.
    """
    n = shape.numel()
    chance = torch.linspace(0.1, 0.9, n, device="cpu").reshape(shape)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(n), device="cpu")
    removed = drawn < chance
    flat = removed.view(shape[0], -1)
    flat = flat if flat.shape[0] >= flat.shape[1] else flat.t()
    rows, columns = torch.arange(len(flat), device="cpu"), flat.shape[1]
    if columns > 1:
        flat[rows, rows % columns] = True
        flat[rows, (rows + 1) % columns] = False
    return removed


class _Judge(Watcher):
    """Which parameters are factors of products, and whether zeros in them are zeros there.

    For each parameter two cases are worked out, with halves of it removed that make up the whole;
    the case None has nothing removed. An element of a factor that changes with the parameter and is
    0 in neither case holds no zero that is put in.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], theirs: set[str], x: Any, follow: bool = False
    ):
        self.theirs, self.follow = theirs, follow
        candidates = [
            n for n, p in parameters.items() if p.ndim > 1 and p.is_floating_point() and p.numel()
        ]
        self.halves = {
            name: functools.partial(_half, parameters[name].shape) for name in candidates
        }
        cases: dict[Hashable, Removed] = {None: with_zeros(parameters)}
        for name, one in self.halves.items():
            cases[name, False] = {name: one}
            cases[name, True] = {name: functools.partial(_other, one)}
        super().__init__(parameters, cases, x)
        self.factors: set[str] = set()
        self.lost: dict[str, str] = {}
        self.inputs: dict[str, str] = {}  # learned inputs: with which weight they are multiplied
        self.others: dict[str, str] = {}  # used otherwise: by which operator first
        self.through: dict[Memory, set[str]] = {}  # worked out by products of these
        self.passed: set[str] = set()  # the same, of the operator's result
        self.seen: dict[Memory, set[Any]] = {}  # which factors have been judged

    def follows(self, case: Hashable) -> bool:
        return self.follow or case is None

    def origins(self, a: Tensor) -> set[str]:
        """The parameters that a tensor is, or is worked out from without the input."""
        cases = {case[0] for case in self.twins.cases_of(a) if isinstance(case, tuple)}
        return cases | set(self.twins.names(a))

    def zeros(self, a: Tensor) -> tuple[set[str], dict[str, str]]:
        """Whose zeros are zeros of a factor, and whose are not, with the reason."""
        if direct := self.twins.names(a):
            return set(direct), {}
        plain = a if (known := self.twins.of(a, None)) is None else known
        kept: dict[str, Tensor] = {}
        lost: dict[str, str] = {}
        origins = self.origins(a)
        names = [name for name in self.twins.parameters if name in origins]
        names.sort(key=lambda name: -self.twins.parameters[name].numel())
        for name in names:
            one, two = (self.twins.of(a, (name, second)) for second in (False, True))
            assert one is not None
            assert two is not None
            changed = (one != plain) | (two != plain)
            zero = (one == 0) | (two == 0)
            same_size = a.shape.numel() == self.twins.parameters[name].numel() and bool(
                changed.all()
            )
            if not changed.any():
                continue
            if bool((changed & ~zero).any()):
                lost[name] = "zeros in it are no zeros of the weight that is worked out from it"
            elif same_size and int((one == 0).sum()) != int(self.halves[name]().sum()):
                lost[name] = "the weight that is worked out from it has another share of zeros"
            elif scaled := [n for n, where in kept.items() if bool((where & changed).any())]:
                lost[name] = f"it scales the weight that is worked out from {scaled[0]}"
            else:
                kept[name] = changed
        return set(kept), lost

    def taken(self, func: Any, args: tuple[Any, ...], given: list[Tensor], moving: bool) -> None:
        name = name_of(func)
        looked = (
            {_memory(a) for a in _tensors(args[0])}
            if name in _LOOKUPS and any(self.moves(a) for a in given[1:])
            else set()
        )
        passed = set()
        for a in given:
            passed |= self.through.get(_memory(a), set())
            for origin in self.origins(a):
                if _memory(a) in looked:
                    self._judge(a, {origin})
                else:
                    met = name if moving or name in _LOOKUPS else ""
                    self.others[origin] = self.others.get(origin) or met
        self.passed = passed if not moving else set()

    def _judge(self, a: Tensor, names: set[str]) -> None:
        kept, lost = self.zeros(a)
        self.factors |= kept & names
        self.lost = {n: why for n, why in lost.items() if n in names} | self.lost

    def product(self, product: Product, out: Any) -> None:
        moving = not product.factors[1:] or any(self.moves(a) for a in product.factors)
        origins = [self.origins(a) for a in product.factors]
        for i, a in enumerate(product.factors):
            others = set[str]().union(*origins[:i], *origins[i + 1 :])
            if moving:
                # What a product of parameters gave meets the input: their zeros are lost in it.
                for name in self.through.get(_memory(a), set()) - self.theirs:
                    self.lost.setdefault(name, "what meets the input is a product of it")
            # What is no layer's, and is multiplied with a layer's weight, is a learned input.
            names = origins[i]
            if not moving and (weights := others & self.theirs):
                names = names & self.theirs
                self.inputs |= dict.fromkeys(origins[i] - names, min(weights))
            at = (a.storage_offset(), a.shape, a.stride())
            if names and at not in self.seen.setdefault(_memory(a), set()):
                self._judge(a, names)
                self.seen[_memory(a)].add(at)
        if not moving:
            self.passed |= set[str]().union(*origins)

    def made(self, out: Any, anew: set[Memory]) -> None:
        for memory in anew:
            self.seen.pop(memory, None)
            self.through.pop(memory, None)
        for memory in {_memory(a) for a in _tensors(out)} if self.passed else ():
            self.through[memory] = self.through.get(memory, set()) | self.passed

    def verdicts(self) -> dict[str, Verdict]:
        """Of the parameters that could be matrices and were used."""
        found = {}
        for name in self.halves:
            if name in self.inputs:
                why = f"it is a learned input, multiplied with {self.inputs[name]}"
                found[name] = Verdict(False, why)
            elif name in self.lost:
                found[name] = Verdict(False, self.lost[name])
            elif name in self.factors:
                found[name] = Verdict(True, "it is a factor of a product")
            elif name in self.others:
                how = self.others[name]
                by = f": it goes into {how}" if how else ""
                found[name] = Verdict(False, f"it is no factor of a product with the input{by}")
        return found


_known: weakref.WeakKeyDictionary[nn.Module, tuple[Any, dict[str, Verdict]]]
_known = weakref.WeakKeyDictionary()


def _state(model: nn.Module, x: Any) -> Any:
    """What the verdicts of a watched pass depend on, but for the values of the tensors."""
    named = [
        (n, id(p), p.shape, p.dtype) for n, p in model.named_parameters(remove_duplicate=False)
    ]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    shapes = [(type(x), *((a.shape, a.dtype) for a in _tensors(x)))]
    try:
        told: object = structure(model)
    except TypeError:  # something in it cannot be told from another: not known again
        told = object()
    return told, named, hooks, shapes


def watch(model: nn.Module, x: Any) -> Watched:
    """Watch one forward pass in eval mode on the first example of a batch.

    x: a batch as the model takes it, or a tuple or mapping of tensors.
    """
    x = first("watch", model, x)
    watched = repeatably(model, lambda: _watched(model, x))
    _known[model] = _state(model, x), watched.verdicts
    return watched


def _watched(model: nn.Module, x: Any) -> Watched:
    _, theirs = _all_by_class(model)
    judge = _Judge(dict(model.named_parameters()), theirs, x)
    with watching(model, judge):
        outputs = call(model, x)
    return Watched(outputs, judge.verdicts())


def verdicts(model: nn.Module, example: Any = None) -> dict[str, Verdict]:
    """Which parameters are matrices that feed a product, for every parameter of a model.

    Decided by the module that holds a parameter, and for parametrised weights by what zeros in them
    come to; with `example`, a batch, by a watched pass (see `watch`) for those that it uses. The
    result of a pass is remembered as long as model and example stay what they are. Where a pass
    cannot be watched the classes decide.

    Raises ValueError for parameters without values, and if the model fails on the example.
    """
    found, _ = _all_by_class(model)
    found |= _parametrised(model, found)
    if example is None:
        return found
    x = first("prunable", model, example)
    state, known = _known.get(model, (None, {}))
    if state != _state(model, x):
        try:
            known = watch(model, example).verdicts
        except Exception as error:
            known = {}
            if not _answers(model, x):
                raise ValueError(
                    f"prunable: {type(model).__name__} fails on the example in eval mode: {error}"
                ) from error
    for name, verdict in known.items():
        if not found[name].why.startswith((_LOST, _SCALE)):
            found[name] = verdict
    return found


def _answers(model: nn.Module, x: Any) -> bool:
    """Whether the model answers if nobody watches, which a few operators cannot bear."""
    try:
        with evaluating(model), torch.no_grad():
            call(model, x)
    except Exception:
        return False
    return True


_SCALE = "it is the scale of a normalisation"
_LOST = "behind its parametrisation: "


def _parametrised(model: nn.Module, by_class: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Verdicts on parameters whose zeros do not come through a parametrisation."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for module in model.modules():
        if not isinstance(module, parametrize.ParametrizationList):
            continue
        originals = {names[id(p)]: p for p in module.parameters()}
        judge = _Judge(originals, set(originals), (), follow=True)
        with watching(module, judge):
            weight = module()
        for name, why in judge.zeros(weight)[1].items():
            if by_class[name].feeds:
                found[name] = Verdict(False, _LOST + why)
    return found
