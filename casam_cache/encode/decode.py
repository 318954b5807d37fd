"""One image -> the encoder's uint8 input. What the worker processes run: no torch is imported here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from casam_cache.backbones.preprocess import resize_for_encoder
from casam_cache.datasets import Reader, pixels_sha256, read_array, read_window
from casam_cache.datasets.base import check_inside
from casam_cache.datasets.duplicates import Look, look_of
from casam_cache.datasets.images import to_rgb
from casam_cache.datasets.regular_files import check_regular
from casam_cache.errors import ImageError
from casam_cache.geometry import Geometry
from casam_cache.views import View


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the encoder's input; picklable.

    Attributes:
        image_size, patch_size: of the backbone, pixels.
        resize: one of `casam_cache.geometry.RESIZE_MODES`.
        intensity: see `parse_intensity`; for images deeper than 8 bits.
        max_pixels: larger images are refused before they are decoded.
        prepare: the backbone's `prepare`, in a form that travels to other processes.
        view: which view of the image; None for the image itself.
        reader: supplies the pixels.
    """

    image_size: int
    patch_size: int
    resize: str
    intensity: str
    max_pixels: int
    prepare: Callable[[np.ndarray, Geometry], np.ndarray] = resize_for_encoder
    view: View | None = None
    reader: Reader = field(kw_only=True)


@dataclass(frozen=True)
class Decoded:
    """One image, ready for the encoder, or the reason why not.

    Attributes:
        sha256: of what the image was made from, 32 bytes, see `Reader.file_of`; zeros if it cannot be read.
        pixels: uint8 (h, w, 3), the valid part of the input; None for a bad image.
        geometry: None for a bad image.
        failure: one line that names the file and what to do; empty for a good image.
        look: of the image; None for a view of it, or a bad image.
    """

    sha256: bytes
    pixels: np.ndarray | None = None
    geometry: Geometry | None = None
    failure: str = ""
    look: Look | None = None


def decode(root: Path, name: str, preprocessing: Preprocessing) -> Decoded:
    """Reads and resizes one image; a bad one comes back as a failure, never as an exception.

    Args:
        root: dataset folder.
        name: of the image, as `Sample.source`; a failure names the file so, wherever the dataset lies.
        preprocessing: what to do.

    Raises:
        DatasetError: the name leads out of the dataset folder.
    """
    check_inside(name)
    reader = preprocessing.reader
    sha256 = bytes(32)
    try:
        file = reader.file_of(name)
        if file is not None:
            sha256 = file_sha256(root / file)
        window = read_window(reader, root, name, preprocessing.intensity)
        array = read_array(reader, root, name, preprocessing.max_pixels)
        if file is None:
            sha256 = pixels_sha256(array)
        image = to_rgb(array, root / name, window)
    except ImageError as error:
        message = error.message.replace(f"{root}{os.sep}", "")
        return Decoded(sha256, failure=f"{message} ({error.hint})" if error.hint else message)
    except OSError as error:
        return Decoded(sha256, failure=f"{name}: {error.strerror or error}")
    height, width = image.shape[:2]
    geometry = Geometry.fit(
        height, width, preprocessing.image_size, preprocessing.patch_size, preprocessing.resize
    )
    look = look_of(image) if preprocessing.view is None else None
    if preprocessing.view is not None:
        image, geometry = preprocessing.view.image(image), preprocessing.view.geometry(geometry)
    return Decoded(sha256, preprocessing.prepare(image, geometry), geometry, look=look)


def file_sha256(path: Path) -> bytes:
    """SHA-256 of a regular file.

    Raises:
        ImageError: it is none, such as a pipe that could be read for ever, or not there.
    """
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def source_sha256(reader: Reader, root: Path, source: str, max_pixels: int) -> bytes:
    """What `decode` names an image by as it is now; zeros where it cannot be read."""
    try:
        file = reader.file_of(source)
        if file is not None:
            return file_sha256(root / file)
        return pixels_sha256(read_array(reader, root, source, max_pixels))
    except (ImageError, OSError):
        return bytes(32)


def decoding_pool(workers: int) -> Executor:
    """Workers for `decode`: spawned processes, or for 0 one background thread.

    Spawned, not forked: a fork after CUDA or a thread pool has started can hang.
    """
    if workers == 0:
        return ThreadPoolExecutor(1, thread_name_prefix="decode")
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
