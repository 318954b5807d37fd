"""What readers of published image files have in common: folders of their own, groups by name, official splits."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from casam_cache.datasets.base import FilesDone
from casam_cache.datasets.folder import FolderReader
from casam_cache.datasets.listing import entries, facts_below, is_folder
from casam_cache.datasets.parts import Found
from casam_cache.datasets.places import Place
from casam_cache.datasets.sample import Dataset, DatasetOptions, Problem


class PairedReader(FolderReader):
    """Reads image files and mask files from the folders that `places` names."""

    precedence: ClassVar[int] = 2

    @abstractmethod
    def places(self, path: Path, options: DatasetOptions) -> list[Place]:
        """The pairs of folders; empty where the folder is not laid out so.

        Raises:
            DatasetError: it can be read in two ways.
        """

    def group(self, one: Found) -> str:
        """What must not be parted, of an image."""
        return one.id

    def recognises(self, path: Path) -> bool:
        try:
            return bool(self.places(path, DatasetOptions()))
        except OSError:
            return False

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        """The dataset; masks of one folder may be of images in several.

        Raises:
            DatasetError: nothing in it can be used.
        """
        dataset = super().read(path, task, options, progress)
        used = {mask for sample in dataset.samples for mask in sample.masks}
        orphan = "a mask without an image"
        kept = [one for one in dataset.problems if not (one.path in used and one.message.startswith(orphan))]
        return replace(dataset, problems=tuple(kept))

    def find(self, path: Path, options: DatasetOptions) -> tuple[list[Found], list[Problem], str]:
        """Images with their groups; folders are the split where they hold test images and no other is asked for."""
        found, problems, note = super().find(path, options)
        official = "test" in {one.folder_split for one in found} and options.test_fraction < 1
        told = sorted({one.folder_split for one in found if one.folder_split})
        if len(told) > 1 and not official and options.test_fraction < 1 and options.split_by is None:
            message = (
                f"its folders hold {' and '.join(told)} images and none for test: a split is drawn over all"
            )
            problems = [*problems, Problem(".", message, "put the test images beside them", "warning")]
        for one in found:
            one.group = self.group(one)
            one.name = one.name if one.folder_split else one.id
            one.folder_split = one.folder_split if official else None
        return found, problems, note

    def files(self, path: Path) -> list[tuple[str, int, int]]:
        return facts_below(path)


def folders_in(path: Path) -> list[str]:
    """Names of the folders directly in a folder."""
    return [entry.name for entry in entries(path) if is_folder(entry)] if path.is_dir() else []


def named(path: Path, *names: str) -> str | None:
    """The folder directly in `path` that has one of these names, whatever its case; None where there is none."""
    found = {name.casefold(): name for name in folders_in(path)}
    return next((found[name] for name in names if name in found), None)
