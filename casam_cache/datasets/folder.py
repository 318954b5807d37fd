"""The reader of plain folders: `images/` + `masks/`, with `split.csv`, split folders, or a seeded split."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from casam_cache.datasets.assign import assign_splits
from casam_cache.datasets.base import FilesDone, Reader
from casam_cache.datasets.images import image_suffixes, load_array
from casam_cache.datasets.labels import (
    MANY_CLASSES,
    ImageHeader,
    MaskScan,
    decide_mode,
    gather_values,
    scan_files,
)
from casam_cache.datasets.listing import SPLIT_CSV, is_dataset, listing, split_folders, walk
from casam_cache.datasets.masks import iter_masks, size_mismatch
from casam_cache.datasets.sample import Dataset, DatasetOptions, Mask, MaskValues, Problem, Sample, SplitName
from casam_cache.errors import CasamError, DatasetError

EXPECTED = (
    "a dataset is a folder with images/ and masks/ (same file names), "
    "or with train/ and test/ that each hold the two"
)


@dataclass
class _Found:
    """One image on its way to becoming a sample; `name` is its id without the split folder in front."""

    id: str
    name: str
    image: str
    folder_split: SplitName | None
    masks: tuple[str, ...] = ()
    labelled: bool = True
    one_object_a_file: bool = False


@dataclass
class _Part:
    """One pair of `images/` and `masks/`: the dataset folder itself, or one of its split folders."""

    root: Path
    prefix: str
    split: SplitName | None
    problems: list[Problem] = field(default_factory=list)

    def files(self, kind: str) -> dict[str, list[str]]:
        """Paths relative to the dataset folder of all image files in `kind`, by normalised stem path."""
        found: dict[str, list[str]] = {}
        folder = self.root / self.prefix / kind
        for name, _ in walk(folder) if folder.is_dir() else ():
            path = f"{self.prefix}{kind}/{name}"
            pure = PurePosixPath(name)
            if not name.isprintable():  # also true for bytes that are no UTF-8, which no store could keep
                shown = name.encode("utf-8", "backslashreplace").decode()
                self.problems.append(
                    Problem(
                        f"{self.prefix}{kind}/{shown}", "a file name that is not printable text", "rename it"
                    )
                )
            elif pure.suffix.lower() not in image_suffixes():
                self.problems.append(
                    Problem(path, "not an image by its suffix, ignored", "move it elsewhere", "warning")
                )
            else:
                stem = unicodedata.normalize("NFC", pure.with_suffix("").as_posix())
                found.setdefault(stem, []).append(path)
        return found

    def read(self, unlabelled: bool) -> list[_Found]:
        """Every image that has one file, with its masks; the rest becomes problems."""
        images, masks = self.files("images"), self.files("masks")
        objects: dict[str, list[str]] = {}
        for stem in [stem for stem in masks if stem not in images]:
            parent = stem.rpartition("/")[0]
            if parent in images:
                objects.setdefault(parent, []).extend(masks.pop(stem))
        found = []
        for stem, paths in sorted(images.items()):
            if len(paths) > 1:
                self.refuse(stem, paths, "two images of one name")
                masks.pop(stem, None)
                continue
            one = _Found(self.prefix + stem if self.split else stem, stem, paths[0], self.split)
            if self.attach(one, masks.pop(stem, []), objects.get(stem, []), unlabelled):
                found.append(one)
        for paths in masks.values():
            self.problems.extend(
                Problem(
                    path, "a mask without an image", "give it the name of its image, or remove it", "warning"
                )
                for path in paths
            )
        return found

    def attach(self, one: _Found, maps: list[str], objects: list[str], unlabelled: bool) -> bool:
        """Give an image its masks; False when it cannot be used."""
        folder = self.root / self.prefix / "masks" / one.name
        if len(maps) + bool(objects) > 1:
            self.refuse(one.id, [*maps, *objects[:1]], "two masks of one name")
            return False
        one.masks = tuple(sorted(maps or objects))
        one.one_object_a_file = bool(objects) or (not maps and folder.is_dir())
        one.labelled = bool(one.masks) or one.one_object_a_file
        if one.labelled or unlabelled:
            return True
        wanted = f"{self.prefix}masks/{one.name}.png"
        self.problems.append(
            Problem(
                one.image, "no mask", f"add {wanted} (all black if empty), or use --unlabelled", sample=one.id
            )
        )
        return False

    def refuse(self, sample: str, paths: Sequence[str], what: str) -> None:
        paths = sorted(paths)
        self.problems.append(Problem(paths[0], f"{what}: {' and '.join(paths)}", "keep one", sample=sample))


class FolderReader(Reader):
    """Reads a folder of image files and mask files."""

    name = "folder"

    def recognises(self, path: Path) -> bool:
        return is_dataset(path)

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        """Read one dataset folder.

        Raises:
            DatasetError: nothing in it can be used, or its split is wrong as a whole.
        """
        parts = _parts(path)
        found = [one for part in parts for one in part.read(options.unlabelled)]
        problems = [problem for part in parts for problem in part.problems]
        _refuse_empty(path, parts, found, problems)
        found.sort(key=lambda one: one.id)
        samples, source = assign_splits(path, found, options, problems)
        scans, headers = scan_files(
            [path / mask for sample in samples for mask in sample.masks],
            [path / sample.source for sample in samples],
            options.max_pixels,
            progress,
        )
        values = gather_values(scans)
        mode, reason = decide_mode(options.masks, values, any(sample.one_object_a_file for sample in samples))
        problems += _file_problems(path, samples, scans, headers, values)
        problems += _value_problems(scans, values, mode, options)
        return Dataset(task, path, tuple(samples), mode, reason, values, tuple(problems), source, options)

    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        return load_array(root / source, max_pixels)

    def masks(self, dataset: Dataset, sample: Sample, size: tuple[int, int] | None) -> Iterator[Mask]:
        return iter_masks(
            [dataset.root / name for name in sample.masks], dataset.mask_mode, dataset.values, size,
            one_object_a_file=sample.one_object_a_file, max_pixels=dataset.options.max_pixels,
        )  # fmt: skip

    def files(self, path: Path) -> list[tuple[str, int, int]]:
        """All of `images/` and `masks/`, and `split.csv`; whatever else lies in the folder does not matter."""
        return listing(path)

    def file_of(self, source: str) -> str:
        return source


def _parts(root: Path) -> list[_Part]:
    """The pairs of images and masks that `root` consists of.

    Raises:
        DatasetError: there is none, or two layouts are mixed.
    """
    folders = split_folders(root)
    plain = (root / "images").is_dir()
    if plain and folders:
        raise DatasetError(
            f"{root}: holds both images/ and {folders[0]}/images/", "keep one of the two layouts: " + EXPECTED
        )
    if folders and (root / SPLIT_CSV).is_file():
        raise DatasetError(
            f"{root}: holds both {SPLIT_CSV} and {folders[0]}/",
            f"keep one of the two: remove {SPLIT_CSV}, or put all images into images/",
        )
    if not plain and not folders:
        raise DatasetError(f"{root}: no images/ folder", EXPECTED)
    if plain:
        return [_Part(root, "", None)]
    return [_Part(root, f"{name}/", name) for name in ("train", "val", "test") if name in folders]


def _refuse_empty(root: Path, parts: list[_Part], found: list[_Found], problems: list[Problem]) -> None:
    """Raise when there is nothing to work with, saying the most likely reason."""
    if found:
        return
    folders = [part.prefix for part in parts]
    missing = [prefix for prefix in folders if not (root / prefix / "masks").is_dir()]
    images = [problem.path for problem in problems if problem.message == "no mask"]
    if images and missing:
        raise DatasetError(
            f"{root}: no {missing[0]}masks/ folder",
            "add masks with the names of the images, or use --unlabelled to encode images without masks",
        )
    if images:
        orphans = [problem.path for problem in problems if problem.message == "a mask without an image"]
        example = f"{images[0]} and {orphans[0]}" if orphans else f"{images[0]}, and no mask at all"
        raise DatasetError(
            f"{root}: no mask has the name of an image, for example {example}",
            "a mask needs the file name of its image (the suffix may differ), or use --unlabelled",
        )
    if problems:
        raise DatasetError(f"{root}: no usable image, for example {problems[0]}", EXPECTED)
    raise DatasetError(
        f"{root}: {folders[0]}images/ is empty", "put the images there, or give another folder"
    )


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
                error = size_mismatch(root / name, scan.size, header.size)
            if error:
                problems.append(problem_of(error, name, root, sample.id))
            elif values.coloured and not scan.coloured and any(value > 255 for value in scan.values):
                message = "a label map of more than 8 bits among colour masks"
                hint = "save all masks of the dataset in one way, as label numbers or as colours"
                problems.append(Problem(name, message, hint, sample=sample.id))
            elif scan.lossy:
                what = "cut at 127" if values.threshold else "its values are no longer exact"
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
    if coloured and grey:
        problems.append(
            Problem(
                "masks",
                f"{coloured} masks in colour and {grey} in grey; grey values are taken as colours",
                "save all masks in one way",
                "warning",
            )
        )
    return problems
