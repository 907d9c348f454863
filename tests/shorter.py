"""A notebook's code made quick, for where its outputs are not compared."""

import re

QUICK = dict(epochs=1, steps=20, stride=0.5, branches=2, examples=200, images=100)


def shorter(source):
    """The same code with trainings of an epoch, smaller trees, and searches that are coarser."""
    for name, value in QUICK.items():
        source = re.sub(rf"\b{name}=(0\.\d+|[2-9]\b|\d[\d_]+)", f"{name}={value}", source)
    return source
