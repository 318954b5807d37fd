"""The reader of folders of NumPy volumes, taken where it is named: as files they may be images just as well."""

from __future__ import annotations

from pathlib import Path

from casam_cache.datasets.listing import walk
from casam_cache.datasets.sample import SPLITS
from casam_cache.datasets.volumes.folder_reader import VolumeFolderReader
from casam_cache.datasets.volumes.numpy_files import SUFFIXES


class NumpyVolumeReader(VolumeFolderReader):
    """Reads `images/` and `labels/` of `.npy` and `.npz` files as volumes of the axes (slice, row, column)."""

    name = "numpy-volumes"
    precedence = 0

    def recognises(self, path: Path) -> bool:
        try:
            return any(_holds_numpy(path / folder / "images") for folder in ("", *SPLITS))
        except OSError:
            return False


def _holds_numpy(folder: Path) -> bool:
    names = [name.lower() for name, _ in walk(folder)] if folder.is_dir() else []
    return bool(names) and all(name.endswith(SUFFIXES) for name in names)
