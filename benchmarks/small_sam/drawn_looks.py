"""Looks drawn at random, of which every scene has one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from casam_cache.datasets.phantoms.looks import LOOKS, Look
from casam_cache.fingerprint import generator

_COLOUR = {"stain-purple", "stain-other", "endoscopy", "photo"}
LOOK_PARAMETERS = 20


def look_parameters(look: Look) -> np.ndarray:
    """(LOOK_PARAMETERS,) float32, each of order one: what a model can be asked to tell from the image."""
    numbers = [
        look.contrast * 4, look.grain * 6, np.log2(look.unit * 100), look.softness * 80, look.blur * 200,
        look.noise * 20, look.speckle * 2, look.shading * 2, look.vignette * 2, look.highlights,
        np.log2(look.coarse), (look.gamma - 1) * 2, look.outside * 2, float(look.view),
    ]  # fmt: skip
    return np.concatenate([numbers, look.base * 2, look.axes.mean(0) * 2]).astype(np.float32)


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
