"""KPIs 2024, glomeruli: a folder a class, in it a folder a slide, in it `img/` and `mask/`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from casam_cache.datasets.listing import entries
from casam_cache.datasets.parts import Found
from casam_cache.datasets.places import Place
from casam_cache.datasets.published.paired import PairedReader, folders_in
from casam_cache.datasets.sample import DatasetOptions, SplitName
from casam_cache.datasets.splits import SPLIT_FOLDERS
from casam_cache.errors import DatasetError

CLASSES = ("56nx", "dn", "nep25", "normal")
_FILE = re.compile(r".+_\d+_\d+_\d+_img\.\w+", re.IGNORECASE)
_DEPTH = 4
_ON_THE_WAY = re.compile(r"kpis|task1|data|patch", re.IGNORECASE)


class Kpis(PairedReader):
    """Reads the patches of one class; the group of a patch is its slide."""

    name = "kpis"

    def recognises(self, path: Path) -> bool:
        """The folder of a class, or one above it that holds the same class for several splits."""
        try:
            if _is_class(path):
                return True
            names = [folder.name.casefold() for folder, _ in _classes(path)]
            return any(names.count(name) > 1 for name in names)
        except OSError:
            return False

    def places(self, path: Path, options: DatasetOptions) -> list[Place]:
        """The slides of the class, from all splits that are there.

        Raises:
            DatasetError: there are several classes and none was named, or a split of one is there twice.
        """
        if _is_class(path):
            return _slides(path, "", None)
        found = list(_classes(path))
        names = sorted({folder.name for folder, _ in found})
        wanted = (options.dataset or "").casefold()
        if wanted not in CLASSES:
            if len(names) != 1:
                raise DatasetError(
                    f"{path}: holds the classes {', '.join(names)}",
                    "--dataset 56Nx or --dataset DN takes one of them; or give the folder of one",
                )
            wanted = names[0].casefold()
        chosen = [(folder, split) for folder, split in found if folder.name.casefold() == wanted]
        splits = [split for _, split in chosen]
        if len(set(splits)) < len(splits):
            shown = " and ".join(str(folder.relative_to(path)) for folder, _ in chosen)
            raise DatasetError(
                f"{path}: the same split twice, or none by its name: {shown}", "give the folder that is meant"
            )
        return [
            place
            for folder, split in chosen
            for place in _slides(folder, f"{folder.relative_to(path).as_posix()}/", split)
        ]

    def group(self, one: Found) -> str:
        return one.image.split("/")[-3]


def _slides(folder: Path, front: str, split: SplitName | None) -> list[Place]:
    return [
        Place(f"{front}{slide}/img/", f"{front}{slide}/mask/", f"{front}{slide}/", split)
        for slide in folders_in(folder)
        if {"img", "mask"} <= set(folders_in(folder / slide))
    ]


def _is_class(folder: Path) -> bool:
    """Whether a folder holds slides; their files are named so, or it has the name of a class."""
    slides = _slides(folder, "", None)
    if not slides:
        return False
    if folder.name.casefold() in CLASSES:
        return True
    first = islice((entry.name for entry in entries(folder / slides[0].images)), 1)
    return any(_FILE.fullmatch(name) for name in first)


def _classes(path: Path) -> Iterator[tuple[Path, SplitName | None]]:
    """The folders of classes below, with the split that the folders on the way there name."""
    level: list[tuple[Path, SplitName | None]] = [(path, _split_of(path.name))]
    for _ in range(_DEPTH):
        below = []
        for folder, split in level:
            for name in folders_in(folder):
                inside = folder / name
                if name.casefold() in CLASSES:
                    if _is_class(inside):
                        yield inside, split
                elif _split_of(name) or _ON_THE_WAY.search(name):
                    below.append((inside, _split_of(name) or split))
        level = below


def _split_of(name: str) -> SplitName | None:
    words = re.findall(r"[a-z]+", name.lower())
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), None)
