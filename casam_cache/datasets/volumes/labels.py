"""Label volumes on the grid of their image: the same voxels, or the same in other axes; anything else is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from casam_cache.datasets.volumes.channels import SeveralVolumes
from casam_cache.datasets.volumes.dicom_seg import is_segmentation, read_segmentation
from casam_cache.datasets.volumes.read import read_volume
from casam_cache.datasets.volumes.volume import Volume
from casam_cache.errors import ImageError

_TOLERANCE = 0.05  # voxels by which a corner may lie elsewhere
_ROUNDING = 1e-5  # by which a stored real number may miss a whole one


def read_labels(path: Path, image: Volume) -> Volume:
    """A label volume, brought to the axes of its image; `notes` say so where it was turned.

    Args:
        path: a volume of one channel, a DICOM-SEG, or an XML file of LIDC.
        image: whose labels these are.

    Raises:
        ImageError: it cannot be read, or lies on another grid.
    """
    if path.suffix.lower() == ".xml":
        from casam_cache.datasets.published.lidc import read_contours

        return read_contours(path, image)
    if path.is_file() and is_segmentation(path):
        return read_segmentation(path, image)
    return on_grid_of(image, _alone(path))


def _alone(path: Path) -> Volume:
    """A label volume of one channel; `--channels` is about images, so its hint would not help."""
    try:
        return read_volume(path)
    except SeveralVolumes as error:
        raise ImageError(
            f"{error.message}; of labels one is read",
            "save one label volume of three axes a file, with a number a class",
        ) from error


def on_grid_of(image: Volume, labels: Volume) -> Volume:
    """The labels in the axes of the image: as they are, or axes swapped and turned round.

    Raises:
        ImageError: they lie on another grid; says how.
    """
    if not (image.oriented and labels.oriented):
        if labels.shape != image.shape or labels.rows_first != image.rows_first:
            raise _elsewhere(image, labels, "and one of them does not say how it lies")
        if image.oriented != labels.oriented:
            said = "it does not say how it lies, and is taken to lie as its image"
            others = [note for note in labels.notes if not note.startswith("it does not say how it lies")]
            return replace(labels, affine=image.affine, oriented=image.oriented, notes=(*others, said))
        return labels
    to_image = np.linalg.inv(image.affine) @ labels.affine
    turn = np.rint(to_image[:3, :3]).astype(int)
    order = [
        int(np.abs(row).argmax()) for row in turn
    ]  # of each image axis: the label axis that runs along it
    if sorted(order) != [0, 1, 2] or np.abs(turn).sum() != 3:
        raise _elsewhere(image, labels, "and are turned or scaled against it")
    shape = tuple(labels.shape[axis] for axis in order)
    signs = [int(turn[axis, order[axis]]) for axis in range(3)]
    if shape != image.shape:
        raise _elsewhere(image, labels, "")
    shift = _largest_shift(image, labels, to_image, order, signs)
    if shift > _TOLERANCE:
        raise _elsewhere(image, labels, f"and lie up to {shift:.2f} voxels off it")
    if order == [0, 1, 2] and signs == [1, 1, 1]:
        return labels

    def load() -> np.ndarray:
        voxels = np.transpose(labels.stored, order)
        return np.flip(voxels, tuple(axis for axis in range(3) if signs[axis] < 0))

    said = f"its axes run {labels.codes} where those of its image run {image.codes}; turned to the image's"
    return replace(
        labels, shape=image.shape, affine=image.affine, load=load,
        key=(labels.key, tuple(order), tuple(signs)), notes=(*labels.notes, said),
    )  # fmt: skip


def _largest_shift(
    image: Volume, labels: Volume, to_image: np.ndarray, order: list[int], signs: list[int]
) -> float:
    """How far a corner of the labels lies from the corner of the image that it should be, in voxels."""
    worst = 0.0
    for corner in np.ndindex(2, 2, 2):
        voxel = np.array(corner) * (np.array(labels.shape) - 1)
        there = (to_image @ [*voxel, 1.0])[:3]
        wanted = [
            voxel[order[axis]] if signs[axis] > 0 else image.shape[axis] - 1 - voxel[order[axis]]
            for axis in range(3)
        ]
        worst = max(worst, float(np.abs(there - wanted).max()))
    return worst


def _elsewhere(image: Volume, labels: Volume, more: str) -> ImageError:
    def described(volume: Volume) -> str:
        sizes = " x ".join(map(str, volume.shape))
        spaces = " x ".join(f"{value:.4g}" for value in volume.spacing)
        return f"{sizes} voxels of {spaces} {volume.units}" + (f", {volume.codes}" if volume.oriented else "")

    # Labels that a script saved without the header of their image would be moved off it by resampling.
    same = labels.shape == image.shape and image.kind != "dicom"
    own_header = (
        "if they are the image's voxels and their header alone is wrong, save them with the image's own "
        "(Nifti1Image(labels, image.affine)); else "
        if same
        else ""
    )
    return ImageError(
        f"{labels.path}: these labels have another grid than their image {image.path.name} {more}".rstrip()
        + f": {described(labels)}; the image has {described(image)}",
        f"{own_header}resample the labels to the image's grid (nearest neighbour), e.g. with SimpleITK's Resample",
    )


def whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """Labels as whole numbers; real numbers that are whole but for how they are stored (a scale of 1/255) are fine.

    Raises:
        ImageError: fractional, NaN or negative values, or colour.
    """
    if values.dtype.kind == "f":
        near = np.rint(values)
        if not (np.isfinite(values).all() and np.allclose(values, near, rtol=0.0, atol=_ROUNDING)):
            off = np.abs(values - near)
            odd = values.flat[int(np.where(np.isfinite(off), off, np.inf).argmax())]
            raise ImageError(
                f"{path}: the labels hold fractional or NaN values, e.g. {odd:.7g}",
                "labels are whole numbers: resample them by nearest neighbour, or save them as such",
            )
        values = near.astype(np.int64)
    if values.ndim > 2:
        raise ImageError(f"{path}: labels in colour", "save one number a voxel")
    if values.dtype.kind == "i" and values.size and values.min() < 0:
        raise ImageError(f"{path}: the labels hold negative values", "labels are 0 (background) and above")
    return values.astype(np.uint8) if values.dtype == np.bool_ else values
