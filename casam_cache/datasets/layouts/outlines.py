"""What readers of a file of outlines beside each image have in common: programs for slides write such files."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.datasets.folder import problem_of
from casam_cache.datasets.images import ANY_SIZE, image_size
from casam_cache.datasets.layouts.annotated import (
    AnnotatedReader,
    Annotations,
    ImageFiles,
    names_of,
    numbered,
)
from casam_cache.datasets.layouts.placed import Shape, union
from casam_cache.datasets.layouts.polygon import Points, fill, lies_outside
from casam_cache.datasets.listing import walk
from casam_cache.datasets.sample import Dataset, DatasetOptions, Problem, Sample
from casam_cache.errors import DatasetError, ImageError

_LOOKED_AT = 200
UNNAMED = "object"  # the class of what has none

Polygon = Sequence[Points]
"""An outline, and those of holes in it."""


@dataclass(frozen=True)
class Outlined:
    """One object.

    Attributes:
        label: name of its class.
        polygons: its parts.
    """

    label: str
    polygons: tuple[Polygon, ...]


@dataclass
class Outlines:
    """What a file holds.

    Attributes:
        objects: in its order.
        left_out: how many things are no objects, by what they are.
    """

    objects: list[Outlined] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


class OutlineReader(AnnotatedReader):
    """Reads `x.SUFFIX` beside `x.tif`, or anywhere else where one image alone has its name.

    Attributes:
        suffixes: of the files of outlines.
        program: that writes them, for people.
    """

    suffixes: ClassVar[tuple[str, ...]]
    program: ClassVar[str]

    @abstractmethod
    def parse(self, path: Path) -> Outlines:
        """What a file holds; asked again for each of its tiles, so it is remembered.

        Raises:
            ImageError: it is damaged.
        """

    @abstractmethod
    def is_one(self, path: Path) -> bool:
        """Whether a file is of this kind, by its first bytes.

        Raises:
            OSError: it cannot be read.
        """

    def recognises(self, path: Path) -> bool:
        try:
            return any(self.is_one(path / name) for name in islice(self._named(path), _LOOKED_AT))
        except OSError:
            return False

    def _named(self, path: Path) -> Iterable[str]:
        return (name for name, _ in walk(path) if name.lower().endswith(self.suffixes))

    def load(self, path: Path, options: DatasetOptions) -> Annotations:
        told, images = Annotations(example=self.program), ImageFiles(path)
        owners: dict[str, str] = {}
        read: list[tuple[str, str, Outlines]] = []
        by_stem: dict[str, list[str]] = {}
        for image in images.all:
            by_stem.setdefault(_stem(image), []).append(image)
        for file in self._named(path):
            try:
                if not self.is_one(path / file):
                    continue
                found = self.parse(path / file)
            except ImageError as error:
                told.problems.append(problem_of(error, file, path))
                continue
            except OSError as error:
                told.problems.append(Problem(file, f"cannot be read: {error.strerror}", "look at it"))
                continue
            source, wrong = _image_of(file, by_stem)
            if source is None:
                told.problems.append(Problem(file, wrong, "give both one name, and put them side by side"))
            elif source in owners:
                message = f"annotates {source}, as {owners[source]} does, which is read"
                told.problems.append(Problem(file, message, "keep one"))
            else:
                owners[source] = file
                read.append((source, file, found))
        classes = numbered(each.label for _, _, found in read for each in found.objects)
        told.classes = names_of(classes)
        for source, file, found in read:
            told.problems += [
                Problem(file, f"{count} left out: {what}", "draw what is an object as an area", "warning")
                for what, count in sorted(found.left_out.items())
            ]
            _add(told, path, source, file, found, classes)
        folders = {PurePosixPath(one).parent for one in owners}
        for source in images.all:
            if source not in owners and PurePosixPath(source).parent in folders:
                told.bare(source, "no annotation", f"save one in {self.program}", options)
        return told

    def shapes(self, dataset: Dataset, sample: Sample, size: tuple[int, int]) -> Iterable[Shape]:
        classes = {name: number for number, name in dataset.class_names.items()}
        return _shapes(self.parse(dataset.root / sample.masks[0]), classes)


def _stem(name: str) -> str:
    """A name without its suffixes, of which `slide.ome.tif` has two."""
    whole = PurePosixPath(name)
    return whole.name.split(".ome.")[0] if ".ome." in whole.name else whole.stem


def _image_of(file: str, by_stem: dict[str, list[str]]) -> tuple[str | None, str]:
    """The image of a file: of its name, the one in its folder where there are several."""
    names = [_stem(file), PurePosixPath(file).name.split(".")[0]]
    named = PurePosixPath(file).stem  # x.tif.geojson
    found = [image for images in by_stem.values() for image in images if PurePosixPath(image).name == named]
    for name in names:
        found = found or by_stem.get(name, [])
    beside = [image for image in found if PurePosixPath(image).parent == PurePosixPath(file).parent] or found
    if len(beside) == 1:
        return beside[0], ""
    if beside:
        return None, f"it may be of {' or '.join(beside[:4])}"
    return None, f"there is no image '{names[0]}'"


def _add(
    told: Annotations, root: Path, source: str, file: str, found: Outlines, classes: dict[str, int]
) -> None:
    """An image with its objects; those beyond its borders are said."""
    try:
        size = image_size(root / source, ANY_SIZE)
    except (ImageError, OSError):
        size = None  # reading it says what is wrong
    if size is not None:
        outside = sum(
            all(lies_outside(polygon[0], size[1], size[0]) for polygon in each.polygons)
            for each in found.objects
        )
        if found.objects and outside == len(found.objects):
            raise DatasetError(
                f"{root / file}: none of its objects ({outside}) lies in {source}, which has {size[1]} x {size[0]} "
                "pixels: they were drawn on another image, or on another level of it",
                "put the image that was annotated in its place, or export in its pixels",
            )
        if outside:
            message = f"{outside} of {len(found.objects)} objects lie outside {source}, left out"
            told.problems.append(Problem(file, message, "look at them", "warning"))
    told.add(source, file, _shapes(found, classes))


def _shapes(found: Outlines, classes: dict[str, int]) -> list[Shape]:
    return [Shape(classes[each.label], partial(_draw, each.polygons)) for each in found.objects]


def _draw(polygons: Sequence[Polygon], size: tuple[int, int]) -> Cutout | None:
    """The pixels within the outlines, and not within those of holes."""
    drawn = []
    for outline, *holes in polygons:
        cutout = fill(outline, size)
        if cutout is None:
            continue
        pixels = cutout.pixels
        for hole in holes:
            inner = fill(hole, size)
            if inner is not None:
                pixels = pixels & ~_within(inner, cutout)
        if pixels.any():
            drawn.append(Cutout(pixels, cutout.top, cutout.left, size))
    return union(drawn).tight() if drawn else None


def _within(inner: Cutout, outer: Cutout) -> np.ndarray:
    """The pixels of one cutout in the rectangle of another, bool of its shape."""
    found = np.zeros_like(outer.pixels)
    rows, columns = inner.pixels.shape
    top, left = inner.top - outer.top, inner.left - outer.left
    y0, y1 = max(0, top), min(found.shape[0], top + rows)
    x0, x1 = max(0, left), min(found.shape[1], left + columns)
    if y1 > y0 and x1 > x0:
        found[y0:y1, x0:x1] = inner.pixels[y0 - top : y1 - top, x0 - left : x1 - left]
    return found
