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
    """Takes the looks of decoded images; whatever keeps it from writing does not stop the run.

    Args:
        path: of the file.
        first: the item at its beginning.
    """

    def __init__(self, path: Path, first: int = 0) -> None:
        self._path, self._first = path, first
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
        self.add_records(records)

    def add_records(self, records: np.ndarray) -> None:
        """Writes each record at its item's place."""
        if self._file is not None and len(records):
            with contextlib.suppress(OSError):
                for record in records:
                    self._file.seek((int(record["item"]) - self._first) * _RECORD.itemsize)
                    self._file.write(record.tobytes())
                self._file.flush()


def part_path(store: Path, shard: int) -> Path:
    """Where the looks of one shard wait while other processes write those of others."""
    return looks_path(store).with_name(f"{looks_path(store).name}.shard-{shard}")


def join_looks(store: Path, shard: int) -> None:
    """Puts the looks of one shard, where there are some, into the store's file, and removes their own."""
    part = part_path(store, shard)
    with contextlib.suppress(OSError):
        records = _records(part)
        whole = LooksFile(looks_path(store))
        whole.open()
        whole.add_records(records[records["source"].any(axis=1)])
        whole.close()
        part.unlink()


def join_left(store: Path) -> None:
    """`join_looks` of whatever a run that was interrupted left."""
    before = part_path(store, 0).name.removesuffix("0")
    for path in store.parent.iterdir():
        if path.name.startswith(before) and path.name.removeprefix(before).isdecimal():
            join_looks(store, int(path.name.removeprefix(before)))


def _records(path: Path) -> np.ndarray:
    data = path.read_bytes()
    return np.frombuffer(data[: len(data) // _RECORD.itemsize * _RECORD.itemsize], dtype=_RECORD)


def read_looks(store: EmbeddingStore) -> dict[int, Look]:
    """The look of each item whose features are of the image that was looked at."""
    try:
        records = _records(looks_path(store.path))
    except OSError:
        return {}
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
