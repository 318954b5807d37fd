"""BTCV and AMOS: abdominal volumes, in the folders of their challenges."""

from __future__ import annotations

import re
from pathlib import Path

from casam_cache.datasets.listing import entries
from casam_cache.datasets.sample import DatasetOptions, Problem
from casam_cache.datasets.volumes.case import Case
from casam_cache.datasets.volumes.cases import Found
from casam_cache.datasets.volumes.read import is_volume, volume_stem
from casam_cache.datasets.volumes.reader import VolumeReader


class Btcv(VolumeReader):
    """Reads `img/img0001.nii.gz` with `label/label0001.nii.gz`."""

    name = "btcv"
    precedence = 2

    def recognises(self, path: Path) -> bool:
        return _any(path / "img", r"img\d+") and _any(path / "label", r"label\d+")

    def find(self, path: Path, options: DatasetOptions) -> Found:
        problems: list[Problem] = []
        images = {stem.removeprefix("img"): name for stem, name in _volumes(path, "img").items()}
        labels = {stem.removeprefix("label"): name for stem, name in _volumes(path, "label").items()}
        cases = [Case(f"img{number}", image, labels.get(number), number) for number, image in images.items()]
        problems += _orphans(labels, images)
        return Found(tuple(cases), tuple(problems), _example("BTCV", cases))


class Amos(VolumeReader):
    """Reads training and validation; the masks of its test volumes are not public."""

    name = "amos"
    precedence = 2

    def recognises(self, path: Path) -> bool:
        return _any(path / "labelsTr", r"amos_\d+") and _any(path / "imagesTr", r"amos_\d+")

    def find(self, path: Path, options: DatasetOptions) -> Found:
        cases: list[Case] = []
        problems: list[Problem] = []
        for part in ("Tr", "Va"):
            images, labels = _volumes(path, f"images{part}"), _volumes(path, f"labels{part}")
            cases += [Case(stem, image, labels.get(stem), stem) for stem, image in images.items()]
            problems += _orphans(labels, images)
        notes = list(_example("AMOS", cases))
        left = len(_volumes(path, "imagesTs"))
        if left:
            notes.append(f"{left} volumes of imagesTs/ have no public masks and are not read")
        return Found(tuple(cases), tuple(problems), tuple(notes))


def _any(folder: Path, pattern: str) -> bool:
    try:
        return any(re.fullmatch(pattern, volume_stem(entry.name)) for entry in entries(folder))
    except OSError:
        return False


def _volumes(root: Path, folder: str) -> dict[str, str]:
    """Stem and relative path of the volumes in a folder."""
    if not (root / folder).is_dir():
        return {}
    names = [entry.name for entry in entries(root / folder) if is_volume(Path(entry.path))]
    return {volume_stem(name): f"{folder}/{name}" for name in names}


def _orphans(labels: dict[str, str], images: dict[str, str]) -> list[Problem]:
    return [
        Problem(labels[stem], "labels without an image", "copy its image again", "warning")
        for stem in sorted(labels.keys() - images.keys())
    ]


def _example(name: str, cases: list[Case]) -> tuple[str, ...]:
    found = next((case for case in cases if case.labels), None)
    return (f"{name}: {found.image} with {found.labels}",) if found else ()
