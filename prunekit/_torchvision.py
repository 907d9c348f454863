"""Import torchvision also where a CPU build of torch meets torchvision's default Linux wheel.

That wheel brings compiled operators that such a torch cannot load, and the import then fails with
"operator torchvision::nms does not exist". Data sets, transforms and models need none of them;
declaring the two operators that torchvision looks up lets the rest be imported.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_library: Any = None  # torch forgets the declarations when this object goes


def torchvision() -> ModuleType:
    """The torchvision package. Raises ImportError if it is missing or beyond mending."""
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported
    _library = torch.library.Library("torchvision", "FRAGMENT")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
