"""Look at everything in a dataset before anything expensive is done with it, and report every problem."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.arrays import read_array, read_masks
from casam_cache.datasets.duplicates import Look, across_splits, look_of
from casam_cache.datasets.folder import problem_of
from casam_cache.datasets.images import to_rgb
from casam_cache.datasets.readers import find_tasks, read_dataset, task_name
from casam_cache.datasets.sample import SPLITS, Dataset, DatasetOptions, Problem, Sample
from casam_cache.errors import DatasetError, ImageError, memory_for
from casam_cache.fingerprint import digest_file

ImagesDone = Callable[[int, int], None]
"""Called with (images read, images in all)."""


@dataclass(frozen=True)
class ClassReport:
    """One class of a task: objects, images that hold it, its mean share of the area of these images, and its name.

    The name is that of a legend, empty where there is none.
    """

    class_id: int
    objects: int
    images: int
    area: float
    name: str = ""


@dataclass(frozen=True)
class SplitReport:
    """One split of a task: images, groups and objects in it."""

    images: int
    groups: int
    objects: int


@dataclass(frozen=True)
class TaskReport:
    """What one dataset holds; all of it plain JSON data.

    Attributes:
        task: its name.
        path: its folder.
        images: usable images.
        objects: masks in them, in the sense of `mask_mode`.
        empty: images whose mask is empty.
        unlabelled: images without a mask.
        mask_mode: one of `MASK_MODES`; empty when the dataset could not be read.
        mask_reason: how it was decided.
        split_source: where the split came from.
        splits: by name, those that have images.
        groups: number of groups in all.
        classes: in the order of their numbers.
        sizes: smallest and largest by area, and most common (height, width); none when no image was readable.
        kinds: number of images by channels and bits, e.g. `{"grey 16 bit": 3, "RGB 8 bit": 10}`.
        problems: everything found wrong.
        notes: as in `Dataset`.
    """

    task: str
    path: str
    images: int = 0
    objects: int = 0
    empty: int = 0
    unlabelled: int = 0
    mask_mode: str = ""
    mask_reason: str = ""
    split_source: str = ""
    splits: dict[str, SplitReport] = field(default_factory=dict)
    groups: int = 0
    classes: tuple[ClassReport, ...] = ()
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        """Number of problems that cost something: an image, a mask, or the whole dataset."""
        return sum(problem.severity == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "errors": self.errors, "warnings": len(self.problems) - self.errors}


@dataclass(frozen=True)
class CheckReport:
    """The reports of all tasks of one path, and the datasets that could be read (for contact sheets)."""

    tasks: tuple[TaskReport, ...]
    datasets: tuple[Dataset, ...] = ()

    @property
    def errors(self) -> int:
        return sum(task.errors for task in self.tasks)

    def to_json(self) -> dict[str, Any]:
        return {"tasks": [task.to_json() for task in self.tasks], "errors": self.errors}


@dataclass(frozen=True)
class _Look:
    size: tuple[int, int] | None = None
    kind: str = ""
    digest: str = ""
    look: Look | None = None
    areas: tuple[tuple[int, float], ...] = ()  # class and share of the image, one an object
    problems: tuple[Problem, ...] = ()
    masks_read: bool = False


def check(
    path: Path | str,
    options: DatasetOptions | None = None,
    progress: ImagesDone | None = None,
    reader: str | None = None,
) -> CheckReport:
    """Decode every image and mask below `path` and report what is there.

    Args:
        path: a dataset folder or a folder of them.
        options: what to make of them.
        progress: called with (images done, images in all) for each task anew.
        reader: as in `find_reader`.

    Raises:
        DatasetError: there is no dataset at `path`. A dataset that cannot be read becomes a problem of its
            report.
    """
    reports, datasets = [], []
    named = options.dataset if options else None
    for folder in find_tasks(path, reader, named):
        try:
            dataset = read_dataset(folder, options, reader=reader)
        except DatasetError as error:
            message = error.message.removeprefix(f"{folder}: ")
            problem = Problem(".", message, error.hint)
            reports.append(TaskReport(task_name(folder, named), str(folder), problems=(problem,)))
            continue
        datasets.append(dataset)
        reports.append(check_dataset(dataset, progress))
    return CheckReport(tuple(reports), tuple(datasets))


def check_dataset(dataset: Dataset, progress: ImagesDone | None = None) -> TaskReport:
    """Decode every image and mask of one dataset and report what is there; never raises for a bad file."""
    known = {(problem.sample, problem.path) for problem in dataset.problems if problem.severity == "error"}
    looks: list[_Look] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for look in pool.map(lambda sample: _look(sample, dataset), dataset.samples):
            looks.append(look)
            if progress:
                progress(len(looks), len(dataset.samples))
    found = [one for look in looks for one in look.problems if (one.sample, one.path) not in known]
    problems = (*dataset.problems, *found, *_duplicates(dataset, looks), *_odd_splits(dataset, looks))
    sizes = Counter(look.size for look in looks if look.size)
    shares: dict[int, list[tuple[int, float]]] = {}
    for number, look in enumerate(looks):
        for class_id, share in look.areas:
            shares.setdefault(class_id, []).append((number, share))
    names = dataset.values.class_names
    return TaskReport(
        task=dataset.task,
        path=str(dataset.root),
        images=len(dataset.samples),
        objects=sum(len(look.areas) for look in looks),
        empty=sum(
            sample.labelled and look.masks_read and not look.areas
            for sample, look in zip(dataset.samples, looks, strict=True)
        ),
        unlabelled=sum(not sample.labelled for sample in dataset.samples),
        mask_mode=dataset.mask_mode,
        mask_reason=dataset.mask_reason,
        split_source=dataset.split_source,
        splits=_splits(dataset, looks),
        groups=len({sample.group for sample in dataset.samples}),
        classes=tuple(_class_report(one, shares[one], names.get(one, "")) for one in sorted(shares)),
        sizes=_sizes(sizes),
        kinds=dict(sorted(Counter(look.kind for look in looks if look.kind).items())),
        problems=problems,
        notes=dataset.notes,
    )


def _look(sample: Sample, dataset: Dataset) -> _Look:
    reader, root, name = dataset.reader, dataset.root, sample.source
    problems: list[Problem] = []
    try:
        with memory_for(str(root / name), ImageError):
            array = read_array(reader, root, name, dataset.options.max_pixels)
            image = to_rgb(array, root / name)
    except ImageError as error:
        return _Look(problems=(problem_of(error, name, root, sample.id),))
    bits = 1 if array.dtype == np.bool_ else 8 * array.dtype.itemsize
    if array.min() == array.max():
        value = int(array.flat[0]) if bits == 1 else array.flat[0]
        message = f"a constant image: every value is {value}"
        problems.append(Problem(name, message, "look at it; it teaches nothing", "warning", sample.id))
    size = (array.shape[0], array.shape[1])
    kind = f"{'grey' if array.ndim == 2 else 'RGB'} {bits} bit"
    file = reader.file_of(name)
    digest = "" if file is None else digest_file(root / file)
    look = look_of(image)
    try:
        masks = read_masks(dataset, sample, size)
        areas = tuple((mask.class_id, mask.cutout.area / (size[0] * size[1])) for mask in masks)
    except ImageError as error:
        named = (mask for mask in sample.masks if error.message.startswith(f"{root / mask}:"))
        problems.append(problem_of(error, next(named, [*sample.masks, name][0]), root, sample.id))
        return _Look(size, kind, digest, look, (), tuple(problems))
    return _Look(size, kind, digest, look, areas, tuple(problems), True)


def _duplicates(dataset: Dataset, looks: Sequence[_Look]) -> list[Problem]:
    """Images that are in two splits: the test would have been seen in training."""
    return across_splits(dataset.samples, [look.look for look in looks], [look.digest for look in looks])


def empty_masks(images: int) -> Problem:
    """The warning for a dataset of which every mask is empty: no split could help."""
    return Problem(
        ".", f"no object in any mask: those of all {images} images are background alone",
        "look at a mask or annotation and export it again; or remove all of them and use --unlabelled",
        "warning",
    )  # fmt: skip


def _odd_splits(dataset: Dataset, looks: Sequence[_Look]) -> list[Problem]:
    """Splits that cannot do their part: nothing to learn from, or a class that is only tested."""
    by_split: dict[str, set[int]] = {}
    for sample, look in zip(dataset.samples, looks, strict=True):
        by_split.setdefault(sample.split, set()).update(class_id for class_id, _ in look.areas)
    problems = []
    labelled = any(sample.labelled for sample in dataset.samples)
    if any(look.masks_read for look in looks) and labelled and not any(by_split.values()):
        return [empty_masks(sum(sample.labelled for sample in dataset.samples))]
    looked = zip(dataset.samples, looks, strict=True)
    read = {sample.split for sample, look in looked if look.masks_read and sample.labelled}
    for split, classes in by_split.items():
        if labelled and not classes and split in read and any(by_split.values()):
            hint = "its masks are empty, those of other splits are not: check the split, or these masks"
            problems.append(Problem(".", f"no object in any mask of {split}", hint, "warning"))
    if by_split.get("train"):
        unseen = sorted(by_split.get("test", set()) - by_split["train"])
        if unseen:
            names = ", ".join(map(str, unseen[:8]))
            problems.append(
                Problem(".", f"tested but never trained: class {names}", "check the split", "warning")
            )
    return problems


def _splits(dataset: Dataset, looks: Sequence[_Look]) -> dict[str, SplitReport]:
    reports: dict[str, SplitReport] = {}
    for split in SPLITS:
        chosen = [
            (sample, look)
            for sample, look in zip(dataset.samples, looks, strict=True)
            if sample.split == split
        ]
        if chosen:
            groups = len({sample.group for sample, _ in chosen})
            reports[split] = SplitReport(len(chosen), groups, sum(len(look.areas) for _, look in chosen))
    return reports


def _class_report(class_id: int, shares: list[tuple[int, float]], name: str) -> ClassReport:
    """Counts of one class from the (image number, share of its area) of its objects."""
    by_image: dict[int, float] = {}
    for number, share in shares:
        by_image[number] = by_image.get(number, 0.0) + share
    return ClassReport(class_id, len(shares), len(by_image), float(np.mean(list(by_image.values()))), name)


def _sizes(sizes: Counter[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    if not sizes:
        return {}
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    common = min(sizes, key=lambda size: (-sizes[size], size))
    return {"smallest": by_area[0], "largest": by_area[-1], "most_common": common}
