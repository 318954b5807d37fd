"""Label maps as NIfTI: with the header of a NIfTI source, else with the affine of another one."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np

from casam_cache.datasets.extras import extra
from casam_cache.datasets.volumes import Volume


def nifti_bytes(volume: Volume, labels: np.ndarray, *, compressed: bool) -> bytes:
    """The bytes of a .nii or .nii.gz file.

    Of a NIfTI source everything that says where voxels lie is kept to the bit: affines, their codes, pixdim and units.

    Args:
        volume: the source.
        labels: (I, J, K) as its voxels.
        compressed: by gzip.

    Raises:
        ImageError: nibabel is not installed.
    """
    nibabel = extra("nibabel", volume.path, "NIfTI")
    image = (
        _on_nifti(nibabel, volume, labels) if volume.kind == "nifti" else _on_other(nibabel, volume, labels)
    )
    data: bytes = image.to_bytes()
    return gzip.compress(data, 6, mtime=0) if compressed else data


def _on_nifti(nibabel: Any, volume: Volume, labels: np.ndarray) -> Any:
    source = nibabel.load(volume.path)
    nifti2 = isinstance(source.header, nibabel.nifti2.Nifti2Header | nibabel.nifti2.Nifti2PairHeader)
    kind = nibabel.Nifti2Image if nifti2 else nibabel.Nifti1Image
    # Of a pair (.hdr, .img) the header becomes that of a single file.
    header = kind.header_class.from_header(source.header, check=False)
    header.extensions.clear()
    header["cal_min"] = header["cal_max"] = 0  # the window of the source's values
    header["scl_slope"], header["scl_inter"] = 1, 0
    dims = max(1, min(3, len(source.shape)))  # a file of one slice may have two axes
    zooms = source.header.get_zooms()[:dims]
    header.set_data_dtype(labels.dtype)
    image = kind(labels.reshape(labels.shape[:dims]), None, header=header)
    image.header.set_zooms(zooms)
    return image


def _on_other(nibabel: Any, volume: Volume, labels: np.ndarray) -> Any:
    image = nibabel.Nifti1Image(labels, volume.affine)
    image.header.set_xyzt_units("mm" if volume.units == "mm" else "unknown")
    return image
