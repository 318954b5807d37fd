"""EBHI-SEG: a folder a class of tissue, in it `image/` and `label/`."""

from __future__ import annotations

import re
from pathlib import Path

from casam_cache.datasets.parts import Found
from casam_cache.datasets.places import Place
from casam_cache.datasets.published.paired import PairedReader, folders_in
from casam_cache.datasets.sample import DatasetOptions

CLASSES = (
    "adenocarcinoma", "high-grade in", "low-grade in", "normal", "polyp", "serrated adenoma",
)  # fmt: skip
_OWN = {
    "adenocarcinoma",
    "high-grade in",
    "low-grade in",
    "serrated adenoma",
}  # folders `normal` are anybody's
_BIOPSY = re.compile(r"[A-Za-z]*\d+(?=-)")


class EbhiSeg(PairedReader):
    """Reads all classes of tissue as one task; the group of an image is its biopsy."""

    name = "ebhi-seg"

    def places(self, path: Path, options: DatasetOptions) -> list[Place]:
        found = [
            Place(f"{name}/image/", f"{name}/label/", f"{name}/")
            for name in folders_in(path)
            if name.casefold() in CLASSES and {"image", "label"} <= set(folders_in(path / name))
        ]
        own = any(place.prefix.rstrip("/").casefold() in _OWN for place in found)
        return found if len(found) > 1 and own else []

    def group(self, one: Found) -> str:
        match = _BIOPSY.match(one.name)
        return match[0] if match else one.id
