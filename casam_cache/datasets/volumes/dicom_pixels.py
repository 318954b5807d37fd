"""The pixels of DICOM files, of any transfer syntax that a library here decodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.extras import extra
from casam_cache.errors import ImageError

# pydicom has decoders for the other ones; these it leaves to libraries that are awkward to install.
_LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")


def read_frames(wanted: Sequence[tuple[Path, int]]) -> np.ndarray:
    """Stored values of frames as (column, row, frame), or (column, row, frame, 3) of colour.

    Args:
        wanted: file and frame number of each, in the order of the result; each file is decoded once where its frames
            follow one another.

    Raises:
        ImageError: a file cannot be decoded, or its size is another than its header says.
    """
    voxels: np.ndarray | None = None
    at = 0
    for path, group in groupby(wanted, key=lambda one: one[0]):
        numbers = [number for _, number in group]
        frames = _decoded(path)
        for number in numbers:
            if number >= len(frames):
                raise ImageError(
                    f"{path}: frame {number} is missing, it holds {len(frames)}", "copy it again"
                )
            frame = frames[number]
            if voxels is None:
                voxels = np.empty((len(wanted), *frame.shape), frame.dtype)
            if frame.shape != voxels.shape[1:]:
                raise ImageError(
                    f"{path}: a picture of another size than the first", "export the series again"
                )
            if frame.dtype != voxels.dtype:
                voxels = voxels.astype(np.promote_types(voxels.dtype, frame.dtype))
            voxels[at] = frame
            at += 1
    assert voxels is not None
    return np.moveaxis(voxels, (0, 1, 2), (2, 1, 0))


def _decoded(path: Path) -> np.ndarray:
    """(frame, row, column) or (frame, row, column, 3)."""
    pydicom = extra("pydicom", path, "DICOM")
    try:
        data = pydicom.dcmread(path, force=True)
        if "file_meta" not in dir(data) or "TransferSyntaxUID" not in data.file_meta:
            data.ensure_file_meta()
            data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        if str(data.file_meta.TransferSyntaxUID) in _LOSSLESS_JPEG:
            return _lossless_jpeg(path, data)
        array = pydicom.pixels.pixel_array(data)
        if data.PhotometricInterpretation == "PALETTE COLOR":
            array = pydicom.pixels.apply_color_lut(array, data)
    except ImageError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ImageError(
            f"{path}: its pixels cannot be decoded: {reason}", "export it uncompressed"
        ) from error
    return _framed(array, data)


def _framed(array: np.ndarray, data: Any) -> np.ndarray:
    return array if int(data.get("NumberOfFrames") or 1) > 1 else array[None]


def _lossless_jpeg(path: Path, data: Any) -> np.ndarray:
    codecs = extra("imagecodecs", path, "DICOM in lossless JPEG")
    encaps = extra("pydicom.encaps", path, "DICOM")
    count = int(data.get("NumberOfFrames") or 1)
    frames: Iterable[bytes] = encaps.generate_frames(data.PixelData, number_of_frames=count)
    try:
        array = np.stack([codecs.jpeg_decode(frame) for frame in frames])
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ImageError(
            f"{path}: its pixels cannot be decoded: {reason}", "export it uncompressed"
        ) from error
    if int(data.get("PixelRepresentation") or 0) == 1:
        array = array.view(f"i{array.dtype.itemsize}")
    return array
