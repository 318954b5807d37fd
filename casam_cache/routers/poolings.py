"""The poolings of Table 5 without parameters.

| name | f |
|---|---|
| `attention` | equation 5: cells weighted by softmax(norm / (C T)) |
| `mean`, `gap` | the mean over cells: as the paper describes them, mean pooling and global average pooling are one operation, and both rows of Table 5 exist here only to have its shape |
| `flatten` | all C h w numbers through a fixed random projection to C: a learned one would have 268 million parameters at SAM's size |
| `cls` | the top-left cell: SAM's encoder has no class token, and this is the nearest to a "first token" that a stored embedding offers |

`learned`, as `attention` with scores from a vector trained for the task, is in `routers/learned.py`.
"""  # noqa: E501

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from casam_cache.fingerprint import generator
from casam_cache.routers.pooling import Pooling, Valid
from casam_cache.store.pooling import attention_pool, mean_pool


class TemperatureOptions(BaseModel):
    """Of `attention` and `learned`.

    Attributes:
        temperature: T of the softmax over cells.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float = Field(default=1.0, gt=0)


class NoOptions(BaseModel):
    """Nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Attention(Pooling):
    """Equation 5."""

    name = "attention"
    Options = TemperatureOptions

    def pool(self, embedding: np.ndarray, valid: Valid | None = None) -> np.ndarray:
        return attention_pool(embedding, valid, self.options.temperature)


class Mean(Pooling):
    """The mean over cells."""

    name = "mean"
    Options = NoOptions

    def pool(self, embedding: np.ndarray, valid: Valid | None = None) -> np.ndarray:
        return mean_pool(embedding, valid)


class GlobalAverage(Mean):
    """The same under its other name."""

    name = "gap"


class TopLeft(Pooling):
    """One cell."""

    name = "cls"
    Options = NoOptions

    def pool(self, embedding: np.ndarray, valid: Valid | None = None) -> np.ndarray:
        return embedding[:, 0, 0].astype(np.float32)


class Flatten(Pooling):
    """A fixed random projection of everything."""

    name = "flatten"
    Options = NoOptions

    def pool(self, embedding: np.ndarray, valid: Valid | None = None) -> np.ndarray:
        return flatten_pool(embedding, valid)


def flatten_pool(embedding: np.ndarray, valid: tuple[int, int] | None = None) -> np.ndarray:
    """All numbers through a fixed projection to C dimensions: f = R H s z / sqrt(C h w).

    s are random signs, H is the Walsh-Hadamard transform (the length filled up with zeros to a power of two) and R
    keeps C random rows of it. Each number of f is a sum of all of z with signs, as in a dense random projection,
    but a million-number embedding takes 1 MB of signs and no matrix. Signs and rows depend on the shape alone.

    Args:
        embedding: (C, h, w), any float dtype.
        valid: cells that hold no image count as zeros.

    Returns:
        float32 (C,).
    """
    channels, rows, columns = embedding.shape
    z = np.zeros(embedding.shape, dtype=np.float64)
    inside = np.s_[:, :, :] if valid is None else np.s_[:, : valid[0], : valid[1]]
    z[inside] = embedding[inside]
    signs, kept = _flatten_draws(channels, rows, columns)
    mixed = np.zeros(1 << (z.size - 1).bit_length(), dtype=np.float64)
    mixed[: z.size] = z.reshape(-1) * signs
    half = 1
    while half < len(mixed):
        pairs = mixed.reshape(-1, 2, half)
        mixed = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        half *= 2
    return (mixed[kept] / np.sqrt(z.size)).astype(np.float32)


@lru_cache(maxsize=4)
def _flatten_draws(channels: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Signs int8 (C h w,) and which rows of the transform are kept, int64 (C,)."""
    size = channels * rows * columns
    belongs_to = ("flatten", channels, rows, columns)
    signs = generator(*belongs_to, "signs").integers(0, 2, size=size, dtype=np.int8) * np.int8(2) - np.int8(1)
    length = 1 << (size - 1).bit_length()
    kept = generator(*belongs_to, "rows").choice(length, size=channels, replace=False, shuffle=False)
    return signs, np.sort(kept)
