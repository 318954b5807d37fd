"""The single door to written label maps: which format a source goes back to, and the bytes of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from casam_cache.datasets.label_volumes.arrays import numpy_bytes, tiff_bytes
from casam_cache.datasets.label_volumes.dicom_seg import dicom_seg_bytes
from casam_cache.datasets.label_volumes.itk import itk_files
from casam_cache.datasets.label_volumes.nifti import nifti_bytes
from casam_cache.datasets.volumes import Volume
from casam_cache.errors import OptionError

NIFTI, ITK = (".nii.gz", ".nii"), (".mha", ".mhd", ".nrrd")
# The first is what a source goes back to unless another is asked for. NumPy and TIFF know no place in the patient.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "nifti": (*NIFTI, *ITK),
    "dicom": (".dcm", *NIFTI, *ITK),
    "metaimage": (".mha", ".mhd", ".nrrd", *NIFTI),
    "nrrd": (".nrrd", ".mha", ".mhd", *NIFTI),
    "numpy": (".npy", ".tif", ".tiff"),
    "tiff": (".tif", ".tiff", ".npy"),
}


def default_suffix(volume: Volume) -> str:
    """The suffix of the format that a volume's label map is written in."""
    return FORMATS[volume.kind][0]


def check_format(volume: Volume, out: Path) -> str:
    """The suffix of `out`, where a label map of the volume can be written so.

    Raises:
        OptionError: it cannot.
    """
    known = FORMATS[volume.kind]
    suffix = next((one for one in known if out.name.lower().endswith(one)), None)
    if suffix is None:
        raise OptionError(
            f"{out}: a label map of {volume.path} is not written so",
            f"give a name that ends in {', '.join(known)}",
        )
    return suffix


def label_files(
    volume: Volume, labels: np.ndarray, out: Path, names: Mapping[int, str] | None = None
) -> list[tuple[Path, bytes]]:
    """The files of a label map that lies on the voxels of a volume.

    Args:
        volume: what it was predicted on; its file is read again for what its header says.
        labels: whole numbers from 0 (background) to 65535, (I, J, K) as the volume's voxels. Written as uint8, or
            as uint16 where one is above 255.
        out: the file to write; its suffix says how. A .mhd has a .raw beside it.
        names: of objects by number, for formats that name them (DICOM-SEG).

    Raises:
        OptionError: the volume cannot be written so.
        ImageError: the library that writes it is not installed, or the source lacks what the format needs.
        ValueError: labels of another shape than the volume.
    """
    if labels.shape != volume.shape:
        raise ValueError(f"labels of shape {labels.shape} on a volume of {volume.shape}")
    suffix = check_format(volume, out)
    labels = labels.astype(np.uint16 if labels.max(initial=0) > 255 else np.uint8)
    if suffix in NIFTI:
        return [(out, nifti_bytes(volume, labels, compressed=suffix == ".nii.gz"))]
    if suffix in ITK:
        return itk_files(volume, labels, out)
    if suffix == ".dcm":
        return [(out, dicom_seg_bytes(volume, labels, names or {}))]
    pages = labels if volume.rows_first else labels.transpose(2, 1, 0)
    return [(out, numpy_bytes(labels) if suffix == ".npy" else tiff_bytes(pages))]
