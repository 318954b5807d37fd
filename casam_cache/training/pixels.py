"""Pixels of a store's items, for what trains through the encoder: the image behind each row, read when it is asked for.

Nothing of them is kept, so that memory does not depend on how many images there are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from casam_cache.errors import DatasetError, ImageError

if TYPE_CHECKING:
    from casam_cache.backbones.base import Backbone
    from casam_cache.encode.source_images import SourceImages
    from casam_cache.geometry import Geometry
    from casam_cache.store import EmbeddingStore

PIXELS = "pixels"
INPUT_SIZE = "input_size"


def pixel_features(pixels: np.ndarray, geometry: Geometry) -> dict[str, np.ndarray]:
    """What heads read by name: the encoder's input, uint8 (3, S, S), and the size of the image in it, int64 (2,)."""
    return {
        PIXELS: pixels,
        INPUT_SIZE: np.array([geometry.input_height, geometry.input_width], dtype=np.int64),
    }


def pixel_reader(store: EmbeddingStore) -> Callable[[int], np.ndarray]:
    """What reads the encoder's input of an item as the store was encoded, before `Backbone.normalise`.

    The dataset and the backbone's class are looked up at the first call.

    Returns:
        A function of an item's index in the store that gives uint8 (3, S, S), the image in the top left corner and
        zeros elsewhere, and raises `DatasetError` where the dataset's folder is gone, `ImageError` where the image is
        missing or another one than was encoded.
    """

    @cache
    def opened() -> tuple[SourceImages, Backbone]:
        from casam_cache.encode.preprocessing import as_in_store
        from casam_cache.encode.source_images import SourceImages
        from casam_cache.encode.sources import decoder_of

        identity = store.identity
        try:
            images = SourceImages(store)
        except DatasetError as error:
            raise DatasetError(
                f"what trains through the image needs the images of {store.path.parent.name}: {error.message}",
                "put the folder back, or run casam encode on where it is now: nothing is encoded twice",
            ) from error
        backbone = decoder_of(store.path.parent.parent, identity["backbone"]["weights"])
        return images, as_in_store(backbone, identity)

    def read(index: int) -> np.ndarray:
        from casam_cache.backbones.preprocess import stack_inputs

        images, backbone = opened()
        try:
            image = images.read(index)
        except ImageError as error:
            raise ImageError(
                error.message,
                error.hint or "put the image back, or run casam encode again, which takes the new one",
            ) from error
        pixels, _ = stack_inputs([backbone.prepare(image, store.geometry(index))], backbone.image_size)
        found: np.ndarray = pixels[0]
        return found

    return read
