"""How published SAMs see an image: the three ways of preprocessing that their weights were trained with, by name.

| preset | resize | range |
|---|---|---|
| `sam` | long side to S, Pillow's bilinear filter | ImageNet's mean and deviation |
| `medsam` | both sides to S, cubic with anti-aliasing | each image's least and largest value to 0 and 1 |
| `lite_medsam` | long side to S, Pillow's bilinear filter | each image's least and largest value to 0 and 1 |

All set what lies beside the image to zero *after* that. A preset is part of a store's identity, and goes with weights:
under another one they see what they were not trained on. No torch is imported here: the processes that decode images
run `prepare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casam_cache.backbones.architecture import PIXEL_MEAN, PIXEL_STD
from casam_cache.backbones.preprocess import resize_cubic, resize_for_encoder
from casam_cache.errors import unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from casam_cache.geometry import Geometry


@dataclass(frozen=True)
class Preset:
    """One way of preprocessing.

    Attributes:
        name: what `--preprocess` takes.
        resize: of `casam_cache.geometry.RESIZE_MODES`, unless another is asked for.
        cubic: resized as MedSAM does, instead of SAM's way.
        minmax: each image's own range to [0, 1], instead of ImageNet's mean and deviation.
    """

    name: str
    resize: str
    cubic: bool
    minmax: bool

    def prepare(self, image: np.ndarray, geometry: Geometry) -> np.ndarray:
        """See `Backbone.prepare`."""
        return resize_cubic(image, geometry) if self.cubic else resize_for_encoder(image, geometry)

    def normalise(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """See `Backbone.normalise`.

        With `minmax`, x -> (x - min) / max(max - min, 1e-8) over the image's pixels and channels, as MedSAM has it.
        """
        import torch

        from casam_cache.backbones.encoder import inside

        valid = inside(sizes, pixels.shape[-1])[:, None]
        zero = torch.zeros((), device=pixels.device)
        if not self.minmax:
            mean, deviation = (
                torch.tensor(values, device=pixels.device).view(-1, 1, 1)
                for values in (PIXEL_MEAN, PIXEL_STD)
            )
            return torch.where(valid, (pixels - mean) / deviation, zero)
        values = pixels.float()
        least = values.masked_fill(~valid, 255.0).amin((1, 2, 3), keepdim=True)
        most = values.masked_fill(~valid, 0.0).amax((1, 2, 3), keepdim=True)
        return torch.where(valid, (values - least) / (most - least).clamp(min=1e-8), zero)

    def describe(self) -> dict[str, Any]:
        """Plain JSON for a store's identity. SAM's own has no name there, nor had stores before there were presets."""
        told: dict[str, Any] = {"interpolation": "skimage-cubic" if self.cubic else "pillow-bilinear"}
        told["padding"] = "zero after normalisation, bottom and right"
        if self.minmax:
            return {"preset": self.name, **told, "range": "least and largest value of each image to 0 and 1"}
        return {**told, "mean": list(PIXEL_MEAN), "std": list(PIXEL_STD)}


SAM = Preset("sam", "longest", cubic=False, minmax=False)
MEDSAM = Preset("medsam", "stretch", cubic=True, minmax=True)
LITE_MEDSAM = Preset("lite_medsam", "longest", cubic=False, minmax=True)
PRESETS = {preset.name: preset for preset in (SAM, MEDSAM, LITE_MEDSAM)}
# What files are called that were trained with another preset than their architecture's; the first match counts.
_NAMED = {"lite_medsam": LITE_MEDSAM, "litemedsam": LITE_MEDSAM, "medsam": MEDSAM}


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        OptionError: there is none.
    """
    if name not in PRESETS:
        raise unknown_name("preprocessing", name, list(PRESETS))
    return PRESETS[name]


def preset_of(preprocessing: dict[str, Any]) -> Preset | None:
    """The preset that a store's identity names under "preprocessing"; None where a backbone has its own way."""
    if "preset" in preprocessing:
        return preset_named(str(preprocessing["preset"]))
    return SAM if "mean" in preprocessing else None


def preset_of_file(path: Path) -> Preset | None:
    """The preset that weights of this file's name were trained with; None where the name tells nothing."""
    name = path.name.lower().replace("-", "_")
    return next((preset for part, preset in _NAMED.items() if part in name), None)
