"""Looks: how a drawn label map becomes an image, from CT-like to photo-like, with the parameters kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from casam_cache.datasets.scenes.fields import field, resize
from casam_cache.fingerprint import generator

LOOKS = (
    "ct", "mr", "ultrasound", "xray", "stain-purple", "stain-other", "endoscopy", "photo", "fluorescence", "grey",
)  # fmt: skip
_COLOUR = {"stain-purple", "stain-other", "endoscopy", "photo"}


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
        """The look's name, one of `LOOKS`."""
        return LOOKS[self.kind]

    @property
    def parameters(self) -> np.ndarray:
        """(LOOK_PARAMETERS,) float32, each of order one: what a model can be asked to tell from the image."""
        numbers = [
            self.contrast * 4, self.grain * 6, np.log2(self.unit * 100), self.softness * 80, self.blur * 200,
            self.noise * 20, self.speckle * 2, self.shading * 2, self.vignette * 2, self.highlights,
            np.log2(self.coarse), (self.gamma - 1) * 2, self.outside * 2, float(self.view),
        ]  # fmt: skip
        return np.concatenate([numbers, self.base * 2, self.axes.mean(0) * 2]).astype(np.float32)


LOOK_PARAMETERS = 20


def draw_look(seed: int, index: int, ease: float = 0.0) -> Look:
    """Look number `index` of `seed`: kinds in equal parts, every parameter drawn.

    With `ease` up to 1 the same look has more contrast and less texture, noise and blur.
    """
    rng = generator("scene-look", seed, index)
    kind = int(rng.integers(len(LOOKS)))
    name = LOOKS[kind]

    def some(probability: float, low: float, high: float) -> float:
        value = float(rng.uniform(low, high))
        return value if rng.random() < probability else 0.0

    if name in _COLOUR:
        base, axes = _colours(rng, name)
    elif name == "fluorescence" and rng.random() < 0.5:
        tint = rng.uniform(0, 1, 3)
        base, axes = tint * 0.3, (tint / max(tint.max(), 0.1))[None, :] * np.ones((1, 1))
    else:
        sign = -1.0 if rng.random() < 0.1 else 1.0
        base = np.full(3, rng.uniform(0.2, 0.65) if sign > 0 else rng.uniform(0.4, 0.8))
        axes = np.full((1, 3), sign)
        if rng.random() < 0.1:  # a grey image stored with a slight tint
            axes = axes * rng.uniform(0.8, 1.1, 3)
    contrast = float(
        rng.choice(
            [rng.uniform(0.04, 0.1), rng.uniform(0.1, 0.22), rng.uniform(0.22, 0.45)], p=[0.3, 0.45, 0.25]
        )
    )
    wet = name == "ultrasound"
    look = Look(
        kind=kind,
        base=base.astype(np.float32),
        axes=axes.astype(np.float32),
        contrast=contrast,
        grain=float(rng.uniform(0.01, 0.05) if name in {"ct", "xray"} else rng.uniform(0.02, 0.16)),
        unit=float(np.exp(rng.uniform(np.log(0.006), np.log(0.03)))),
        softness=float(rng.choice([rng.uniform(0.002, 0.008), rng.uniform(0.008, 0.05)], p=[0.65, 0.35])),
        blur=some(0.6, 0.001, 0.006) + (some(0.6, 0.002, 0.008) if name in {"xray", "mr"} else 0.0),
        noise=some(0.7, 0.005, 0.06),
        speckle=float(rng.uniform(0.25, 0.8)) if wet else some(0.06, 0.1, 0.4),
        shading=some(0.7, 0.05, 0.5),
        vignette=some(0.7 if name == "endoscopy" else 0.15, 0.2, 0.8),
        highlights=some(0.8 if name == "endoscopy" else 0.08, 0.3, 1.0),
        coarse=float(rng.uniform(1.5, 5.0)) if rng.random() < 0.2 else 1.0,
        gamma=float(np.exp(rng.uniform(-0.45, 0.45))),
        outside=float(rng.uniform(0.8, 1.0)) if name.startswith("stain") else float(rng.uniform(0.0, 0.08)),
        view=int(rng.choice(3, p=_VIEWS.get(name, (0.6, 0.3, 0.1)))),
    )
    if not ease:
        return look
    calm = 1 - 0.7 * ease
    return replace(
        look,
        contrast=min(0.45, look.contrast * (1 + 1.5 * ease)),
        grain=look.grain * calm,
        noise=look.noise * calm,
        speckle=look.speckle * calm,
        shading=look.shading * calm,
        blur=look.blur * calm,
        coarse=1 + (look.coarse - 1) * calm,
    )


_VIEWS = {
    "ct": (0.25, 0.7, 0.05),
    "mr": (0.4, 0.55, 0.05),
    "ultrasound": (0.5, 0.1, 0.4),
    "endoscopy": (0.5, 0.0, 0.5),
    "stain-purple": (0.65, 0.35, 0.0),
    "stain-other": (0.65, 0.35, 0.0),
    "photo": (1.0, 0.0, 0.0),
}


def _colours(rng: np.random.Generator, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Base colour (3,) and two or three colour axes (L, 3) of a coloured look."""
    if name == "endoscopy":
        base = np.array([rng.uniform(0.5, 0.8), rng.uniform(0.25, 0.5), rng.uniform(0.15, 0.4)])
        axes = np.array([[1.0, 0.8, 0.7], [0.3, -0.4, -0.3]]) * rng.uniform(0.7, 1.2, (2, 3))
    elif name == "stain-purple":
        base = np.array([rng.uniform(0.65, 0.9), rng.uniform(0.4, 0.7), rng.uniform(0.6, 0.85)])
        axes = np.array([[0.9, 1.2, 0.6], [0.5, -0.2, -0.3]]) * rng.uniform(0.7, 1.3, (2, 3))
    elif name == "stain-other":
        base = rng.uniform(0.45, 0.9, 3)
        axes = np.array([rng.uniform(0.5, 1.2, 3), rng.uniform(-0.6, 0.6, 3)])
    else:
        base = rng.uniform(0.3, 0.65) + rng.uniform(-0.12, 0.12, 3)
        axes = np.stack([np.ones(3), rng.uniform(-0.8, 0.8, 3), rng.uniform(-0.8, 0.8, 3)])
    return base, axes


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
