"""The single door to volumes: which files are one, and reading any of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

from casam_cache.datasets.listing import facts_below
from casam_cache.datasets.time_limit import within_limit
from casam_cache.datasets.volumes.dicom import read_dicom
from casam_cache.datasets.volumes.dicom_files import SUFFIXES as DICOM_SUFFIXES
from casam_cache.datasets.volumes.dicom_files import may_be_dicom
from casam_cache.datasets.volumes.itk import KINDS as ITK_KINDS
from casam_cache.datasets.volumes.itk import read_itk
from casam_cache.datasets.volumes.nifti import SUFFIXES as NIFTI_SUFFIXES
from casam_cache.datasets.volumes.nifti import read_nifti
from casam_cache.datasets.volumes.numpy_files import SUFFIXES as NUMPY_SUFFIXES
from casam_cache.datasets.volumes.numpy_files import read_numpy
from casam_cache.datasets.volumes.volume import Volume
from casam_cache.errors import ImageError

SUFFIXES = (*NIFTI_SUFFIXES, *ITK_KINDS, *NUMPY_SUFFIXES, *DICOM_SUFFIXES)
_REMEMBERED = 64  # headers
_lock = threading.Lock()
_volumes: OrderedDict[Hashable, Volume] = OrderedDict()


def volume_suffix(name: str) -> str | None:
    """The suffix of a volume in a file name, e.g. `.nii.gz`; None where it has none of them."""
    lower = name.lower()
    return next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), None)


def volume_stem(name: str) -> str:
    """A file name without the suffix of a volume."""
    suffix = volume_suffix(name)
    return name[: -len(suffix)] if suffix else name


def is_volume(path: Path) -> bool:
    """Whether a file is a volume by its suffix, or DICOM without one by its first bytes; never raises."""
    return volume_suffix(path.name) is not None or may_be_dicom(path)


def read_volume(path: Path | str, *, channel: int | None = None, series: str | None = None) -> Volume:
    """A volume of any kind; its voxels are read when they are asked for.

    The last headers are remembered as long as the file stays as it is.

    Args:
        path: a file, or the folder of a DICOM series.
        channel: which of several volumes in one file, from 0.
        series: instance UID, number or description of the DICOM series that is meant.

    Raises:
        ImageError: it cannot be read, its library is not installed, or it can be read in several ways; the hint has the
            option that decides.
    """
    path = Path(path)
    key = (*_facts(path), channel, series)
    with _lock:
        if key in _volumes:
            _volumes.move_to_end(key)
            return _volumes[key]
    read = _read(path, key, channel, series)
    volume = replace(read, load=lambda: within_limit(path, read.load))
    with _lock:
        _volumes[key] = volume
        while len(_volumes) > _REMEMBERED:
            _volumes.popitem(last=False)
    return volume


def _read(path: Path, key: tuple[Any, ...], channel: int | None, series: str | None) -> Volume:
    suffix = volume_suffix(path.name)
    if path.is_dir() or suffix in DICOM_SUFFIXES or (suffix is None and may_be_dicom(path)):
        return read_dicom(path, key, channel, series)
    if series is not None:
        raise ImageError(f"{path}: not DICOM, so it has no series '{series}'", "leave --series out")
    if suffix in NIFTI_SUFFIXES:
        return read_nifti(path, key, channel)
    if suffix in ITK_KINDS:
        return read_itk(path, key, channel)
    if suffix in NUMPY_SUFFIXES:
        return read_numpy(path, key, channel)
    raise ImageError(f"{path}: no volume by its suffix", f"volumes end in {', '.join(SUFFIXES)}")


def _facts(path: Path) -> tuple[Any, ...]:
    """What changes with a file's content: its size and time, and of a folder those of all files."""
    try:
        if path.is_dir():
            return (path.resolve(), tuple(facts_below(path)))
        status = path.stat()
    except FileNotFoundError:
        reason = "a link to a file that does not exist" if path.is_symlink() else "there is no such file"
        raise ImageError(f"{path}: {reason}", "restore it, or remove it from the dataset") from None
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}", "check that it can be read") from None
    if not path.is_file():
        raise ImageError(f"{path}: not a regular file", "replace it by the file itself, or remove it")
    return (path.resolve(), status.st_size, status.st_mtime_ns)
