"""Masks, frozen prompts, splits and groups: versioned apart from the features, which they never touch.

A version is a group `annotations/DIGEST/`, named after its content and never changed; the attribute `current`
of `annotations` points to one. Refreshing writes a new folder, then moves the pointer.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.errors import StoreError
from casam_cache.fingerprint import canonical_json, digest, digest_arrays
from casam_cache.locks import Lock
from casam_cache.store.files import (
    TEMPORARY,
    DamagedError,
    disk_errors,
    make_directory,
    sync_directory,
    write_all,
    write_file,
)
from casam_cache.store.flat import ChunkedReader, FlatSpec, chunk_files
from casam_cache.store.items import decode_texts, encode_texts
from casam_cache.store.lock import lock_store
from casam_cache.store.runs import RUN, cutout_runs, decode_runs
from casam_cache.store.schema import ROOT, group_document, read_meta, render

FOLDER = "annotations"
SPLITS = ("train", "val", "test")
VERSION_DIGITS = 12


@dataclass(frozen=True)
class AnnotatedMask:
    """One mask with its frozen test prompts; make it with `from_bitmap`.

    Attributes:
        runs: uint32, see `runs.encode_runs`.
        size: H, W of the image, pixels.
        class_id: value of its class, 1 where there is only one.
        instance: number within its class, from 1; 0 where objects are not told apart.
        box: x0, y0, x1, y1, inclusive, original pixels.
        point: x, y, original pixels.
    """

    runs: np.ndarray
    size: tuple[int, int]
    class_id: int
    instance: int
    box: tuple[float, float, float, float]
    point: tuple[float, float]

    @classmethod
    def from_bitmap(
        cls,
        bitmap: np.ndarray,
        class_id: int,
        instance: int,
        box: Sequence[float] | np.ndarray,
        point: Sequence[float] | np.ndarray,
    ) -> AnnotatedMask:
        """Encode a mask, bool (H, W)."""
        return cls.from_cutout(Cutout.of(bitmap), class_id, instance, box, point)

    @classmethod
    def from_cutout(
        cls,
        cutout: Cutout,
        class_id: int,
        instance: int,
        box: Sequence[float] | np.ndarray,
        point: Sequence[float] | np.ndarray,
    ) -> AnnotatedMask:
        """Encode a mask of which a part is held; the same as from its whole bitmap."""
        x0, y0, x1, y1 = (float(np.float32(value)) for value in box)
        x, y = (float(np.float32(value)) for value in point)
        return cls(cutout_runs(cutout), cutout.size, int(class_id), int(instance), (x0, y0, x1, y1), (x, y))

    @property
    def bitmap(self) -> np.ndarray:
        """The mask, bool (H, W)."""
        return decode_runs(self.runs, self.size)


@dataclass(frozen=True)
class AnnotatedSample:
    """The annotations of one sample of the dataset as it is now.

    Attributes:
        item: its index in the store.
        split: one of `SPLITS`.
        group: what must not be parted, e.g. a patient.
        masks: perhaps none.
        ignored: pixels that count nowhere, as runs with the size (H, W) of the image; None where all count.
    """

    item: int
    split: str
    group: str
    masks: tuple[AnnotatedMask, ...] = ()
    ignored: tuple[np.ndarray, tuple[int, int]] | None = None

    def digest(self) -> bytes:
        """32 bytes that name the masks and prompts, but neither the split nor the place in the store."""
        total = hashlib.sha256()
        for mask in self.masks:
            plain = [
                list(mask.size),
                mask.class_id,
                mask.instance,
                list(mask.box),
                list(mask.point),
                len(mask.runs),
            ]
            total.update(canonical_json(plain).encode())
            total.update(mask.runs.astype("<u4").tobytes())
        if self.ignored is not None:
            runs, size = self.ignored
            total.update(canonical_json(["ignored", list(size), len(runs)]).encode())
            total.update(runs.astype("<u4").tobytes())
        return total.digest()


def write_annotations(
    store: Path,
    samples: Iterable[AnnotatedSample],
    attributes: Mapping[str, Any],
    lock: Lock | None = None,
) -> str:
    """Make `samples` the current annotations of a store; equal content is the same version.

    Args:
        store: an existing store.
        samples: in the order that rows shall have (sorted by id).
        attributes: plain JSON data about them: mask mode, class names, dataset options, counts of problems.
        lock: `StoreWriter.lock` where the caller is writing already; None: taken for this call.

    Returns:
        The version, 12 hexadecimal digits.

    Raises:
        HeldError: another process is writing into it.
        StoreError: where the store is missing or cannot be written.
    """
    read_meta(store)
    arrays = _collect(samples)
    specs = {
        name: FlatSpec.of(array, compressed=name.endswith("rle_values")) for name, array in arrays.items()
    }
    body = {
        "format": 1,
        "arrays": {
            name: {**spec.to_json(), "sha256": digest_arrays([(name, arrays[name])])}
            for name, spec in specs.items()
        },
        "attributes": json.loads(canonical_json(attributes)),
    }
    named = digest(body)
    version = named[:VERSION_DIGITS]
    root = store / FOLDER
    held = nullcontext() if lock is not None else lock_store(store)
    with held:
        if not (root / ROOT).exists():
            make_directory(root)
            write_file(root / ROOT, pointer_document(None))
        if not (root / version).exists():
            staged = root / (TEMPORARY + version)
            for name, array in arrays.items():
                make_directory(staged / name)
                write_all(chunk_files(staged / name, array, specs[name]))
            write_all(
                (staged / path, [data]) for path, data in version_documents({**body, "digest": named}).items()
            )
            with disk_errors(root):
                os.rename(staged, root / version)
                sync_directory(root)
        if (root / ROOT).read_bytes() != pointer_document(version):
            write_file(root / ROOT, pointer_document(version))
    return version


def pointer_document(version: str | None) -> bytes:
    """The metadata of the group `annotations`, which says what version is current."""
    pointer = {"current": version}
    return render(group_document({"casam": {**pointer, "digest": digest(pointer)}}))


def version_documents(body: Mapping[str, Any]) -> dict[str, bytes]:
    """Every metadata file of one version by its path, from its attributes (with their digest)."""
    found = {ROOT: render(group_document({"casam": body}))}
    for name, spec in body["arrays"].items():
        found[f"{name}/{ROOT}"] = render(FlatSpec.from_json(spec).document())
    return found


def current_version(store: Path) -> str | None:
    """The current version, or None where the store has no annotations.

    Raises:
        DamagedError: where the pointer is damaged.
    """
    path = store / FOLDER / ROOT
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        version = json.loads(data)["attributes"]["casam"]["current"]
    except (ValueError, KeyError, TypeError):
        version = ""
    if data != pointer_document(version):
        raise DamagedError(path, "is damaged")
    return version


def read_version(store: Path, version: str) -> dict[str, Any]:
    """The attributes of one version.

    Raises:
        DamagedError: where they are not what was written.
    """
    path = store / FOLDER / version / ROOT
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())["attributes"]["casam"]
        named = digest({key: value for key, value in body.items() if key != "digest"})
        if body["digest"] != named or version != named[:VERSION_DIGITS]:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(path, "is missing or damaged") from None
    if body["format"] != 1:
        raise StoreError(f"{path}: annotations of format {body['format']}; this release reads format 1")
    return body


def _collect(samples: Iterable[AnnotatedSample]) -> dict[str, np.ndarray]:
    rows: list[tuple[int, int, bytes]] = []
    groups: list[str] = []
    masks: list[AnnotatedMask] = []
    owner: list[int] = []
    ignored: list[tuple[int, np.ndarray, tuple[int, int]]] = []
    for row, sample in enumerate(samples):
        rows.append((sample.item, SPLITS.index(sample.split), sample.digest()))
        groups.append(sample.group)
        masks.extend(sample.masks)
        owner.extend([row] * len(sample.masks))
        if sample.ignored is not None:
            ignored.append((row, *sample.ignored))
    values, offsets = encode_texts(groups)
    lengths = np.array([len(mask.runs) for mask in masks], dtype=np.int64)
    runs = np.concatenate([mask.runs for mask in masks]) if masks else np.zeros(0, RUN)
    return {
        "item": np.array([row[0] for row in rows], dtype=np.int64),
        "split": np.array([row[1] for row in rows], dtype=np.uint8),
        "sample_sha256": np.frombuffer(b"".join(row[2] for row in rows), dtype=np.uint8).reshape(-1, 32),
        "group_values": values,
        "group_offsets": offsets,
        "mask_sample": np.array(owner, dtype=np.int64),
        "class_id": np.array([mask.class_id for mask in masks], dtype=np.int32),
        "instance": np.array([mask.instance for mask in masks], dtype=np.int32),
        "box": np.array([mask.box for mask in masks], dtype=np.float32).reshape(-1, 4),
        "point": np.array([mask.point for mask in masks], dtype=np.float32).reshape(-1, 2),
        "size": np.array([mask.size for mask in masks], dtype=np.int32).reshape(-1, 2),
        "rle_values": runs.astype(RUN),
        "rle_offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **(_ignored_arrays(ignored) if ignored else {}),  # stores without any stay as they were
    }


def _ignored_arrays(ignored: Sequence[tuple[int, np.ndarray, tuple[int, int]]]) -> dict[str, np.ndarray]:
    lengths = [len(runs) for _, runs, _ in ignored]
    return {
        "ignored_sample": np.array([row for row, _, _ in ignored], dtype=np.int64),
        "ignored_size": np.array([size for _, _, size in ignored], dtype=np.int32).reshape(-1, 2),
        "ignored_rle_values": np.concatenate([runs for _, runs, _ in ignored]).astype(RUN),
        "ignored_rle_offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    }


class Annotations:
    """One version of a store's annotations; arrays are read when first asked for.

    Attributes:
        version: 12 hexadecimal digits.
        attributes: as given to `write_annotations`.
    """

    def __init__(self, store: Path, version: str) -> None:
        self.path = Path(store) / FOLDER / version
        self.version = version
        body = read_version(Path(store), version)
        self.attributes: dict[str, Any] = body["attributes"]
        self._specs = {name: FlatSpec.from_json(spec) for name, spec in body["arrays"].items()}

    @classmethod
    def open(cls, store: Path | str, version: str | None = None) -> Annotations:
        """The current annotations of a store, or a version of them.

        Raises:
            StoreError: where there are none or they are damaged.
        """
        version = version or current_version(Path(store))
        if version is None:
            raise StoreError(f"{store} has no annotations", "run `casam encode`: it adds them")
        return cls(Path(store), version)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path.parent.parent, self.version)

    def __len__(self) -> int:
        return self._specs["item"].shape[0]

    @property
    def masks(self) -> int:
        return self._specs["class_id"].shape[0]

    def _load(self, name: str) -> np.ndarray:
        return ChunkedReader(self.path / name, self._specs[name]).all()

    @cached_property
    def item(self) -> np.ndarray:
        """int64 (n,): index in the store of each sample."""
        return self._load("item")

    @cached_property
    def split(self) -> np.ndarray:
        """uint8 (n,): position in `SPLITS`."""
        return self._load("split")

    @cached_property
    def sample_sha256(self) -> np.ndarray:
        """uint8 (n, 32): names each sample's masks and prompts."""
        return self._load("sample_sha256")

    @cached_property
    def groups(self) -> list[str]:
        return decode_texts(self._load("group_values"), self._load("group_offsets"))

    @cached_property
    def mask_sample(self) -> np.ndarray:
        """int64 (M,), ascending: the row of the sample that each mask belongs to."""
        return self._load("mask_sample")

    @cached_property
    def class_id(self) -> np.ndarray:
        """int32 (M,)."""
        return self._load("class_id")

    @cached_property
    def instance(self) -> np.ndarray:
        """int32 (M,)."""
        return self._load("instance")

    @cached_property
    def box(self) -> np.ndarray:
        """float32 (M, 4): frozen test prompt, x0, y0, x1, y1 in original pixels."""
        return self._load("box")

    @cached_property
    def point(self) -> np.ndarray:
        """float32 (M, 2): frozen test prompt, x, y in original pixels."""
        return self._load("point")

    @cached_property
    def size(self) -> np.ndarray:
        """int32 (M, 2): height and width of each mask."""
        return self._load("size")

    @cached_property
    def _runs(self) -> tuple[np.ndarray, ChunkedReader]:
        return self._load("rle_offsets"), ChunkedReader(self.path / "rle_values", self._specs["rle_values"])

    def rows(self, split: str) -> np.ndarray:
        """int64, ascending: where the samples of a split stand in `item`, `split` and the like."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def group(self, row: int) -> str:
        return self.groups[row]

    def masks_of(self, row: int) -> np.ndarray:
        """int64, ascending: where the masks of a sample stand in `class_id`, `box` and the like."""
        first, last = np.searchsorted(self.mask_sample, [row, row + 1])
        return np.arange(first, last)

    def runs(self, index: int) -> np.ndarray:
        """One mask as run lengths, uint32, see `runs.encode_runs`; its `size` says the rest."""
        offsets, values = self._runs
        return values.read(int(offsets[index]), int(offsets[index + 1]))

    def mask(self, index: int) -> np.ndarray:
        """One mask at original resolution, bool (H, W)."""
        height, width = self.size[index]
        return decode_runs(self.runs(index), (int(height), int(width)))

    @cached_property
    def _ignored(self) -> dict[int, int]:
        """Where each sample with ignored pixels stands among those, by its row."""
        if "ignored_sample" not in self._specs:
            return {}
        return {int(row): place for place, row in enumerate(self._load("ignored_sample"))}

    def ignored(self, row: int) -> np.ndarray | None:
        """Pixels of a sample that count nowhere, bool (H, W); None where all count."""
        place = self._ignored.get(row)
        if place is None:
            return None
        first, last = self._load("ignored_rle_offsets")[place : place + 2]
        height, width = self._load("ignored_size")[place]
        values = ChunkedReader(self.path / "ignored_rle_values", self._specs["ignored_rle_values"])
        return decode_runs(values.read(int(first), int(last)), (int(height), int(width)))
