"""An image as a store would hold it, and whether a store is of the kind that something was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import stack_inputs
from casam_cache.datasets import load_image
from casam_cache.errors import OptionError, StoreError
from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore
from casam_cache.store.quantise import as_read
from casam_cache.training.pixels import pixel_features


def pixels_of(image: Path | str | np.ndarray, intensity: str) -> np.ndarray:
    """An image as uint8 (H, W, 3).

    Args:
        image: a file, or such an array already.
        intensity: how files of other bit depths become 8 bit, see `casam_cache.datasets.load_image`.

    Raises:
        ImageError: the file cannot be read.
        OptionError: an array of another shape or dtype.
    """
    if not isinstance(image, np.ndarray):
        return load_image(Path(image), intensity)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise OptionError(
            f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}",
            "casam_cache.datasets.load_image reads any file as one",
        )
    return image


def encode_pixels(
    pixels: np.ndarray,
    backbone: Backbone,
    identity: Mapping[str, Any],
    encoder: FrozenEncoder,
    arrays: Sequence[str],
    dtype: str,
) -> tuple[dict[str, np.ndarray], Geometry]:
    """The features of an image, rounded as a store of `dtype` gives them, and how the image lies in the input.

    Args:
        pixels: uint8 (H, W, 3).
        backbone: whose preprocessing.
        identity: of the store that it is to be as from.
        encoder: of the backbone.
        arrays: names of features.
        dtype: `float16`, `float32` or `int8`.
    """
    geometry = _geometry(pixels, backbone, identity)
    batch, sizes = stack_inputs([backbone.prepare(pixels, geometry)], backbone.image_size)
    encoded = encoder(torch.from_numpy(batch), torch.from_numpy(sizes), list(arrays))
    features = {name: as_read(feature[0].float().cpu().numpy(), dtype) for name, feature in encoded.items()}
    return features, geometry


def input_of(
    pixels: np.ndarray, backbone: Backbone, identity: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], Geometry]:
    """What is read of an image by that which is trained through it, and how the image lies in the input.

    Args:
        pixels: uint8 (H, W, 3).
        backbone: whose preprocessing.
        identity: of the store that it is to be as from.
    """
    geometry = _geometry(pixels, backbone, identity)
    batch, _ = stack_inputs([backbone.prepare(pixels, geometry)], backbone.image_size)
    return pixel_features(batch[0], geometry), geometry


def _geometry(pixels: np.ndarray, backbone: Backbone, identity: Mapping[str, Any]) -> Geometry:
    resize = identity["preprocessing"]["resize"]
    height, width = pixels.shape[:2]
    return Geometry.fit(height, width, backbone.image_size, backbone.patch_size, resize)


def check_backbone(store: EmbeddingStore, backbone: Backbone) -> None:
    """Whether a store is of this backbone.

    Raises:
        StoreError: it is of another.
    """
    own, theirs = backbone.fingerprint, store.identity["backbone"]["weights"]
    if own != theirs:
        raise StoreError(
            f"{store.path} was encoded with another backbone, {theirs[:20]}, than this predictor's, {own[:20]}",
            "name a store of the same backbone, or encode the image's dataset with it",
        )


def check_preprocessing(store: EmbeddingStore, identity: Mapping[str, Any]) -> None:
    """Whether a store is of the preprocessing of the one that a head was fitted on.

    Raises:
        StoreError: it is of another.
    """
    wanted, found = (
        {name: value for name, value in each["preprocessing"].items() if name != "intensity"}
        for each in (identity, store.identity)
    )
    differ = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if differ:
        raise StoreError(
            f"{store.path} was encoded with another preprocessing than the head was fitted on: {', '.join(differ)}",
            "encode its dataset again with the options of the store that the head was fitted on",
        )
