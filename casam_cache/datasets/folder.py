"""The reader of plain folders of image files and mask files, with `split.csv`, split folders, or a seeded split."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from casam_cache.datasets.assign import assign_splits
from casam_cache.datasets.base import FilesDone, Reader
from casam_cache.datasets.exif import fits_as_stored, orientation_warnings
from casam_cache.datasets.images import load_array
from casam_cache.datasets.labels import ImageHeader, MaskScan, scan_files
from casam_cache.datasets.legend import lists_colours
from casam_cache.datasets.mask_cut import refusal
from casam_cache.datasets.mask_ground import ground_notes
from casam_cache.datasets.mask_values import MANY_CLASSES, Asked, decide_mode, decide_values
from casam_cache.datasets.masks import iter_masks, load_ignored, size_mismatch
from casam_cache.datasets.parts import Found, Part, describe, refuse_nothing
from casam_cache.datasets.places import EXPECTED, Place, find_places, listing
from casam_cache.datasets.portion import WHOLE, split_portion
from casam_cache.datasets.portions import choose_portions
from casam_cache.datasets.sample import Dataset, DatasetOptions, Mask, MaskValues, Problem, Sample
from casam_cache.datasets.tile_window import window_of_tile
from casam_cache.datasets.tiled import Tiled, cut_samples, nonempty, tile_notes
from casam_cache.errors import CasamError, DatasetError


class FilesReader(Reader):
    """Reads image files with mask files, of which a class derived from this says which belong together."""

    cuts_tiles: ClassVar[bool] = True
    meant: ClassVar[str | None] = None
    """The mask mode where the options ask for none; readers of one data set's layout know theirs."""

    @abstractmethod
    def find(self, path: Path, options: DatasetOptions) -> tuple[list[Found], list[Problem], str]:
        """The images with their masks, at least one; what is wrong; and what was recognised, with an example.

        Raises:
            DatasetError: nothing in it can be used.
        """

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        """Read one dataset folder.

        Raises:
            DatasetError: nothing in it can be used, or its split is wrong as a whole.
        """
        found, problems, note = self.find(path, options)
        found.sort(key=lambda one: one.id)
        samples, source = self.assign(path, found, options, problems)
        by_folders = [f"the split is that of the {source}"] if source.startswith("folders ") else []
        samples = choose_portions(path, samples, options, problems)
        grid = options.grid
        tiled = (
            Tiled(samples) if grid is None else cut_samples(path, samples, grid, options.max_pixels, problems)
        )
        samples = tiled.samples
        scans, headers = scan_files(
            [path / mask for sample in samples for mask in sample.masks],
            [path / sample.source for sample in samples],
            options.max_pixels,
            progress,
            colours=lists_colours(options.classes),
        )
        folders = any(sample.one_object_a_file for sample in samples)
        ignore = options.ignore or self.ignores(scans)
        asked = Asked(options.masks or self.meant, folders, options.background, ignore, options.classes)
        values, said = decide_values(scans, asked)
        mode, reason = decide_mode(options.masks, values, folders)
        if self.meant and options.masks is None:
            mode, reason = self.meant, "as this data set has them"
        problems += _file_problems(path, samples, scans, headers, values)
        problems += orientation_warnings(path, samples, headers, options)
        problems += said + _value_problems(scans, values, mode, options)
        notes = [note, *by_folders, *ground_notes(values, mode)]
        if grid is not None:
            filled, every = nonempty(samples, scans, values), options.tiles == "all"
            notes += tile_notes(tiled, grid, filled.count(False), kept=every)
            samples = [sample for sample, holds in zip(samples, filled, strict=True) if holds or every]
        return Dataset(
            task, path, tuple(samples), mode, reason, values, tuple(problems), source, options, tuple(notes),
            tiled=tuple(tiled.images),
        )  # fmt: skip

    def assign(
        self, path: Path, found: list[Found], options: DatasetOptions, problems: list[Problem]
    ) -> tuple[list[Sample], str]:
        """Groups and splits, as `assign_splits` gives them."""
        return assign_splits(path, found, options, problems)

    def ignores(self, scans: Sequence[MaskScan]) -> str | None:
        """The value or colour that counts nowhere in masks of this layout, where the options name none."""
        return None

    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        return load_array(root / source, max_pixels)

    def masks(self, dataset: Dataset, sample: Sample, size: tuple[int, int] | None) -> Iterator[Mask]:
        return iter_masks(
            [dataset.root / name for name in sample.masks], dataset.mask_mode, dataset.values, size,
            one_object_a_file=sample.one_object_a_file, max_pixels=dataset.options.max_pixels,
        )  # fmt: skip

    def ignored(self, dataset: Dataset, sample: Sample) -> np.ndarray | None:
        names = [dataset.root / name for name in sample.masks]
        return load_ignored(names, dataset.values, max_pixels=dataset.options.max_pixels)

    def window(self, root: Path, source: str, intensity: str) -> tuple[float, float] | None:
        return window_of_tile(root, source, super().window(root, source, intensity))

    def file_of(self, source: str) -> str | None:
        file, portion = split_portion(source)
        return file if portion == WHOLE else None


class FolderReader(FilesReader):
    """Reads folders of images and of masks, or one folder of both, paired by their names."""

    name = "folder"

    def recognises(self, path: Path) -> bool:
        try:
            return bool(find_places(path))
        except DatasetError:  # it is one, and reading it says what can be read in two ways
            return True

    def find(self, path: Path, options: DatasetOptions) -> tuple[list[Found], list[Problem], str]:
        places = self.places(path, options)
        if not places:
            raise DatasetError(f"{path}: no images/ folder", EXPECTED)
        parts = [Part(path, place) for place in places]
        found = [one for part in parts for one in part.read(options.unlabelled)]
        problems = [problem for part in parts for problem in part.problems]
        refuse_nothing(path, parts, found, problems)
        return found, problems, describe(parts, found)

    def places(self, path: Path, options: DatasetOptions) -> list[Place]:
        """The pairs of folders that are read; readers of one data set's layout know theirs."""
        return find_places(path)

    def files(self, path: Path) -> list[tuple[str, int, int]]:
        """All images and masks, and `split.csv`; whatever else lies in the folder does not matter."""
        return listing(path)


def problem_of(error: CasamError, name: str, root: Path, sample: str = "") -> Problem:
    message = error.message.removeprefix(f"{root / name}: ").replace(f"{root}/", "")
    return Problem(name, message, error.hint.replace(f"{root}/", ""), sample=sample)


def _file_problems(
    root: Path, samples: list[Sample], scans: list[MaskScan], headers: list[ImageHeader], values: MaskValues
) -> list[Problem]:
    """Unreadable images and masks, sizes that differ, lossy masks; in the order of the samples."""
    problems = []
    rest = iter(scans)
    for sample, header in zip(samples, headers, strict=True):
        if header.error:
            problems.append(problem_of(header.error, sample.source, root, sample.id))
        for name in sample.masks:
            scan = next(rest)
            error = scan.error
            if error is None and header.size and scan.size and scan.size != header.size:
                error = fits_as_stored(root / name, scan.size, header)
                error = error or size_mismatch(root / name, scan.size, header.size)
            if error is None:
                counts = scan.alpha if values.alpha and scan.alpha else scan.counts
                coloured = scan.coloured and not values.alpha
                error = refusal(root / name, scan.lossy, scan.format, coloured, counts.values.tolist, values)
            if error:
                problems.append(problem_of(error, name, root, sample.id))
            elif scan.lossy:
                what = f"cut at {values.white // 2}"
                message = f"a mask with {len(scan.values)} grey values from a lossy compression, {what}"
                problems.append(Problem(name, message, "save masks as PNG", "warning", sample.id))
    return problems


def _value_problems(
    scans: list[MaskScan], values: MaskValues, mode: str, options: DatasetOptions
) -> list[Problem]:
    problems = []
    if mode == "classes" and options.masks is None and len(values.foreground) > MANY_CLASSES:
        problems.append(
            Problem(
                "masks",
                f"{len(values.foreground)} different values, read as so many classes",
                "use --masks instances if each value is an object, --masks binary if they are one thing",
                "warning",
            )
        )
    coloured = sum(scan.coloured for scan in scans)
    grey = sum(not scan.coloured and any(scan.values) for scan in scans)
    if coloured and grey and values.coloured and not values.soft and not values.legend:
        problems.append(
            Problem(
                "masks",
                f"{coloured} masks in colour and {grey} in grey; grey values are taken as colours",
                "save all masks in one way",
                "warning",
            )
        )
    return problems
