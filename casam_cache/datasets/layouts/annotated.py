"""What readers of annotations have in common: objects drawn as polygons or runs in text files beside the images."""

from __future__ import annotations

import threading
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.datasets.assign import FOLDERS, assign_splits
from casam_cache.datasets.base import FilesDone, Reader
from casam_cache.datasets.exif import fits_as_stored
from casam_cache.datasets.folder import problem_of
from casam_cache.datasets.images import ANY_SIZE, image_size, image_suffixes, load_array
from casam_cache.datasets.labels import scan_files
from casam_cache.datasets.layouts.placed import (
    Draw,
    PlacedShapes,
    Remembered,
    Shape,
    number_in_class,
    union,
)
from casam_cache.datasets.listing import walk
from casam_cache.datasets.masks import cutouts_of_regions
from casam_cache.datasets.parts import Found
from casam_cache.datasets.portion import WHOLE, split_portion
from casam_cache.datasets.portions import choose_portions
from casam_cache.datasets.sample import Dataset, DatasetOptions, Mask, MaskValues, Problem, Sample, SplitName
from casam_cache.datasets.tile_window import window_of_tile
from casam_cache.datasets.tiled import Tiled, cut_samples, of_another_size, tile_notes, whole_name
from casam_cache.errors import DatasetError, ImageError

_PLACED = Remembered()


@dataclass
class Annotations:
    """What annotations say of a dataset.

    Attributes:
        found: its images.
        classes: name of each class by its number.
        sizes: height and width of an image by its source, where the annotation states it.
        counts: number of objects of each class, by image source.
        problems: what is wrong.
        example: what was recognised, for people; the first image and its annotation are added.
    """

    found: list[Found] = field(default_factory=list)
    classes: dict[int, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    counts: dict[str, Counter[int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    example: str = ""

    def add(self, source: str, file: str, shapes: Sequence[Shape], split: SplitName | None = None) -> None:
        """An image with its objects, which may be none."""
        id = _id(source)
        self.found.append(Found(id, id, source, split, (file,)))
        self.counts[source] = Counter(shape.class_id for shape in shapes if not shape.crowd)

    def bare(self, source: str, why: str, hint: str, options: DatasetOptions) -> None:
        """An image without an annotation: kept where the options say so, else a problem."""
        id = _id(source)
        if options.unlabelled:
            self.found.append(Found(id, id, source, None, (), labelled=False))
        else:
            self.problems.append(Problem(source, why, f"{hint}, or use --unlabelled", sample=id))


class AnnotatedReader(Reader):
    """Reads image files whose objects are drawn in text files."""

    cuts_tiles: ClassVar[bool] = True
    splits_are: ClassVar[str] = FOLDERS
    """Where splits that the annotations state come from, for people."""

    @abstractmethod
    def load(self, path: Path, options: DatasetOptions) -> Annotations:
        """Everything that the annotations of a dataset folder say.

        Raises:
            DatasetError: nothing in it can be used.
        """

    @abstractmethod
    def shapes(self, dataset: Dataset, sample: Sample, size: tuple[int, int]) -> Iterable[Shape]:
        """The objects of one image of `size`, found again.

        Raises:
            ImageError: they cannot be read.
        """

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        """Read one dataset folder.

        Raises:
            DatasetError: nothing in it can be used, or its split is wrong as a whole.
        """
        told = self.load(path, options)
        if not told.found:
            example = f", for example {told.problems[0]}" if told.problems else ""
            raise DatasetError(
                f"{path}: no image of its annotations can be used{example}", "look at its files"
            )
        _tell_ids_apart(told.found)
        told.found.sort(key=lambda one: one.id)
        samples, source = assign_splits(path, told.found, options, told.problems)
        # A drawing belongs to the file, not to one page of several.
        pages = None if options.pages in ("all", "objects") else options.pages
        samples = choose_portions(path, samples, replace(options, pages=pages), told.problems)
        grid, example = options.grid, _example(samples)
        tiled, before = Tiled(samples), len(told.problems)
        if grid is not None:
            tiled = cut_samples(
                path, samples, grid, options.max_pixels, told.problems, stated=told.sizes, mask_files=False
            )
        samples = tiled.samples
        _, headers = scan_files(
            [], [path / sample.source for sample in samples], options.max_pixels, progress
        )
        misfits = {problem.sample for problem in told.problems[before:]}
        for sample, header in zip(samples, headers, strict=True):
            stated = None if sample.tile else told.sizes.get(split_portion(sample.source)[0])
            error = header.error
            if error is None and stated is not None and header.size is not None and header.size != stated:
                error = fits_as_stored(path / sample.source, stated, header)
                error = error or of_another_size(path / sample.source, stated, header.size)
                misfits.add(sample.id)  # what is drawn for another size would lie elsewhere
            if error is not None:
                told.problems.append(problem_of(error, sample.source, path, sample.id))
        samples = [sample for sample in samples if sample.id not in misfits]
        if not samples:
            wrong = next(problem for problem in told.problems if problem.sample in misfits)
            raise DatasetError(
                f"{path}: no image of its annotations can be used, for example {wrong.path}: {wrong.message}",
                wrong.hint,
            )
        mode, reason = _mode(options, told)
        values = MaskValues((0, *sorted(told.classes)))
        classes = ", ".join(f"{number} {name}" for number, name in sorted(told.classes.items())[:20])
        notes = (f"{told.example}: {example}", f"classes {classes}" if classes else "no class")
        found = Dataset(
            task, path, tuple(samples), mode, reason, values, tuple(told.problems),
            source.replace(FOLDERS, self.splits_are), options, notes, class_names=told.classes,
            tiled=tuple(tiled.images),
        )  # fmt: skip
        if grid is None:
            return found
        filled, every = self._nonempty(found), options.tiles == "all"
        kept = [sample for sample, holds in zip(samples, filled, strict=True) if holds or every]
        lines = tile_notes(tiled, grid, filled.count(False), kept=every)
        return replace(found, samples=tuple(kept), notes=(*notes, *lines))

    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        return load_array(root / source, max_pixels)

    def masks(self, dataset: Dataset, sample: Sample, size: tuple[int, int] | None) -> Iterator[Mask]:
        """`binary`: all objects united; `classes`: those of a class united; `instances`: each, numbered in its class;
        `components`: each region of each class. A tile has its part of them, under the numbers of the whole image.
        """
        if not sample.labelled:
            return
        mode, crowds = dataset.mask_mode, dataset.mask_mode != "instances"
        pieces: Iterator[tuple[Shape, int, Cutout]]
        if sample.tile is None:
            size = size or image_size(dataset.root / sample.source, dataset.options.max_pixels)
            shapes = self._named_shapes(dataset, sample, size)
            numbers = number_in_class(shapes)
            pieces = (
                (shape, number, cutout)
                for shape, number in zip(shapes, numbers, strict=True)
                if (crowds or not shape.crowd) and (cutout := shape.draw(size)) is not None
            )
        else:
            size = sample.tile.height, sample.tile.width
            pieces = self._placed(dataset, sample).inside(sample.tile.box, crowds=crowds)
        if mode == "instances":
            found = [Mask(cutout, shape.class_id, number) for shape, number, cutout in pieces]
            yield from sorted(found, key=lambda mask: (mask.class_id, mask.instance))
            return
        by_class: dict[int, list[Cutout]] = {}
        for shape, _, cutout in pieces:
            by_class.setdefault(1 if mode == "binary" else shape.class_id, []).append(cutout)
        for class_id, cutouts in sorted(by_class.items()):
            whole = union(cutouts)
            if mode == "components":
                yield from (
                    Mask(part, class_id, number) for number, part in enumerate(cutouts_of_regions(whole), 1)
                )
            else:
                yield Mask(whole.tight(), class_id, 1)

    def _named_shapes(self, dataset: Dataset, sample: Sample, size: tuple[int, int]) -> list[Shape]:
        """The objects of an image, which name the file of the annotation where they cannot be drawn."""
        file = _file_of(dataset.root, sample)
        return [
            replace(shape, draw=partial(_named, shape.draw, file))
            for shape in self.shapes(dataset, sample, size)
        ]

    def _placed(self, dataset: Dataset, sample: Sample) -> PlacedShapes:
        """The objects of the image that a tile is of."""
        source = whole_name(sample)
        size = next(
            ((each["height"], each["width"]) for each in dataset.tiled if each["source"] == source), None
        ) or image_size(dataset.root / source, ANY_SIZE)
        status = _file_of(dataset.root, sample).stat()
        classes = tuple(sorted(dataset.class_names.items()))
        key = (self.name, dataset.root, sample.masks[0], size, classes, status.st_size, status.st_mtime_ns)
        return _PLACED.get(key, lambda: PlacedShapes.of(self._named_shapes(dataset, sample, size), size))

    def _nonempty(self, dataset: Dataset) -> list[bool]:
        """Of each sample whether it is kept where tiles without an object are not."""
        crowds = dataset.mask_mode != "instances"
        kept = []
        for sample in dataset.samples:
            try:
                kept.append(
                    sample.tile is None
                    or not sample.labelled
                    or any(self._placed(dataset, sample).inside(sample.tile.box, crowds=crowds))
                )
            except ImageError:
                kept.append(True)  # what is wrong is said where its masks are read
        return kept

    def window(self, root: Path, source: str, intensity: str) -> tuple[float, float] | None:
        return window_of_tile(root, source, super().window(root, source, intensity))

    def file_of(self, source: str) -> str | None:
        file, portion = split_portion(source)
        return file if portion == WHOLE else None


def _named(draw: Draw, file: Path, size: tuple[int, int]) -> Cutout | None:
    """Draws, and names the file of the annotation where that fails."""
    try:
        return draw(size)
    except ImageError as error:
        if error.message.startswith(str(file)):
            raise
        raise ImageError(f"{file}: {error.message}", error.hint) from None


def _file_of(root: Path, sample: Sample) -> Path:
    """The annotation of an image, which may be one of many in a file."""
    file = root / sample.masks[0]
    return file if file.exists() else root / sample.masks[0].rpartition("#")[0]


def _mode(options: DatasetOptions, told: Annotations) -> tuple[str, str]:
    if options.masks:
        return options.masks, "as asked"
    several = sum(any(count > 1 for count in counts.values()) for counts in told.counts.values())
    if several:
        return "instances", f"{several} images have several objects of a class, each drawn by itself"
    if len(told.classes) > 1:
        return "classes", f"{len(told.classes)} classes, at most one object of each in an image"
    return "binary", "at most one object in an image"


def _id(source: str) -> str:
    """The path of an image without its suffix and without a folder `images`, as the built-in reader has it."""
    parts = [part for part in PurePosixPath(source).with_suffix("").parts if part != "images"]
    return unicodedata.normalize("NFC", "/".join(parts))


def _example(samples: Sequence[Sample]) -> str:
    shown = next((sample for sample in samples if sample.masks), samples[0])
    return " + ".join((shown.source, *shown.masks))


def _tell_ids_apart(found: Sequence[Found]) -> None:
    """Images that differ in their suffix alone keep it in their ids."""
    counts = Counter(one.id for one in found)
    for one in found:
        if counts[one.id] > 1:
            one.id = one.name = unicodedata.normalize("NFC", one.image)


class ImageFiles:
    """The image files below a dataset folder, found by what annotations call them."""

    def __init__(self, root: Path) -> None:
        self.all = [name for name, _ in walk(root) if PurePosixPath(name).suffix.lower() in image_suffixes()]
        self._known = {unicodedata.normalize("NFC", name): name for name in self.all}
        self._by_name: dict[str, list[str]] = {}
        for name in self.all:
            self._by_name.setdefault(unicodedata.normalize("NFC", PurePosixPath(name).name), []).append(name)

    def find(self, name: str, folders: Iterable[str] = ()) -> tuple[str | None, str]:
        """The file that `name` means, looked for in `folders` first; or None, and what is wrong."""
        name = unicodedata.normalize("NFC", name.replace("\\", "/"))
        for folder in (*folders, ""):
            whole = _joined(folder, name)
            if whole in self._known:
                return self._known[whole], ""
        found = self._by_name.get(PurePosixPath(name).name, [])
        ending = [one for one in found if one.endswith(f"/{name}")] or found
        if len(ending) == 1:
            return ending[0], ""
        if ending:
            return None, f"'{name}' may be {' or '.join(ending[:4])}"
        return None, f"there is no image '{name}'"


def _joined(folder: str, name: str) -> str:
    parts: list[str] = []
    for part in (PurePosixPath(folder) / name).parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def united(draws: Sequence[Draw], size: tuple[int, int]) -> Cutout | None:
    """One object drawn in several parts."""
    drawn = [cutout for draw in draws if (cutout := draw(size)) is not None]
    return union(drawn).tight() if drawn else None


class Parsed:
    """Parsed files, of which the last few are kept for the threads that ask for one image after another."""

    def __init__(self, parse: Callable[[Path], Any], most: int = 4) -> None:
        self._parse, self._most = parse, most
        self._lock = threading.Lock()
        self._kept: dict[tuple[Path, int, int], Any] = {}

    def __call__(self, path: Path) -> Any:
        """What `parse` makes of the file as it is now.

        Raises:
            OSError: it cannot be read; and whatever `parse` raises.
        """
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        with self._lock:
            if key not in self._kept:
                while len(self._kept) >= self._most:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = self._parse(path)
            return self._kept[key]


def numbered(names: Iterable[str]) -> dict[str, int]:
    """A class number for each name, from 1 in sorted order."""
    return {name: number for number, name in enumerate(sorted(set(names)), 1)}


def names_of(numbers: Mapping[str, int]) -> dict[int, str]:
    return {number: name for name, number in numbers.items()}
