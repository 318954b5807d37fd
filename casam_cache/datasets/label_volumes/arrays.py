"""Label maps of stacks without a place in the patient: NumPy arrays and TIFF pages."""

from __future__ import annotations

import io

import numpy as np


def numpy_bytes(labels: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(labels), allow_pickle=False)
    return data.getvalue()


def tiff_bytes(pages: np.ndarray) -> bytes:
    """The bytes of a TIFF file with a page a slice, (slice, row, column), losslessly compressed."""
    import tifffile

    data = io.BytesIO()
    tifffile.imwrite(data, pages, photometric="minisblack", compression="zlib", metadata=None)
    return data.getvalue()
