"""Drawn training scenes: images with many object masks, in the looks of many modalities, each from its number alone.

No outside data enters: a scene is label shapes (layouts) painted as kinds of tissue (canvas) and seen through an
acquisition (looks). Two scenes with the same look number share the look and nothing else.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from drawn_looks import draw_look
from layouts import LAYOUTS, backdrop
from PIL import Image
from scene_canvas import SceneCanvas

from casam_cache.datasets.phantoms.looks import Look, render
from casam_cache.fingerprint import generator

REVISION = 3
"""Raised whenever the same number gives another scene: what was trained on drawn scenes notes it."""

SMALLEST, LARGEST = 0.00003, 0.7


@dataclass(frozen=True)
class Scene:
    """One drawn image.

    Attributes:
        image: uint8 (H, W, 3); the long side is the size asked for.
        masks: bool (H, W) each, one an object; they may overlap (a part and its whole).
        look: the look it was drawn with.
    """

    image: np.ndarray
    masks: list[np.ndarray]
    look: Look


def draw_scene(
    index: int, seed: int = 0, size: int = 256, look: int | None = None, ease: float = 0.0
) -> Scene:
    """Scene number `index` of `seed`.

    Args:
        index: number of the scene.
        seed: of the whole series.
        size: long side, pixels; a quarter of the scenes are not square.
        look: number of the look, `index` by default; scenes of one number share their look.
        ease: 0 as they are, up to 1 for more contrast, less noise and no tiny objects, to start a training.

    Returns:
        A scene with at least one mask of 0.003 to 70 % of the image.
    """
    style = draw_look(seed, index if look is None else look, ease)
    for attempt in range(20):
        scene = _draw(generator("scene", seed, index, attempt), size, style, SMALLEST + 0.005 * ease)
        if scene.masks:
            return scene
    raise AssertionError(f"no object in 20 attempts at scene {index} of seed {seed}")


def _draw(rng: np.random.Generator, size: int, look: Look, smallest: float) -> Scene:
    height = width = size
    if rng.random() < 0.25:
        short = round(size * float(rng.uniform(0.5, 1.0)))
        height, width = (short, size) if rng.random() < 0.7 else (size, short)
    canvas = SceneCanvas(rng, height, width, look)
    backdrop(canvas, int(rng.integers(0, 3)))
    chances = np.array([weight for _, weight in LAYOUTS])
    for _ in range(2 if rng.random() < 0.3 else 1):
        LAYOUTS[rng.choice(len(LAYOUTS), p=chances / chances.sum())][0](canvas)
    seen = _view(canvas)
    masks = canvas.masks
    if seen is not None:
        masks = [mask & (seen > 0.5) for mask in masks]
    area = height * width
    masks = [mask for mask in masks if smallest * area <= np.count_nonzero(mask) <= LARGEST * area]
    return Scene(render(rng, canvas.latent, look, seen), masks, look)


def _view(canvas: SceneCanvas) -> np.ndarray | None:
    """What is seen, float32 (H, W) in [0, 1]: everything (None), a body in empty space, or a fan or disk."""
    rng, look = canvas.rng, canvas.look
    if look.view == 0:
        return None
    seen = np.zeros((canvas.height, canvas.width), np.float32)
    x, y = canvas.width * rng.uniform(0.45, 0.55), canvas.height * rng.uniform(0.45, 0.55)
    if look.view == 1:
        shape = canvas.blob(x, y, canvas.width * rng.uniform(0.38, 0.55), canvas.height * rng.uniform(0.38, 0.55),
                            0.0, 0.1, float(rng.choice([2.0, 3.0])))  # fmt: skip
    elif look.name == "ultrasound":
        spread, top = rng.uniform(0.5, 0.8), -canvas.height * rng.uniform(0.02, 0.3)
        turn = np.linspace(math.pi / 2 - spread, math.pi / 2 + spread, 16)
        reach = canvas.height * 1.0 - top
        arc = np.stack([x + reach * np.cos(turn), top + reach * np.sin(turn)], 1)
        shape = canvas.drawn(np.concatenate([[[x, top]], arc]), None)
    else:
        reach = canvas.side * rng.uniform(0.45, 0.6)
        shape = canvas.blob(x, y, reach, reach, 0.0, 0.0, float(rng.choice([2.0, 5.0])))
    seen[shape.rows, shape.columns] = shape.cover
    return seen


def contact_sheet(indexes: list[int], seed: int = 0, size: int = 192, columns: int = 8) -> Image.Image:
    """A sheet of scenes, each above itself with every object tinted in a colour of its own."""
    rows = -(-len(indexes) // columns)
    sheet = Image.new("RGB", (columns * size, rows * 2 * size))
    for place, index in enumerate(indexes):
        scene = draw_scene(index, seed, size)
        tinted = scene.image.astype(np.float32)
        for number, mask in enumerate(scene.masks):
            colour = 127.5 + 127.5 * np.cos(np.array([0.0, 2.1, 4.2]) + 2.4 * number)
            tinted[mask] = tinted[mask] * 0.55 + colour * 0.45
        left, top = place % columns * size, place // columns * 2 * size
        sheet.paste(Image.fromarray(scene.image), (left, top))
        sheet.paste(Image.fromarray(tinted.astype(np.uint8)), (left, top + size))
    return sheet


def main(arguments: list[str] | None = None) -> None:
    """Writes a contact sheet."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of scenes, each above its objects.")
    parser.add_argument("out", type=Path, help="image file to write; it must not exist")
    parser.add_argument("--seed", type=int, default=0, help="of the series of scenes")
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--count", type=int, default=40, help="how many scenes")
    parser.add_argument("--size", type=int, default=192, help="long side of a scene, pixels")
    options = parser.parse_args(arguments)
    if options.out.exists():
        parser.error(f"{options.out} exists: name another file, or remove it")
    indexes = list(range(options.first, options.first + options.count))
    contact_sheet(indexes, options.seed, options.size).save(options.out)


if __name__ == "__main__":
    main()
