"""What a label map can be predicted on as a volume: files of volumes, DICOM series, and TIFF stacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.listing import walk
from casam_cache.datasets.volumes import Volume, is_volume, read_volume
from casam_cache.datasets.volumes.dicom_files import may_be_dicom
from casam_cache.datasets.volumes.nifti import damaged
from casam_cache.errors import ImageError, OptionError

TIFF = (".tif", ".tiff")


def volume_source(path: Path, *, channel: int | None = None, series: str | None = None) -> Volume | None:
    """The volume at a path; None where an image or a folder of images is there, or nothing at all.

    Args:
        path: a file, or the folder of a DICOM series.
        channel: which of several volumes in one file, from 0.
        series: of a folder of several, which.

    Raises:
        ImageError: it cannot be read, or in several ways.
        OptionError: a folder of DICOM files and of images.
    """
    if path.is_dir():
        return read_volume(path, channel=channel, series=series) if _is_series(path) else None
    if path.suffix.lower() in TIFF:
        return _tiff_stack(path)
    return read_volume(path, channel=channel, series=series) if path.is_file() and is_volume(path) else None


def _is_series(folder: Path) -> bool:
    dicom, image = "", ""
    for name, entry in walk(folder):
        file = Path(entry.path)
        if may_be_dicom(file):
            dicom = dicom or name
        elif file.suffix.lower() in image_suffixes():
            image = image or name
    if dicom and image:
        raise OptionError(
            f"{folder} holds DICOM files ({dicom}) and images ({image}): a series, or a folder of images",
            "put one of the two into a folder of its own, or name one file",
        )
    return bool(dicom)


def _tiff_stack(path: Path) -> Volume | None:
    """A TIFF file of several pages as (slice, row, column); None where it has one.

    Raises:
        ImageError: it cannot be read, or has more axes than a stack of grey or RGB pages.
    """
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            shape, axes, pages = tuple(int(n) for n in series.shape), series.axes, len(file.pages)
    except FileNotFoundError:
        return None  # whoever reads it as an image says so
    except Exception as error:
        raise damaged(path, "TIFF", error) from error
    colour = axes.endswith("S") and shape[-1] in (3, 4)
    rows = shape[:-1] if colour else shape
    if pages < 2 or len(rows) == 2:
        return None
    if len(rows) != 3 or (not colour and axes.endswith("S")):
        raise ImageError(
            f"{path}: axes {axes} of shape {shape}, which are no stack of grey or RGB pages",
            "save one stack a file, a page a slice",
        )
    status = path.stat()

    def load() -> np.ndarray:
        try:
            array = tifffile.imread(path)
        except Exception as error:
            raise damaged(path, "TIFF", error) from error
        return array[..., :3] if colour else array

    return Volume(
        path, "tiff", (rows[0], rows[1], rows[2]), np.eye(4), (path.resolve(), status.st_size, status.st_mtime_ns),
        load, oriented=False, units="voxels", rows_first=True,
    )  # fmt: skip
