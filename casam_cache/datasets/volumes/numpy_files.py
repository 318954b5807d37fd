"""NumPy arrays of three axes (.npy, .npz), taken as (slice, row, column); they know nothing of the patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.volumes.channels import no_such_channel
from casam_cache.datasets.volumes.nifti import damaged
from casam_cache.datasets.volumes.volume import Volume
from casam_cache.errors import ImageError

SUFFIXES = (".npy", ".npz")
_COLOURS = (3, 4)


def read_numpy(
    path: Path, key: tuple[Any, ...], channel: int | None = None, name: str | None = None
) -> Volume:
    """The header of an .npy file, or of one array of an .npz, and its voxels when they are asked for.

    An array of two axes is one slice.

    Args:
        path: the file.
        key: names its content.
        channel: there is one only, 0.
        name: of the array in an .npz; None takes the only one of two or three axes.

    Raises:
        ImageError: it cannot be read, holds no array of numbers of two or three axes, or several.
    """
    shape, name = _header(path, name)
    if channel:
        raise no_such_channel(path, channel, 1)
    three = (1, *shape) if len(shape) == 2 else shape

    def load() -> np.ndarray:
        try:
            if name is None:
                array = np.load(path, mmap_mode="r")
            else:
                with np.load(path) as arrays:
                    array = arrays[name]
        except Exception as error:
            raise damaged(path, "NumPy", error) from error
        return array.reshape(three)

    return Volume(
        path, "numpy", (three[0], three[1], three[2]), np.eye(4), (*key, name), load,
        oriented=False, units="voxels", rows_first=True,
        notes=("a NumPy file does not say how it lies in the patient, nor its spacing",),
    )  # fmt: skip


def _header(path: Path, name: str | None) -> tuple[tuple[int, ...], str | None]:
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r")
            return _checked(path, array.shape, array.dtype), None
        with np.load(path) as arrays:
            if name is None:
                names = [one for one in arrays.files if arrays[one].ndim in (2, 3)]
                if len(names) != 1:
                    raise ImageError(
                        f"{path}: {len(names)} arrays that could be meant: {', '.join(names) or 'none'}",
                        "save one array of three axes a file",
                    )
                name = names[0]
            return _checked(path, arrays[name].shape, arrays[name].dtype), name
    except ImageError:
        raise
    except Exception as error:
        raise damaged(path, "NumPy", error) from error


def _checked(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    if dtype.kind not in "iufb" or not 2 <= len(shape) <= 3 or 0 in shape:
        raise ImageError(
            f"{path}: an array of {dtype} of shape {shape}",
            "a volume is an array of numbers of the axes (slice, row, column)",
        )
    if len(shape) == 3 and shape[-1] in _COLOURS and min(shape[:2]) > 8:
        raise ImageError(
            f"{path}: shape {shape} is a colour picture, or slices {shape[-1]} pixels wide",
            "save a colour picture as PNG; move the slices of a volume to the front",
        )
    return shape
