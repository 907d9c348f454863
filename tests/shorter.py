"""A notebook's code made quick, for where its outputs are not compared."""

import re

QUICK = dict(
    epochs=1, rounds=5, steps=20, stride=0.5, branches=2, sparsity=0.5,
    examples=200, images=100, validation=300,
)  # fmt: skip
FEWER = f"fewer(train=1_000, validation={QUICK['validation']}, test=500)"
# For what a kernel already holds: `digits`, and knobs that several cells share.
HELD = f"""digits = digits.{FEWER}
def shorten_what_is_held():
    for held in [*globals().values()]:
        for name, value in {QUICK}.items() if isinstance(held, dict) else ():
            if isinstance(held.get(name), (int, float)) and held[name] not in (0, 1):
                held[name] = value
shorten_what_is_held()
"""


def shorter(source):
    """The same code with trainings of an epoch on fewer images, smaller trees, and searches that
    are coarser."""
    for name, value in QUICK.items():
        source = re.sub(rf"\b{name}=(0\.\d+|[2-9]\b|\d[\d_]+)", f"{name}={value}", source)
    return source.replace("mnist_small()", f"mnist_small().{FEWER}")
