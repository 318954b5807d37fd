"""NIfTI files (.nii, .nii.gz, .hdr/.img pairs) by nibabel."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.extras import extra
from casam_cache.datasets.volumes.channels import choose_channel
from casam_cache.datasets.volumes.orientation import is_sound
from casam_cache.datasets.volumes.volume import Volume
from casam_cache.errors import ImageError

SUFFIXES = (".nii", ".nii.gz", ".hdr")
_TO_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def read_nifti(path: Path, key: tuple[Any, ...], channel: int | None = None) -> Volume:
    """The header of a NIfTI file, and its voxels when they are asked for.

    Orientation is nibabel's: the sform where there is one, else the qform; a file with neither has spacing only.

    Raises:
        ImageError: it cannot be read, is no volume, or has several channels and none was chosen.
    """
    nibabel = extra("nibabel", path, "NIfTI")
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it prints is said in our errors
    try:
        image = nibabel.load(path)
    except Exception as error:
        _refuse_misnamed(path)
        raise damaged(path, "NIfTI", error) from error
    if not hasattr(image.header, "get_sform"):
        raise ImageError(
            f"{path}: not NIfTI but {type(image).__name__}, which says too little about how it lies",
            "convert it to .nii.gz",
        )
    notes: list[str] = []
    stored, colour = _shape(path, image)
    shape, channel = choose_channel(path, stored, channel)
    affine, oriented = _affine(image, notes)
    if not is_sound(affine):
        raise ImageError(f"{path}: its affine collapses an axis: {affine[:3].tolist()}", "export it again")
    slope, intercept = _scaling(image)

    def load() -> np.ndarray:
        try:
            voxels = nibabel.load(path).dataobj.get_unscaled()
        except Exception as error:
            raise damaged(path, "NIfTI", error) from error
        if colour:
            voxels = np.stack([voxels["RGB"[n]] for n in range(3)], axis=-1)
            return voxels.reshape(*shape, 3)
        if channel is not None:
            voxels = voxels.reshape(*shape, -1, order="F")[..., channel]
            # A copy gives up the other channels, unless they are only mapped from the file.
            return voxels if isinstance(voxels, np.memmap) else np.array(voxels, order="F")
        return voxels.reshape(shape, order="F")

    return Volume(
        path, "nifti", shape, affine, key, load, oriented, "mm", slope, intercept,
        channel=channel, notes=tuple(notes),
    )  # fmt: skip


def _refuse_misnamed(path: Path) -> None:
    """Nibabel goes by the suffix, and its error does not say that the content is of the other kind."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    named = path.name.lower().endswith(".gz")
    if compressed and not named:
        raise ImageError(
            f"{path}: compressed by gzip, but its name does not say so", f"rename it to {path.name}.gz"
        )
    if named and not compressed:
        raise ImageError(
            f"{path}: not compressed by gzip, though its name says so",
            f"rename it to {path.name[:-3]} if it is NIfTI; else export it again",
        )


def _shape(path: Path, image: Any) -> tuple[tuple[int, ...], bool]:
    dtype = image.get_data_dtype()
    colour = dtype.names is not None
    if (colour and not {"R", "G", "B"} <= set(dtype.names)) or (not colour and dtype.kind not in "iufb"):
        raise ImageError(f"{path}: voxels of type {dtype}", "save it with whole or real numbers")
    if not image.shape or 0 in image.shape:
        raise ImageError(f"{path}: no voxels, its shape is {image.shape}", "export it again")
    return tuple(int(n) for n in image.shape), colour


def _affine(image: Any, notes: list[str]) -> tuple[np.ndarray, bool]:
    header = image.header
    try:
        units = header.get_xyzt_units()[0]
    except KeyError:  # a code that NIfTI does not know
        units = "unknown"
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _TO_MM.get(units, 1.0)
    scode, qcode = int(header["sform_code"]), int(header["qform_code"])
    if scode and qcode and not np.allclose(header.get_sform(), header.get_qform(), atol=1e-2):
        notes.append("its sform and qform differ; the sform counts")
    if not scode and not qcode:
        notes.append("it does not say how it lies in the patient")
    return affine, bool(scode or qcode)


def _scaling(image: Any) -> tuple[float, float]:
    return float(image.dataobj.slope), float(image.dataobj.inter)


def damaged(path: Path, what: str, error: Exception) -> ImageError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ImageError(
        f"{path}: cannot be read as {what}, it is damaged or none: {reason}",
        "export it again, or remove it from the dataset",
    )
