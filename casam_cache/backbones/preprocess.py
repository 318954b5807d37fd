"""From an image to the encoder's square uint8 input, exactly as SamPredictor and as MedSAM do it. Needs no torch,
because the worker processes that decode images run it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from casam_cache.geometry import Geometry


def resize_for_encoder(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Resize an image to the valid part of the encoder's input.

    SAM's ResizeLongestSide resizes a PIL image through torchvision, which is Pillow's own bilinear filter
    (antialiased when it shrinks); calling Pillow directly gives the same bytes without torchvision.

    Args:
        image: uint8 (H, W, 3) of the geometry's original size.
        geometry: says the size to resize to.

    Returns:
        uint8 (input_height, input_width, 3).

    Raises:
        ValueError: the image is not uint8 RGB of the geometry's size.
    """
    _check(image, geometry)
    size = (geometry.input_width, geometry.input_height)
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_cubic(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Resize as MedSAM does: scikit-image's `resize` with order 3 and anti-aliasing, cut to uint8 (not rounded).

    Those are a Gaussian filter of sigma (factor - 1) / 2 along sides that shrink, a cubic spline through the pixels'
    centres, and values kept within the image's own range. Equal to scikit-image's bytes (tests/test_presets.py).

    Args:
        image: uint8 (H, W, 3) of the geometry's original size.
        geometry: says the size to resize to.

    Returns:
        uint8 (input_height, input_width, 3).

    Raises:
        ValueError: the image is not uint8 RGB of the geometry's size.
    """
    from scipy import ndimage

    _check(image, geometry)
    size = (geometry.input_height, geometry.input_width, 3)
    if image.shape == size:
        return image
    values = image.astype(np.float64)
    factors = np.divide(image.shape, size)
    sigma = np.maximum(0, (factors - 1) / 2)
    filtered = ndimage.gaussian_filter(values, sigma, mode="mirror")
    resized = ndimage.zoom(filtered, 1 / factors, order=3, mode="mirror", grid_mode=True)
    return np.clip(resized, values.min(), values.max()).astype(np.uint8)


def _check(image: np.ndarray, geometry: Geometry) -> None:
    expected = (geometry.height, geometry.width, 3)
    if image.dtype != np.uint8 or image.shape != expected:
        raise ValueError(f"expected a uint8 image of shape {expected}, got {image.dtype} {image.shape}")


def stack_inputs(images: Sequence[np.ndarray], image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Put resized images into one batch, each in the top-left corner of its square.

    Args:
        images: uint8 (h, w, 3) each, from `resize_for_encoder`, h and w at most S.
        image_size: S.

    Returns:
        pixels: uint8 (B, 3, S, S), zero outside the images.
        sizes: int64 (B, 2), the (h, w) of each image.
    """
    pixels = np.zeros((len(images), 3, image_size, image_size), dtype=np.uint8)
    for square, image in zip(pixels, images, strict=True):
        square[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return pixels, np.array([image.shape[:2] for image in images], dtype=np.int64).reshape(-1, 2)
