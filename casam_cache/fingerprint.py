"""Canonical JSON and hashes: how this project names what a result depends on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and shortest round-trip floats, so that equal values give equal text.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot hold.
        TypeError: for anything that is not plain JSON data (tuples are written as lists).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def finite_json(value: Any) -> Any:
    """The value as plain JSON data: NaN and infinity are null, numpy numbers are Python's, tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): finite_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_arrays(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 over named arrays (name, dtype, shape, bytes), in the order of their names."""
    total = hashlib.sha256()
    for name, array in sorted(arrays, key=lambda pair: pair[0]):
        total.update(canonical_json([name, array.dtype.str, list(array.shape)]).encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def weights_fingerprint(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 over named weights as float32, in the order of their names, as 64 hexadecimal digits.

    Names are those of `segment_anything`'s Sam state dict (image_encoder.*, prompt_encoder.*,
    mask_decoder.*), so the same weights in a .pth and in a safetensors file, or stored as float16, have the
    same fingerprint.
    """
    return digest_arrays((name, np.asarray(array, dtype=np.float32)) for name, array in arrays)


def generator(*belongs_to: str | int) -> np.random.Generator:
    """A random generator seeded from what the choice belongs to, e.g. `generator(seed, task, epoch, sample)`.

    Never from a position: the same task, epoch and sample draw the same numbers whatever came before.
    """
    seed = hashlib.sha256(canonical_json(list(belongs_to)).encode()).digest()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(int.from_bytes(seed, "little"))))
