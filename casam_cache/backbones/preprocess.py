"""From an image to the encoder's square uint8 input, exactly as SamPredictor does it. Needs numpy and Pillow
only, because the worker processes that decode images run it.
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
    expected = (geometry.height, geometry.width, 3)
    if image.dtype != np.uint8 or image.shape != expected:
        raise ValueError(f"expected a uint8 image of shape {expected}, got {image.dtype} {image.shape}")
    size = (geometry.input_width, geometry.input_height)
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized)


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
