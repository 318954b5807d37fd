"""NuInsSeg: a folder an organ, in it `tissue images/` and `label masks modify/` with a number a nucleus."""

from __future__ import annotations

from pathlib import Path

from casam_cache.datasets.places import Place
from casam_cache.datasets.published.paired import PairedReader, folders_in
from casam_cache.datasets.sample import DatasetOptions

_IMAGES, _MASKS = "tissue images", "label masks modify"


class NuInsSeg(PairedReader):
    """Reads all organs as one task; its other folders of masks hold the same nuclei in other ways."""

    name = "nuinsseg"
    meant = "instances"

    def places(self, path: Path, options: DatasetOptions) -> list[Place]:
        return [
            Place(f"{organ}/{_IMAGES}/", f"{organ}/{_MASKS}/", f"{organ}/")
            for organ in folders_in(path)
            if {_IMAGES, _MASKS} <= set(folders_in(path / organ))
        ]
