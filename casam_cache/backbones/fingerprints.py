"""The name of a set of weights: one hash over all tensors, whatever file they came in. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from casam_cache.fingerprint import digest_arrays


def weights_fingerprint(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 over named weights as float32, in the order of their names, as 64 hexadecimal digits.

    Names are those of `segment_anything`'s Sam state dict (image_encoder.*, prompt_encoder.*,
    mask_decoder.*), so the same weights in a .pth and in a safetensors file, or stored as float16, have the
    same fingerprint.
    """
    return digest_arrays((name, np.asarray(array, dtype=np.float32)) for name, array in arrays)
