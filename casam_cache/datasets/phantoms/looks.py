"""Looks: how a drawn label map becomes an image, from CT-like to photo-like, with the parameters kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from casam_cache.datasets.phantoms.fields import field, resize

LOOKS = (
    "ct", "mr", "ultrasound", "xray", "stain-purple", "stain-other", "endoscopy", "photo", "fluorescence", "grey",
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """Everything global about the appearance of a scene; two scenes of one look share it.

    Attributes:
        kind: index into `LOOKS`.
        base: (3,) colour where all latent channels are zero, 0-1.
        axes: (L, 3) colour of each of the L latent channels that layouts paint.
        contrast: typical step between neighbouring kinds, in latent units.
        grain: strength of textures inside kinds.
        unit: size of a texture detail, as a fraction of the long side.
        softness: width of a boundary, fraction of the long side.
        blur, noise, speckle, shading, vignette, highlights: strengths of the acquisition's effects.
        coarse: how many times fewer pixels the acquisition had; 1 for none.
        gamma: exponent on the final values.
        outside: brightness outside the body or the field of view, 0-1.
        view: 0 the whole image is tissue, 1 a body in empty space, 2 a fan or disk of view.
    """

    kind: int
    base: np.ndarray
    axes: np.ndarray
    contrast: float
    grain: float
    unit: float
    softness: float
    blur: float
    noise: float
    speckle: float
    shading: float
    vignette: float
    highlights: float
    coarse: float
    gamma: float
    outside: float
    view: int

    @property
    def name(self) -> str:
        return LOOKS[self.kind]


def render(rng: np.random.Generator, latent: np.ndarray, look: Look, seen: np.ndarray | None) -> np.ndarray:
    """The image of painted latent channels.

    Args:
        rng: noise of this scene.
        latent: float32 (H, W, L), about -1 to 1; zero is the base colour.
        look: the look.
        seen: float32 (H, W) in [0, 1], zero outside the field of view; None when everything is seen.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = latent.shape[:2]
    side = max(height, width)
    grey = bool(np.all(look.axes == look.axes[:, :1])) and bool(np.all(look.base == look.base[:1]))
    columns = 1 if grey else 3
    value = latent @ look.axes[:, :columns] + look.base[:columns]
    gain = np.ones((height, width), dtype=np.float32)
    if look.shading:
        gain += np.float32(look.shading * 0.4) * field(
            rng, height, width, side * float(rng.uniform(0.4, 1.0))
        )
    if look.vignette:
        rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - np.float32(rng.uniform(-0.4, 0.4))
        across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] - np.float32(rng.uniform(-0.4, 0.4))
        gain *= 1 - np.float32(look.vignette * 0.5) * (rows * rows + across * across)
    if look.speckle:
        cell = look.unit * side * 0.6
        sheet = field(rng, height, width, cell), field(rng, height, width, cell)
        gain *= 1 + np.float32(look.speckle) * (np.hypot(*sheet) * np.float32(0.8) - 1)
    value = value * np.clip(gain, 0.05, 2.0)[..., None]
    if look.highlights:
        spots = field(rng, height, width, side * float(rng.uniform(0.015, 0.05)))
        value = value + np.float32(look.highlights) * np.clip((spots - 2.3) * 3, 0, 1)[..., None]
    if seen is not None:
        value = value * seen[..., None] + np.float32(look.outside) * (1 - seen[..., None])
    if look.coarse > 1:
        small = max(8, round(height / look.coarse)), max(8, round(width / look.coarse))
        value = np.stack([resize(resize(v, *small), height, width) for v in np.moveaxis(value, 2, 0)], axis=2)
    if look.noise:
        value = value + np.float32(look.noise) * rng.standard_normal(value.shape, dtype=np.float32)
    value = np.clip(value, 0, 1) ** np.float32(look.gamma)
    image = (value * 255 + 0.5).astype(np.uint8)
    picture = Image.fromarray(image[..., 0] if grey else image)
    if look.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(look.blur * side))
    return np.asarray(picture.convert("RGB"))
