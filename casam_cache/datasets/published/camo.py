"""CAMO: images in `Images/Train` and `Images/Test`, the masks of both in `GT/`."""

from __future__ import annotations

from pathlib import Path

from casam_cache.datasets.places import Place
from casam_cache.datasets.published.paired import PairedReader, named
from casam_cache.datasets.sample import DatasetOptions, SplitName

_PARTS: tuple[tuple[str, SplitName], ...] = (("train", "train"), ("test", "test"))


class Camo(PairedReader):
    """Reads both folders with their official split."""

    name = "camo"

    def places(self, path: Path, options: DatasetOptions) -> list[Place]:
        images, masks = named(path, "images"), named(path, "gt")
        if images is None or masks is None:
            return []
        parts = [(named(path / images, part), split) for part, split in _PARTS]
        if any(part is None for part, _ in parts) or named(path / masks, "train", "test"):
            return []
        return [Place(f"{images}/{part}/", f"{masks}/", f"{part}/", split) for part, split in parts]
