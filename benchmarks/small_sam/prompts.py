"""Batches of drawn scenes with prompts: everything a training step needs, a function of (seed, step) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from drawn_looks import look_parameters
from scenes import draw_scene
from scipy import ndimage

from casam_cache.fingerprint import generator

BOX_SHARE, UNION_SHARE, PIECE_SHARE = 0.7, 0.12, 0.2
PAD, NEGATIVE, POSITIVE, CORNER_0, CORNER_1 = -1, 0, 1, 2, 3


@dataclass(frozen=True)
class Batch:
    """B scenes with P prompts each, S the side of the input.

    Attributes:
        images: uint8 (B, S, S, 3), zero below and right of each valid part.
        valid: int (B, 2), rows and columns of the valid part, pixels.
        points: float32 (B, P, T, 2), x and y in input pixels.
        labels: int64 (B, P, T): `PAD`, `NEGATIVE`, `POSITIVE`, `CORNER_0` or `CORNER_1`, in SAM's order.
        boxes: bool (B, P), which prompts hold a box.
        targets: bool (B, P, S, S), the objects.
        figure: bool (B, 2, S, S): where there is any object, and where a pixel and the one before it differ in one.
        looks: int64 (B,), kind of look; scenes 2i and 2i + 1 share a look.
        appearance: float32 (B, A): the look's parameters, then mean and deviation of each channel.
    """

    images: np.ndarray
    valid: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    targets: np.ndarray
    figure: np.ndarray
    looks: np.ndarray
    appearance: np.ndarray


def box_of(mask: np.ndarray) -> np.ndarray:
    """The tight box x0, y0, x1, y1 of a bool mask (H, W), inclusive pixel indexes."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def jittered(rng: np.random.Generator, box: np.ndarray, side: int) -> np.ndarray:
    """The box as a person might draw it: exact in two of three cases, else each edge off by about 4 %."""
    if rng.random() < 0.67:
        return box
    size = np.maximum(box[2:] - box[:2], 1)
    noise = np.clip(rng.normal(0, 0.04, 4), -0.1, 0.1) * np.tile(size, 2) + rng.normal(0, side / 400, 4)
    moved = np.clip(box + noise, 0, side - 1)
    return moved if (moved[2:] > moved[:2]).all() else box


def _point(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    inside = np.flatnonzero(mask)
    row, column = divmod(int(inside[rng.integers(inside.size)]), mask.shape[1])
    return np.array([column, row], dtype=np.float32)


def _chosen(rng: np.random.Generator, masks: list[np.ndarray], count: int) -> list[np.ndarray]:
    """`count` masks to prompt: every object about as often, now and then several as one, or one piece of many.

    A set of one value a mask file prompts a whole image of lesions or vertebrae with one box; the components of a mask
    drawn by hand are often specks of a few pixels that only the box can tell.
    """
    rounds = -(-count // len(masks))
    order = np.concatenate([rng.permutation(len(masks)) for _ in range(rounds)])[:count]
    found = []
    for choice in order:
        mask = masks[choice]
        if len(masks) > 1 and rng.random() < UNION_SHARE:
            others = len(masks) if rng.random() < 0.5 else int(rng.integers(2, len(masks) + 1))
            mask = np.logical_or.reduce([masks[i] for i in rng.permutation(len(masks))[:others]])
        elif rng.random() < PIECE_SHARE:
            pieces, number = ndimage.label(mask, np.ones((3, 3)))
            if number > 1:
                mask = pieces == rng.integers(1, number + 1)
        found.append(mask)
    return found


def _prompt(rng: np.random.Generator, mask: np.ndarray, extra: bool) -> tuple[list, list[int], bool]:
    """Points and labels of one prompt, in SAM's order: points, padding point (only without a box), corners; box?"""
    box = bool(rng.random() < BOX_SHARE)
    points: list[np.ndarray] = []
    labels: list[int] = []
    tight = box_of(mask)
    if not box:
        points.append(_point(rng, mask))
        labels.append(POSITIVE)
    if extra:
        around = np.zeros_like(mask)
        x0, y0, x1, y1 = tight.astype(int)
        around[y0 : y1 + 1, x0 : x1 + 1] = ~mask[y0 : y1 + 1, x0 : x1 + 1]
        negative = rng.random() < 0.4 and bool(around.any())
        points.append(_point(rng, around if negative else mask))
        labels.append(NEGATIVE if negative else POSITIVE)
    if box:
        drawn = jittered(rng, tight, max(mask.shape))
        points += [drawn[:2], drawn[2:]]
        labels += [CORNER_0, CORNER_1]
    else:
        points.append(np.zeros(2, np.float32))
        labels.append(PAD)
    return points, labels, box


def _figure(masks: list[np.ndarray]) -> np.ndarray:
    edges = np.zeros_like(masks[0])
    for mask in masks:
        edges[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        edges[1:] |= mask[1:] != mask[:-1]
    return np.stack([np.logical_or.reduce(masks), edges])


def draw_batch(seed: int, step: int, side: int, images: int, prompts: int, ease: float = 0.0) -> Batch:
    """The batch of one step; every eighth step adds a correcting point to each prompt. `ease` as of `draw_scene`."""
    rng = generator("small-sam-batch", seed, step)
    extra = step % 8 == 7
    pictures = np.zeros((images, side, side, 3), np.uint8)
    targets = np.zeros((images, prompts, side, side), bool)
    figure = np.zeros((images, 2, side, side), bool)
    valid, points, labels, boxes, looks, appearance = [], [], [], [], [], []
    for place in range(images):
        number = step * 1000 + place
        scene = draw_scene(number, seed, side, look=number - number % 2, ease=ease)
        height, width = scene.image.shape[:2]
        pictures[place, :height, :width] = scene.image
        valid.append((height, width))
        figure[place, :, :height, :width] = _figure(scene.masks)
        looks.append(scene.look.kind)
        pixels = scene.image.reshape(-1, 3)[::7].astype(np.float32) / 64 - 2
        appearance.append(np.concatenate([look_parameters(scene.look), pixels.mean(0), pixels.std(0) * 2]))
        for slot, mask in enumerate(_chosen(rng, scene.masks, prompts)):
            targets[place, slot, :height, :width] = mask
            where, what, box = _prompt(rng, targets[place, slot], extra)
            points.append(where)
            labels.append(what)
            boxes.append(box)
    shape = (images, prompts)
    return Batch(
        pictures,
        np.array(valid),
        np.array(points, np.float32).reshape(*shape, -1, 2),
        np.array(labels, np.int64).reshape(*shape, -1),
        np.array(boxes).reshape(shape),
        targets,
        figure,
        np.array(looks, np.int64),
        np.array(appearance, np.float32),
    )


@dataclass(frozen=True)
class Prompted:
    """P prompts on each of B scenes whose embeddings are known: the fields of `Batch` that a decoder needs."""

    points: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    targets: np.ndarray


def prompt_again(seed: int, step: int, scenes: list[list[np.ndarray]], side: int, prompts: int) -> Prompted:
    """New prompts on the masks (H, W) of known scenes, a function of its arguments alone."""
    rng = generator("small-sam-prompts", seed, step)
    targets = np.zeros((len(scenes), prompts, side, side), bool)
    drawn = []
    for place, masks in enumerate(scenes):
        for slot, mask in enumerate(_chosen(rng, masks, prompts)):
            targets[place, slot, : mask.shape[0], : mask.shape[1]] = mask
            drawn.append(_prompt(rng, targets[place, slot], step % 8 == 7))
    points, labels, boxes = (np.array(part) for part in zip(*drawn, strict=True))
    shape = (len(scenes), prompts)
    return Prompted(
        points.astype(np.float32).reshape(*shape, -1, 2),
        labels.astype(np.int64).reshape(*shape, -1),
        boxes.reshape(shape),
        targets,
    )
