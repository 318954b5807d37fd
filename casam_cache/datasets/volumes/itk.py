"""MetaImage (.mha, .mhd + .raw) and NRRD (.nrrd, .nhdr) by SimpleITK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.extras import extra
from casam_cache.datasets.volumes.channels import SeveralVolumes, no_such_channel, one_of
from casam_cache.datasets.volumes.nifti import damaged
from casam_cache.datasets.volumes.orientation import LPS_TO_RAS, is_sound
from casam_cache.datasets.volumes.volume import Volume
from casam_cache.errors import ImageError

KINDS = {".mha": "metaimage", ".mhd": "metaimage", ".nrrd": "nrrd", ".nhdr": "nrrd"}
_STATES = {"metaimage": ("TransformMatrix", "Orientation", "Rotation"), "nrrd": ("space",)}


def read_itk(path: Path, key: tuple[Any, ...], channel: int | None = None) -> Volume:
    """The header of a MetaImage or NRRD file, and its voxels when they are asked for.

    Raises:
        ImageError: it cannot be read, is no volume, or has several channels and none was chosen.
    """
    kind = KINDS[path.suffix.lower()]
    sitk = extra("SimpleITK", path, "MetaImage" if kind == "metaimage" else "NRRD")
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    try:
        header.ReadImageInformation()
    except Exception as error:
        raise damaged(path, kind, _last_line(error)) from error
    size, vectors = tuple(header.GetSize()), int(header.GetNumberOfComponents())
    shape, count, colour = _shape(path, size, vectors, header.GetPixelID() == sitk.sitkVectorUInt8)
    if count > 1 and channel is None and not colour:
        raise SeveralVolumes(
            f"{path}: {count} channels in one file, of shape {size}",
            one_of(count),
        )
    if channel is not None and not 0 <= channel < count:
        raise no_such_channel(path, channel, count)
    chosen = channel if count > 1 else None
    affine = _affine(header, len(size))
    if not is_sound(affine):
        raise ImageError(f"{path}: its directions collapse an axis: {affine[:3].tolist()}", "export it again")
    oriented = len(size) >= 3 and _says_orientation(header, path, kind)

    def load() -> np.ndarray:
        try:
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        except Exception as error:
            raise damaged(path, kind, _last_line(error)) from error
        if vectors == 1:
            array = array[..., None]
        if len(size) == 2:
            array = array[None]
        if len(size) == 4:
            array = np.moveaxis(array, 0, -1)[..., 0, :]
        voxels = np.transpose(array, (2, 1, 0, 3))
        if colour and chosen is None:
            return voxels
        return voxels[..., chosen or 0]

    return Volume(
        path, kind, shape, affine, key, load, oriented, channel=chosen,
        notes=() if oriented else ("it does not say how it lies in the patient",),
    )  # fmt: skip


def _shape(
    path: Path, size: tuple[int, ...], vectors: int, bytes_: bool
) -> tuple[tuple[int, int, int], int, bool]:
    if not 2 <= len(size) <= 4 or 0 in size or (len(size) == 4 and vectors > 1):
        raise ImageError(f"{path}: {len(size)} axes, of shape {size}", "save one volume of three axes a file")
    three = (*size[:3], 1)
    return (three[0], three[1], three[2]), (size[3] if len(size) == 4 else vectors), bytes_ and vectors == 3


def _affine(header: Any, axes: int) -> np.ndarray:
    lps, n = np.eye(4), min(axes, 3)
    directions = np.array(header.GetDirection()).reshape(axes, axes)[:n, :n]
    lps[:n, :n] = directions * np.array(header.GetSpacing())[:n]
    lps[:n, 3] = np.array(header.GetOrigin())[:n]
    return LPS_TO_RAS @ lps


def _says_orientation(header: Any, path: Path, kind: str) -> bool:
    """ITK fills in the identity where a file has no directions, so the file itself is asked."""
    with path.open("rb") as file:
        text = file.read(4096).decode("latin-1").splitlines()
    names = {line.partition("=" if kind == "metaimage" else ":")[0].strip() for line in text}
    return any(name in names for name in _STATES[kind])


def _last_line(error: Exception) -> Exception:
    """ITK's messages begin with lines of C++ places."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ValueError(lines[-1].strip()) if lines else error
