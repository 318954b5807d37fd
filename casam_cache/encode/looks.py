"""What encoded images look like, kept beside a store so that duplicates are found without decoding anything again.

A cache of fixed-size records, each at its item's place, written as images are decoded: an interrupted run that decodes
an image again writes the same bytes again. Images that it does not know (of a store begun before, or whose record was
lost) are compared by the bytes of their files alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from casam_cache.datasets import Dataset, Problem
from casam_cache.datasets.duplicates import SIDE, Look, across_splits
from casam_cache.store import EmbeddingStore
from casam_cache.store.schema import OK

_RECORD = np.dtype(
    [("item", "<i8"), ("source", "u1", 32), ("pixels", "u1", 32), ("thumbnail", "u1", (SIDE, SIDE))]
)


def looks_path(store: Path) -> Path:
    """The file beside DIR/TASK/BACKBONE.zarr."""
    return store.with_name(f".{store.stem}.looks")


class LooksFile:
    """Takes the looks of decoded images; whatever keeps it from writing does not stop the run."""

    def __init__(self, store: Path) -> None:
        self._path = looks_path(store)
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Begins, beside what was kept before."""
        with contextlib.suppress(OSError):
            self._path.touch()
            self._file = self._path.open("r+b")
            whole = self._path.stat().st_size // _RECORD.itemsize * _RECORD.itemsize
            self._file.truncate(whole)  # a record that an interrupted run cut off

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def add(self, first: int, sources: Sequence[bytes], looks: Sequence[Look | None]) -> None:
        """Writes one batch.

        Args:
            first: index in the store of its first item.
            sources: SHA-256 of what each was made from.
            looks: of each; None for a bad image.
        """
        records = np.array(
            [
                (first + place, np.frombuffer(source, np.uint8), np.frombuffer(look.pixels, np.uint8), look.thumbnail)
                for place, (source, look) in enumerate(zip(sources, looks, strict=True))
                if look is not None
            ],
            dtype=_RECORD,
        )  # fmt: skip
        if self._file is not None and len(records):
            with contextlib.suppress(OSError):
                for record in records:
                    self._file.seek(int(record["item"]) * _RECORD.itemsize)
                    self._file.write(record.tobytes())
                self._file.flush()


def read_looks(store: EmbeddingStore) -> dict[int, Look]:
    """The look of each item whose features are of the image that was looked at."""
    try:
        data = looks_path(store.path).read_bytes()
    except OSError:
        return {}
    records = np.frombuffer(data[: len(data) // _RECORD.itemsize * _RECORD.itemsize], dtype=_RECORD)
    sources = store.source_sha256
    return {
        int(record["item"]): Look(record["pixels"].tobytes(), record["thumbnail"])
        for record in records
        if 0 <= record["item"] < len(sources)
        and record["source"].tobytes() == sources[record["item"]].tobytes()
    }


def duplicates(dataset: Dataset, store: EmbeddingStore) -> list[Problem]:
    """Encoded images of a dataset that are in two of its splits, see `across_splits`."""
    if len({sample.split for sample in dataset.samples}) < 2:
        return []
    status, sources, known = store.status, store.source_sha256, read_looks(store)
    places = {name: place for place, name in enumerate(store.ids)}
    samples = [sample for sample in dataset.samples if status[places[sample.id]] == OK]
    items = [places[sample.id] for sample in samples]
    files = [
        "" if dataset.reader.file_of(sample.source) is None else sources[item].tobytes().hex()
        for sample, item in zip(samples, items, strict=True)
    ]
    return across_splits(samples, [known.get(item) for item in items], files)
