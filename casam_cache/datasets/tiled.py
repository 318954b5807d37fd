"""Large images of a dataset as tiles: a sample each, with the split and the group of the image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from casam_cache.datasets.images import ANY_SIZE, by_region, image_size
from casam_cache.datasets.labels import MaskScan
from casam_cache.datasets.masks import size_mismatch
from casam_cache.datasets.portion import split_portion
from casam_cache.datasets.sample import MaskValues, Problem, Sample
from casam_cache.datasets.tiles import Box, Grid
from casam_cache.errors import DatasetError, ImageError


@dataclass
class Tiled:
    """Samples of which the large ones are tiles.

    Attributes:
        samples: sorted by id.
        images: the images that were cut, as `Dataset.tiled` has them.
    """

    samples: list[Sample]
    images: list[dict[str, Any]] = field(default_factory=list)


def cut_samples(
    root: Path,
    samples: Sequence[Sample],
    grid: Grid,
    max_pixels: int,
    problems: list[Problem],
    *,
    stated: Mapping[str, tuple[int, int]] | None = None,
    mask_files: bool = True,
) -> Tiled:
    """The samples, those of images larger than a tile being cut: `slide#y0000_x0896` is a tile of `slide`.

    Split and group were decided for the image, so that its tiles are never parted. Only headers are read.

    Args:
        root: the dataset folder.
        samples: one an image.
        grid: how to cut.
        max_pixels: of files that can only be read whole, which are left as they are beyond it: reading them says so.
        problems: gets those of images left out, whose masks have another size, or are of another size than is stated.
        stated: height and width of image files by their names, where something says so.
        mask_files: whether masks are image files, which are cut as the images are.

    Raises:
        DatasetError: the id of a tile is that of another image.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        names = [
            name for sample in samples for name in (sample.source, *(sample.masks if mask_files else ()))
        ]
        sizes = dict(zip(names, pool.map(lambda name: _size(root / name, max_pixels), names), strict=True))
    found = Tiled([])
    for sample in samples:
        size = sizes[sample.source]
        if size is None or not grid.cuts(size):
            found.samples.append(sample)
            continue
        wrong = _wrong_mask(root, sample, size, sizes) if mask_files else None
        told = (stated or {}).get(split_portion(sample.source)[0])
        if told is not None and told != size:
            error = of_another_size(root / sample.source, told, size)
            message = error.message.removeprefix(f"{root / sample.source}: ")
            wrong = Problem(sample.source, message, error.hint, sample=sample.id)
        if wrong is not None:
            problems.append(wrong)
            continue
        found.images.append({"name": sample.id, "source": sample.source, "height": size[0], "width": size[1]})
        found.samples += _tiles(sample, size, grid, mask_files)
    _refuse_taken(root, samples, found)
    found.samples.sort(key=lambda sample: sample.id)
    return found


def nonempty(samples: Sequence[Sample], scans: Sequence[MaskScan], values: MaskValues) -> list[bool]:
    """Of each sample whether it is kept where tiles without a mask are not: it is no tile, unlabelled, or holds one.

    Args:
        samples: those of a dataset.
        scans: of all of their masks, in their order.
        values: how masks are read.
    """
    rest = iter(scans)
    kept = []
    for sample in samples:
        own = [next(rest) for _ in sample.masks]
        kept.append(sample.tile is None or not own or any(_holds_mask(scan, values) for scan in own))
    return kept


def _holds_mask(scan: MaskScan, values: MaskValues) -> bool:
    """Whether a mask may hold an object; of one that cannot be read or has soft edges, it may."""
    if scan.error is not None:
        return True
    counts = scan.alpha if values.alpha and scan.alpha is not None else scan.counts
    ground = {values.background or 0, values.ignore}
    return any(value not in ground for value in counts.values.tolist())


def tile_notes(found: Tiled, grid: Grid, empty: int, *, kept: bool) -> list[str]:
    """Lines for people: how many images were cut, and how many tiles hold no mask, which are left out or kept."""
    if not found.images:
        return [f"no image is larger than {grid.side} x {grid.side}, so none is cut into tiles"]
    tiles = sum(sample.tile is not None for sample in found.samples)
    one = len(found.images) == 1
    lines = [
        f"{len(found.images)} image{'' if one else 's'} larger than {grid.side} x {grid.side} "
        f"{'is' if one else 'are'} cut into {tiles:,} tiles with an overlap of {grid.overlap} pixels"
    ]
    if empty:
        what = "are kept" if kept else "are left out; --tiles all keeps them"
        lines.append(f"{empty:,} of {tiles:,} tiles hold nothing of any mask and {what}")
    return lines


def whole_name(sample: Sample) -> str:
    """What names the image that a tile is of, `Sample.source` without the tile."""
    file, portion = split_portion(sample.source)
    return file + str(replace(portion, tile=None))


def _size(path: Path, max_pixels: int) -> tuple[int, int] | None:
    """Height and width; None of an image whose reading will say what is wrong."""
    try:
        return image_size(path, ANY_SIZE if by_region(_file(path)) else max_pixels)
    except (ImageError, OSError):
        return None


def _file(path: Path) -> Path:
    return path.with_name(split_portion(path.name)[0]) if "#" in path.name else path


def _wrong_mask(
    root: Path, sample: Sample, size: tuple[int, int], sizes: Mapping[str, tuple[int, int] | None]
) -> Problem | None:
    """A mask of another size, whose tiles would lie elsewhere than those of its image."""
    for name in sample.masks:
        own = sizes[name]
        if own is not None and own != size:
            error = size_mismatch(root / name, own, size)
            message = error.message.removeprefix(f"{root / name}: ")
            return Problem(name, message, error.hint, sample=sample.id)
    return None


def of_another_size(path: Path, stated: tuple[int, int], size: tuple[int, int]) -> ImageError:
    """An image of another height and width than what was annotated."""
    return ImageError(
        f"{path}: annotated at {stated[1]} x {stated[0]} pixels, but it has {size[1]} x {size[0]}",
        "put the image in its place that was annotated, or export the annotations again",
    )


def _tiles(sample: Sample, size: tuple[int, int], grid: Grid, mask_files: bool) -> Iterator[Sample]:
    for tile in grid.tiles(size):
        yield replace(
            sample,
            id=tile.id_in(sample.id, size),
            source=_tile_of(sample.source, tile.box),
            masks=tuple(_tile_of(name, tile.box) for name in sample.masks) if mask_files else sample.masks,
            tile=tile,
        )


def _tile_of(name: str, box: Box) -> str:
    file, portion = split_portion(name)
    return file + str(replace(portion, tile=box))


def _refuse_taken(root: Path, samples: Sequence[Sample], found: Tiled) -> None:
    own = {sample.id for sample in samples}
    for sample in found.samples:
        if sample.tile is not None and sample.id in own:
            raise DatasetError(
                f"{root}: the image '{sample.id}' has the name of a tile of another one", "rename it"
            )
