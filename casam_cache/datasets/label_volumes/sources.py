"""What a label map can be predicted on as a volume: files of volumes, DICOM series, and TIFF stacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from casam_cache.datasets.images import ANY_SIZE, image_header, image_suffixes, load_array
from casam_cache.datasets.listing import walk
from casam_cache.datasets.volumes import Volume, is_volume, read_volume
from casam_cache.datasets.volumes.dicom_files import may_be_dicom
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
    if path.suffix.lower() == ".npy" and path.is_file() and image_header(path).pages < 2:
        return None  # an array of two axes, or of colour, is an image
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
    """A TIFF file of several pages as (slice, row, column), each page as an image is read; None where it has one."""
    if not path.is_file():
        return None  # whoever reads it as an image says so
    header = image_header(path, ANY_SIZE)  # a slide is none, however large
    pages = header.pages
    if pages < 2:
        return None
    status = path.stat()

    def load() -> np.ndarray:
        read = [load_array(path.with_name(f"{path.name}#{number}")) for number in range(1, pages + 1)]
        shapes = {page.shape for page in read}
        if len(shapes) > 1:
            raise ImageError(
                f"{path}: pages of several shapes, {' and '.join(map(str, sorted(shapes)))}, are no stack",
                f"name one page: {path.name}#1",
            )
        return np.stack(read)

    return Volume(
        path, "tiff", (pages, *header.size), np.eye(4), (path.resolve(), status.st_size, status.st_mtime_ns),
        load, oriented=False, units="voxels", rows_first=True,
    )  # fmt: skip
