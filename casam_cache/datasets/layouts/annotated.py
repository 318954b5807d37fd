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
from casam_cache.datasets.images import image_size, image_suffixes, load_array
from casam_cache.datasets.labels import scan_files
from casam_cache.datasets.listing import walk
from casam_cache.datasets.masks import cutouts_of_regions
from casam_cache.datasets.parts import Found
from casam_cache.datasets.portion import WHOLE, split_portion
from casam_cache.datasets.portions import choose_portions
from casam_cache.datasets.sample import Dataset, DatasetOptions, Mask, MaskValues, Problem, Sample, SplitName
from casam_cache.errors import DatasetError, ImageError

Draw = Callable[[tuple[int, int]], Cutout | None]
"""The pixels of an object in an image of (height, width); None where it has none there."""


@dataclass(frozen=True)
class Shape:
    """One object.

    Attributes:
        class_id: its class, from 1.
        draw: gives its pixels.
        crowd: many objects under one outline, which count in `binary` and `classes` only.
    """

    class_id: int
    draw: Draw
    crowd: bool = False


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
        _, headers = scan_files(
            [], [path / sample.source for sample in samples], options.max_pixels, progress
        )
        misfits: set[str] = set()
        for sample, header in zip(samples, headers, strict=True):
            stated = told.sizes.get(split_portion(sample.source)[0])
            error = header.error
            if error is None and stated is not None and header.size is not None and header.size != stated:
                error = fits_as_stored(path / sample.source, stated, header)
                error = error or _of_another_size(path / sample.source, stated, header.size)
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
        notes = (f"{told.example}: {_example(samples)}", f"classes {classes}" if classes else "no class")
        return Dataset(
            task, path, tuple(samples), mode, reason, values, tuple(told.problems),
            source.replace(FOLDERS, self.splits_are), options, notes, class_names=told.classes,
        )  # fmt: skip

    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        return load_array(root / source, max_pixels)

    def masks(self, dataset: Dataset, sample: Sample, size: tuple[int, int] | None) -> Iterator[Mask]:
        """`binary`: all objects united; `classes`: those of a class united; `instances`: each, numbered in its class;
        `components`: each region of each class.
        """
        if not sample.labelled:
            return
        size = size or image_size(dataset.root / sample.source, dataset.options.max_pixels)
        file = dataset.root / sample.masks[0]
        if not file.exists():  # one of many in a file
            file = dataset.root / sample.masks[0].rpartition("#")[0]
        shapes = [
            replace(shape, draw=partial(_named, shape.draw, file))
            for shape in self.shapes(dataset, sample, size)
        ]
        mode = dataset.mask_mode
        if mode == "instances":
            yield from _each(shapes, size)
            return
        by_class: dict[int, np.ndarray] = {}
        for shape in shapes:
            cutout = shape.draw(size)
            if cutout is not None:
                number = 1 if mode == "binary" else shape.class_id
                if number not in by_class:
                    by_class[number] = np.zeros(size, bool)
                add(by_class[number], cutout)
        for class_id, bitmap in sorted(by_class.items()):
            if mode == "components":
                yield from (
                    Mask(part, class_id, number)
                    for number, part in enumerate(cutouts_of_regions(Cutout.of(bitmap)), 1)
                )
            else:
                yield Mask(Cutout.of(bitmap).tight(), class_id, 1)

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


def _each(shapes: Iterable[Shape], size: tuple[int, int]) -> Iterator[Mask]:
    numbers: Counter[int] = Counter()
    for shape in sorted((shape for shape in shapes if not shape.crowd), key=lambda shape: shape.class_id):
        cutout = shape.draw(size)
        numbers[shape.class_id] += 1
        if cutout is not None:
            yield Mask(cutout, shape.class_id, numbers[shape.class_id])


def _of_another_size(path: Path, stated: tuple[int, int], size: tuple[int, int]) -> ImageError:
    return ImageError(
        f"{path}: annotated at {stated[1]} x {stated[0]} pixels, but it has {size[1]} x {size[0]}",
        "put the image in its place that was annotated, or export the annotations again",
    )


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
    if len(drawn) < 2:
        return drawn[0] if drawn else None
    whole = np.zeros(size, bool)
    for cutout in drawn:
        add(whole, cutout)
    return Cutout.of(whole).tight()


def add(bitmap: np.ndarray, cutout: Cutout) -> None:
    """Sets the pixels of a cutout in a bool (H, W) bitmap of the whole image."""
    height, width = cutout.pixels.shape
    bitmap[cutout.top : cutout.top + height, cutout.left : cutout.left + width] |= cutout.pixels


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
