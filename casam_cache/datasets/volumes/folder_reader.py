"""The reader of plain folders of volumes: `images/` + `labels/`, volumes beside their labels, or volumes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from casam_cache.datasets.listing import entries, facts_below
from casam_cache.datasets.sample import SPLITS, DatasetOptions, Problem, SplitName
from casam_cache.datasets.volumes.case import Case
from casam_cache.datasets.volumes.cases import ORPHAN, Found
from casam_cache.datasets.volumes.channels import asked_channel
from casam_cache.datasets.volumes.places import holds_volumes, volumes_in
from casam_cache.datasets.volumes.read import is_volume, volume_stem, volume_suffix
from casam_cache.datasets.volumes.reader import VolumeReader
from casam_cache.errors import DatasetError

LABEL_FOLDERS = ("labels", "masks", "annotations", "gt", "segmentations")
_WORDS = ("masks", "mask", "labels", "label", "segmentation", "seg", "gt")
MARKS = tuple(f"{separator}{word}" for separator in "_-." for word in _WORDS)  # 3D Slicer writes x.seg.nrrd
_PREFIXED = re.compile(rf"(?:{'|'.join(_WORDS)})[ ._-]?(.+)", re.IGNORECASE)
_OF_IMAGES = re.compile(r"(?:image|imaging|img|volume|vol|scan)[ ._-]?(.+)", re.IGNORECASE)


class VolumeFolderReader(VolumeReader):
    """Reads volumes by their names; also a single file, without labels."""

    name = "volume-folder"

    def recognises(self, path: Path) -> bool:
        if path.is_file():
            return is_volume(path)
        if any(holds_volumes(path / folder / "images") for folder in ("", *SPLITS)):
            return True
        if (path / "images").is_dir() or (path / "imagesTr").is_dir():
            return False
        try:
            names = [entry.name for entry in entries(path) if not entry.is_dir()]
        except OSError:
            return False
        # Loose .npy files may be anything, and loose .dcm files are a series.
        suffixes = {volume_suffix(name) for name in names}
        return bool(suffixes & {".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"})

    def find(self, path: Path, options: DatasetOptions) -> Found:
        channel = asked_channel(options)
        if path.is_file():
            name = volume_stem(path.name)
            case = Case(name, "", None, name, None, channel, options.series)
            note = "one volume without labels: its slices are encoded unlabelled"
            return Found((case,), notes=(note,), unlabelled=True)
        problems: list[Problem] = []
        cases: list[Case] = []
        splits = [split for split in SPLITS if (path / split / "images").is_dir()]
        if (path / "images").is_dir() and splits:
            raise DatasetError(
                f"{path}: holds both images/ and {splits[0]}/images/", "keep one of the two layouts"
            )
        if splits:
            for split in splits:
                cases += _paired(path, f"{split}/", split, channel, options, problems)
            return Found(tuple(cases), tuple(problems), folder_splits="folders train/ and test/")
        if (path / "images").is_dir():
            cases = _paired(path, "", None, channel, options, problems)
        else:
            cases = _beside(path, channel, options, problems)
        return Found(tuple(cases), tuple(problems), _recognised(cases))

    def files(self, path: Path) -> list[tuple[str, int, int]]:
        if not path.is_file():
            return facts_below(path)
        stem = volume_stem(path.name)
        return [
            facts
            for facts in _facts_in(path.parent)
            if facts[0] == path.name or facts[0].startswith(f"{stem}.")
        ]


def _facts_in(folder: Path) -> list[tuple[str, int, int]]:
    found = []
    for entry in entries(folder):
        if entry.is_file():
            status = entry.stat()
            found.append((entry.name, status.st_size, status.st_mtime_ns))
    return found


def _paired(
    root: Path,
    prefix: str,
    split: SplitName | None,
    channel: int | None,
    options: DatasetOptions,
    problems: list[Problem],
) -> list[Case]:
    """Cases of `images/` and the one folder of labels beside it."""
    images = volumes_in(root, f"{prefix}images", problems)
    there = [name for name in LABEL_FOLDERS if (root / prefix / name).is_dir()]
    if len(there) > 1:
        raise DatasetError(
            f"{root / prefix}: labels may be in {there[0]}/ or in {there[1]}/", "keep one of the two folders"
        )
    labels = volumes_in(root, f"{prefix}{there[0]}", problems) if there else {}
    return cases_of(images, labels, prefix, split, channel, options.series, problems)


def _beside(root: Path, channel: int | None, options: DatasetOptions, problems: list[Problem]) -> list[Case]:
    """Cases of a folder that holds all: a label volume has the name of its image and a mark behind it."""
    everything: dict[str, list[str]] = {}
    for entry in entries(root):
        if not entry.is_dir() and is_volume(Path(entry.path)):
            everything.setdefault(volume_stem(entry.name), []).append(entry.name)
    labels = {stem: names for stem, names in everything.items() if _unmarked(stem) in everything}
    if not labels:
        cores = _cores(stem for stem in everything if not _PREFIXED.fullmatch(stem))
        labels = {stem: names for stem, names in everything.items() if _owner(stem, cores)}
    images = {stem: names for stem, names in everything.items() if stem not in labels}
    return cases_of(images, labels, "", None, channel, options.series, problems)


def _unmarked(stem: str) -> str | None:
    """The name of the image that a label's name is made of; None where it has no mark."""
    mark = next((mark for mark in sorted(MARKS, key=len, reverse=True) if stem.lower().endswith(mark)), None)
    return stem[: -len(mark)] if mark else None


def _cores(images: Iterable[str]) -> dict[str, list[str]]:
    """Images by what their names share with labels: `0` of `volume-0`."""
    cores: dict[str, list[str]] = {}
    for stem in images:
        match = _OF_IMAGES.fullmatch(stem)
        cores.setdefault((match[1] if match else stem).lower(), []).append(stem)
    return cores


def _owner(label: str, cores: dict[str, list[str]]) -> str | None:
    """The one image that a name such as `segmentation-0` belongs to."""
    match = _PREFIXED.fullmatch(label)
    owners = cores.get(match[1].lower(), []) if match else []
    return owners[0] if len(owners) == 1 else None


def _by_prefix(images: dict[str, list[str]], labels: dict[str, list[str]]) -> dict[str, list[str]]:
    """Labels of names such as `segmentation-0` beside `volume-0` under the name of their image."""
    cores = _cores(images)
    found: dict[str, list[str]] = {}
    for stem, names in labels.items():
        own = None if stem in images else _owner(stem, cores)
        found.setdefault(own or stem, []).extend(names)
    return found


def cases_of(
    images: dict[str, list[str]],
    labels: dict[str, list[str]],
    prefix: str,
    split: SplitName | None,
    channel: int | None,
    series: str | None,
    problems: list[Problem],
) -> list[Case]:
    """Images with the labels of their name, or of their name and a mark; what has no partner is a problem."""
    cases, used = [], set[str]()
    labels = _by_prefix(images, labels)
    for stem, names in sorted(images.items()):
        partners = [other for other in (stem, *(stem + mark for mark in MARKS)) if other in labels]
        used.update(partners)
        files = [name for other in partners for name in labels[other]]
        if len(names) > 1 or len(files) > 1:
            twice, what = (names, "volumes") if len(names) > 1 else (files, "label volumes")
            problems.append(
                Problem(
                    twice[0],
                    f"two {what} of one name: {' and '.join(sorted(twice))}",
                    "keep one",
                    sample=stem,
                )
            )
            continue
        name = prefix + stem
        cases.append(Case(name, names[0], files[0] if files else None, stem, split, channel, series))
    for other in sorted(set(labels) - used):
        problems += [
            Problem(name, ORPHAN, "give them the name of their image", "warning") for name in labels[other]
        ]
    return cases


def _recognised(cases: Iterable[Case]) -> tuple[str, ...]:
    """An example pair, so that a wrong pairing is seen before anything is encoded."""
    example = next((case for case in cases if case.labels is not None), None)
    return (f"volumes: {example.image} with {example.labels}",) if example else ()
