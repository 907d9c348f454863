"""Keys of code, which comments and docstrings do not change."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
import uuid
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from prunekit._files import describe, digest

# Code whose source cannot be read is the same only as long as this process lives.
PROCESS = uuid.uuid4().hex
UNREADABLE = "source cannot be read"
# Where many things come from, one of which Python 3.13 may take for another.
NOWHERE = ("<string>", "<stdin>")


def code_key(*things: Any) -> str:
    """16 hex digits over the syntax trees, without docstrings, of functions and classes.

    With a function go the functions, classes and constants of its own module that it names, and
    what these name in turn; with a partial function what it holds, with a bound method its class,
    with a module the classes of all modules in it. Code of torch is known by its name.

    Where a source cannot be read, as of what was typed into a console, the key says so, and is
    another one in every process.
    """
    texts: dict[str, str] = {}
    for thing in things:
        for name, part in _named(thing):
            _read(name, part, texts)
    if UNREADABLE in texts.values():
        return f"{UNREADABLE}, process {PROCESS}"
    return digest(texts)


def _named(thing: Any) -> Iterator[tuple[str, Any]]:
    """The functions and classes that a thing's behaviour is written in."""
    if thing is None or isinstance(thing, (str, bytes, int, float)):
        return
    if isinstance(thing, functools.partial):
        for part in (thing.func, *thing.args, *thing.keywords.values()):
            if callable(part):
                yield from _named(part)
    elif isinstance(thing, nn.Module):
        for kind in {type(module): None for module in thing.modules()}:
            yield from _named(kind)
    elif inspect.ismethod(thing):
        yield from _named(type(thing.__self__))
    elif isinstance(thing, type) or hasattr(thing, "__qualname__"):
        thing = inspect.unwrap(thing)
        yield f"{thing.__module__}.{thing.__qualname__}", thing
    else:
        yield from _named(type(thing))


def _read(name: str, thing: Any, texts: dict[str, str]) -> None:
    """Add the tree of a function or class, and of what it names in its module, to `texts`."""
    if name in texts or name.partition(".")[0] in ("torch", "torchvision", "builtins"):
        return
    try:
        if getattr(getattr(thing, "__code__", None), "co_filename", "") in NOWHERE:
            raise OSError
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError):
        texts[name] = UNREADABLE
        return
    texts[name] = ast.dump(_without_docstrings(tree))
    home = sys.modules.get(thing.__module__)
    scope = thing.__globals__ if isinstance(thing, FunctionType) else vars(home or object())
    for other in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
        if other not in scope:
            continue
        value = inspect.unwrap(scope[other]) if callable(scope[other]) else scope[other]
        own = getattr(value, "__module__", None) == thing.__module__
        if own and isinstance(value, (FunctionType, type)):
            _read(f"{value.__module__}.{value.__qualname__}", value, texts)
        elif not isinstance(value, (ModuleType, FunctionType, type)):
            _read_constant(f"{thing.__module__}.{other}", other, value, home, texts)


def _read_constant(
    name: str, short: str, value: Any, home: ModuleType | None, texts: dict[str, str]
) -> None:
    """Add a constant of a module as it is assigned there, or else its content."""
    if name in texts:
        return
    if short in (assigned := _assigned(home)):
        texts[name] = assigned[short]
        return
    try:
        texts[name] = describe(value)
    except TypeError:  # as torch's own objects: nothing that the text of the code decides
        texts[name] = type(value).__qualname__


def _assigned(home: ModuleType | None) -> dict[str, str]:
    """The constants of a module as they are written there, by name; none of a notebook's cells."""
    try:
        return _assignments(inspect.getsource(home)) if home is not None else {}
    except (OSError, TypeError, SyntaxError):
        return {}


@functools.lru_cache(maxsize=32)  # a module is asked for each of its constants
def _assignments(source: str) -> dict[str, str]:
    trees: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    trees.setdefault(target.id, ast.dump(node))
    return trees


def _without_docstrings(tree: ast.AST) -> ast.AST:
    """The tree without what does not change results: docstrings, and the checks of arguments."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            node.decorator_list = [d for d in node.decorator_list if not _checks(d)]
        match getattr(node, "body", None):
            case [ast.Expr(value=ast.Constant(value=str())) as text, *rest] as body:
                body[:] = rest or [ast.copy_location(ast.Pass(), text)]
    return tree


def _checks(decorator: ast.expr) -> bool:
    decorator = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(decorator, ast.Name) and decorator.id == "checked"
