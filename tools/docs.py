"""Build the reference from signatures and docstrings: ``python tools/docs.py [FOLDER]``.

Every public name of the package is in it; a method, and what trains, has its knobs as a table.
"""

import inspect
import pkgutil
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated, get_args, get_origin

import pdoc

import prunekit
from prunekit.knobs import helps, knobs
from prunekit.show import functions

ITEM = re.compile(r"^(\w+): ", re.MULTILINE)


def modules():
    """The names of the modules that have something public."""
    found = [name for _, name, _ in pkgutil.walk_packages(prunekit.__path__, "prunekit.")]
    public = [name for name in found if "._" not in name]
    return ["prunekit", *public]


def table(function):
    """The knobs of a method in Markdown: what stands there if one says nothing, what may stand
    there, and what it does."""
    said = helps(function)
    lines = ["| knob | default | may be | what it does |", "| --- | --- | --- | --- |"]
    for name, knob in knobs(function).items():
        cells = (f"`{name}`", f"`{knob.default!r}`", str(knob.rule), said.get(name, ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def written(text):
    """A docstring in Markdown: what it says of each argument becomes an item of a list."""
    return ITEM.sub(r"- **\1**: ", inspect.cleandoc(text))


def methods():
    return [*functions("baselines").values(), *functions("methods").values(), prunekit.fit]


def bare(signature):
    """A signature without the rules of its knobs, which the table tells."""
    parameters = [
        p.replace(annotation=get_args(p.annotation)[0])
        if get_origin(p.annotation) is Annotated
        else p
        for p in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def build(folder):
    """Write the reference into a folder."""
    for method in methods():
        head = inspect.cleandoc(method.__doc__ or "").split("\n\n")
        told = [part for part in head if not ITEM.match(part)]
        inspect.unwrap(method).__doc__ = "\n\n".join([*told, table(method)])
    whole = pdoc.doc.Function.signature.func
    pdoc.doc.Function.signature = property(lambda function: bare(whole(function)))
    plain = pdoc.docstrings.convert
    pdoc.docstrings.convert = lambda text, *more: plain(written(text), *more)
    footer = f"prunekit {prunekit.__version__}"
    pdoc.render.configure(footer_text=footer, include_undocumented=False)
    warnings.filterwarnings("ignore", "The module specification")  # some packages list their own
    pdoc.pdoc(*modules(), output_directory=Path(folder))


if __name__ == "__main__":
    out = sys.argv[1] if len(sys.argv) > 1 else "out/docs"
    build(out)
    print(f"open {out}/index.html")
