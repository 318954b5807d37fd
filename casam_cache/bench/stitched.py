"""Objects of a large image by prompts: each tile that a prompt meets is asked, and the answers are blended.

In an overlap the logits of the tiles that were asked are averaged, each with a weight that rises from 0 at the border
of its tile to 1 where the overlap ends. Tiles are encoded once, row by row; what is held are the low-res logits of
objects that wait for a further tile, and one object at full size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from casam_cache.backbones.prompts import upscale
from casam_cache.bench.objects import answered, check_prompts
from casam_cache.bench.predict import Predictor
from casam_cache.bench.prompt_file import ObjectPrompt
from casam_cache.bench.tiled_image import LargeImage
from casam_cache.cutout import Cutout
from casam_cache.datasets.sample import DEFAULT_MAX_PIXELS
from casam_cache.datasets.tiles import Tile
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry

_Span = tuple[int, int, int, int]  # of `Grid.spans`


@dataclass(frozen=True)
class StitchedObject:
    """One object of a large image.

    Attributes:
        prompt: what asked for it.
        mask: where it is; None of an empty one.
        score: the decoder's own estimate of its IoU, the mean over its tiles by the pixels that each found.
        tiles: that were asked.
        area: its pixels.
    """

    prompt: ObjectPrompt
    mask: Cutout | None
    score: float
    tiles: int
    area: int

    def without_mask(self) -> StitchedObject:
        """The same, holding no pixels."""
        return replace(self, mask=None)


@dataclass
class _Answer:
    """What one tile says of an object: low-res logits (L, L), their score, and the pixels that are positive."""

    tile: Tile
    low_res: np.ndarray
    geometry: Geometry
    score: float
    area: int


@dataclass
class _Waiting:
    """An object, the tiles that are still to be asked, and the answers so far."""

    prompt: ObjectPrompt
    left: int
    answers: list[_Answer] = field(default_factory=list)


def stitch(
    predictor: Predictor,
    image: LargeImage,
    prompts: Sequence[ObjectPrompt],
    *,
    on_tile: Callable[[int, int], None] | None = None,
    on_task: Callable[[str], None] | None = None,
) -> Iterator[StitchedObject]:
    """The objects that prompts ask for, each as soon as all of its tiles were asked.

    Args:
        predictor: whose image is set to one tile after the other.
        image: the image.
        prompts: with numbers that differ, in pixels of the image.
        on_tile: called with (tiles done, tiles that a prompt meets).
        on_task: called for each tile with the task whose head answered.

    Raises:
        OptionError: a prompt is wrong for this image, or no tile can answer it; the message names it.
        ImageError: a tile cannot be read.
    """
    met = tiles_of(image, prompts)
    waiting = {prompt.number: _Waiting(prompt, 0) for prompt in prompts}
    for _, own in met:
        for prompt in own:
            waiting[prompt.number].left += 1
    for done, (tile, own) in enumerate(met, start=1):
        image.show(predictor, tile)
        geometry = predictor.geometry
        for part, found in answered(predictor, [inside(prompt, tile) for prompt in own]):
            if on_task is not None:
                on_task(found.task)
            for index, logits, mask, score in zip(
                part, found.logits[:, 0], found.objects, found.object_scores, strict=True
            ):
                one = waiting[own[index].number]
                one.answers.append(_Answer(tile, logits, geometry, float(score), int(mask.sum())))
                one.left -= 1
        if on_tile is not None:
            on_tile(done, len(met))
        for prompt in own:
            if not waiting[prompt.number].left:
                yield _finished(waiting.pop(prompt.number), image)


def tiles_of(image: LargeImage, prompts: Sequence[ObjectPrompt]) -> list[tuple[Tile, list[ObjectPrompt]]]:
    """The tiles that prompts meet, in their order, each with those prompts.

    A box meets the tiles into whose core it reaches; points alone those that hold one of the object.

    Raises:
        OptionError: a prompt is wrong for this image, or none of its tiles can answer it.
    """
    check_prompts(prompts, *image.size)
    for prompt in prompts:
        if prompt.mask is not None:
            raise OptionError(
                f"{prompt.name_of('mask')} beside tiles", "a mask prompt is of a whole image: give a box"
            )
        if prompt.box is None and 1 not in prompt.labels:
            raise OptionError(
                f"{prompt.name_of('point')}: no point of the object",
                "tiles are chosen by such a point, or a box",
            )
    height, width = image.size
    rows, columns = image.grid.spans(height), image.grid.spans(width)
    met: dict[int, list[ObjectPrompt]] = {}
    for prompt in prompts:
        for place in _places(prompt, rows, columns):
            met.setdefault(place, []).append(prompt)
    tiles = image.tiles
    found = [(tiles[place], met[place]) for place in sorted(met)]
    _refuse_large(found)
    return found


def _refuse_large(found: list[tuple[Tile, list[ObjectPrompt]]]) -> None:
    """An object is put together at full size: its tiles together are no larger than an image may be."""
    spans: dict[int, tuple[ObjectPrompt, list[Tile]]] = {}
    for tile, own in found:
        for prompt in own:
            spans.setdefault(prompt.number, (prompt, []))[1].append(tile)
    for prompt, tiles in spans.values():
        _, _, width, height = _around(tiles)
        if width * height > DEFAULT_MAX_PIXELS:
            raise OptionError(
                f"{prompt.name_of('box')} meets tiles of {width} x {height} pixels together, more than the limit of "
                f"{DEFAULT_MAX_PIXELS:,}",
                "prompt for parts of it, each an object",
            )


def _places(prompt: ObjectPrompt, rows: Sequence[_Span], columns: Sequence[_Span]) -> set[int]:
    """The tiles that a prompt meets, by their numbers, row by row."""
    found: set[int] = set()
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        below = [place for place, (_, _, low, count) in enumerate(rows) if y1 >= low and y0 < low + count]
        along = [place for place, (_, _, low, count) in enumerate(columns) if x1 >= low and x0 < low + count]
        return {row * len(columns) + column for row in below for column in along}
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        if label:
            # A point may lie on the far border of the image, which is beyond the index of its last pixel.
            below = [
                place for place, (start, count, _, _) in enumerate(rows) if start <= y <= start + count - 1
            ]
            along = [
                place for place, (start, count, _, _) in enumerate(columns) if start <= x <= start + count - 1
            ]
            below, along = below or [len(rows) - 1], along or [len(columns) - 1]
            found |= {row * len(columns) + column for row in below for column in along}
    return found


def inside(prompt: ObjectPrompt, tile: Tile) -> ObjectPrompt:
    """A prompt as it is in a tile: its box cut off at the borders, points elsewhere left out."""
    box = prompt.box
    if box is not None:
        (x0, x1), (y0, y1) = (
            _cut(box[0] - tile.x, box[2] - tile.x, tile.width),
            _cut(box[1] - tile.y, box[3] - tile.y, tile.height),
        )
        box = (x0, y0, x1, y1)
    held = [
        ((x - tile.x, y - tile.y), label)
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True)
        if tile.x <= x < tile.x + tile.width and tile.y <= y < tile.y + tile.height
    ]
    return replace(
        prompt, box=box, points=tuple(point for point, _ in held), labels=tuple(label for _, label in held)
    )


def _cut(first: float, last: float, length: int) -> tuple[float, float]:
    """Two edges cut off at the first and the last pixel of a tile; beyond its last pixel's index, at the border."""
    first = max(first, 0.0)
    if last < length:
        return first, last
    return first, length - 1.0 if first < length - 1 else float(length)


def _around(tiles: Sequence[Tile]) -> tuple[int, int, int, int]:
    """The rectangle that holds some tiles: first column and row, width and height."""
    x, y = min(tile.x for tile in tiles), min(tile.y for tile in tiles)
    right = max(tile.x + tile.width for tile in tiles)
    bottom = max(tile.y + tile.height for tile in tiles)
    return x, y, right - x, bottom - y


def _finished(one: _Waiting, image: LargeImage) -> StitchedObject:
    mask = blended(one.answers, image.size)
    areas = [answer.area for answer in one.answers]
    weights = areas if sum(areas) else [1] * len(areas)
    score = float(np.average([answer.score for answer in one.answers], weights=weights))
    return StitchedObject(one.prompt, mask, score, len(one.answers), 0 if mask is None else mask.area)


def blended(answers: Sequence[_Answer], size: tuple[int, int]) -> Cutout | None:
    """Where the weighted mean of the logits of some tiles is above 0; None where it is nowhere.

    Args:
        answers: of one object, each of another tile.
        size: height and width of the image.
    """
    tiles = [answer.tile for answer in answers]
    x, y, width, height = _around(tiles)
    total = np.zeros((height, width), np.float32)
    for answer in answers:
        low = torch.from_numpy(np.asarray(answer.low_res, np.float32))[None]
        logits = upscale(low, answer.geometry)[0].numpy()
        tile = answer.tile
        if len(answers) > 1:
            logits = logits * _weights(tile, tiles)
        rows = slice(tile.y - y, tile.y - y + tile.height)
        total[rows, tile.x - x : tile.x - x + tile.width] += logits
    positive = total > 0  # dividing by the sum of the weights would change no sign
    return Cutout(positive, y, x, size).tight() if positive.any() else None


def _weights(tile: Tile, tiles: Sequence[Tile]) -> np.ndarray:
    """float32 (h, w) above 0: ramps over what a tile shares with its neighbours among some tiles, 1 elsewhere."""
    rows = _ramp(tile.y, tile.height, {(other.y, other.height) for other in tiles})
    columns = _ramp(tile.x, tile.width, {(other.x, other.width) for other in tiles})
    found: np.ndarray = np.outer(rows, columns).astype(np.float32)
    return found


def _ramp(start: int, length: int, others: set[tuple[int, int]]) -> np.ndarray:
    """Weights along one axis of a tile that begins at `start`, beside others by their first pixel and length."""
    weights = np.ones(length)
    places = np.arange(length)
    for first, count in others:
        if first < start < first + count:  # one before: rises over what both have
            shared = first + count - start
            weights = np.minimum(weights, (places + 0.5) / shared)
        elif start < first < start + length:
            shared = start + length - first
            weights = np.minimum(weights, (length - places - 0.5) / shared)
    return np.clip(weights, 0, 1)
