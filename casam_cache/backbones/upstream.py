"""The one place that imports `segment_anything`: its model classes, without its package `__init__`.

`import segment_anything` also imports the predictor and the automatic mask generator, which need torchvision:
seconds of start-up, and absent on many CPU-only installations, for parts that nothing here uses. The classes
live in `segment_anything/modeling`, which needs only torch, so that sub-package is loaded alone, under a name
of our own; a program that imports `segment_anything` itself is not disturbed.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from casam_cache.errors import CasamError

_ALIAS = "casam_cache.backbones._segment_anything_modeling"


def _load_modeling() -> ModuleType:
    if _ALIAS in sys.modules:
        return sys.modules[_ALIAS]
    package = importlib.util.find_spec("segment_anything")
    if package is None or not package.submodule_search_locations:
        raise CasamError("the package segment_anything is not installed", "pip install segment-anything")
    folder = f"{package.submodule_search_locations[0]}/modeling"
    spec = importlib.util.spec_from_file_location(
        _ALIAS, f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_ALIAS] = module
    spec.loader.exec_module(module)
    return module


_modeling = _load_modeling()
ImageEncoderViT = _modeling.ImageEncoderViT
MaskDecoder = _modeling.MaskDecoder
PromptEncoder = _modeling.PromptEncoder
TwoWayTransformer = _modeling.TwoWayTransformer
get_rel_pos = _modeling.image_encoder.get_rel_pos
