"""Reading a store: O(1) to open, items as views of memory-mapped shards, checksums verified at first use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casam_cache.errors import StoreError
from casam_cache.geometry import Geometry
from casam_cache.notebook import html_table
from casam_cache.store.items import read_items, read_side
from casam_cache.store.quantise import dequantise
from casam_cache.store.records import read_record, read_records
from casam_cache.store.schema import EMBEDDING, FAILED, OK, ArraySpec, StoreMeta, chunk_name, read_meta
from casam_cache.store.shard import Shard
from casam_cache.views import view_of

if TYPE_CHECKING:
    from casam_cache.store.annotations import Annotations

OPEN_SHARDS = 64


class EmbeddingStore:
    """The cached features of one dataset and backbone, opened with `EmbeddingStore.open(path)`.

    Safe to share between threads and to pickle into a spawned worker, which opens it again.

    Args:
        path: DIR/TASK/BACKBONE.zarr.
        open_shards: files mapped at a time, apart from those that views returned by `read` keep alive.

    Attributes:
        path: DIR/TASK/BACKBONE.zarr.
        meta: the root attributes.
    """

    def __init__(self, path: Path, open_shards: int = OPEN_SHARDS) -> None:
        self.path = Path(path)
        self.meta: StoreMeta = read_meta(self.path)
        self._open_shards = open_shards
        self._shards: OrderedDict[tuple[str, int], tuple[Shard | None, int]] = OrderedDict()
        self._mutex = threading.Lock()

    @classmethod
    def open(cls, path: Path | str, open_shards: int = OPEN_SHARDS) -> EmbeddingStore:
        """Open a store for reading.

        Raises:
            StoreError: where there is none, its root is damaged, or it has another format.
        """
        return cls(Path(path), open_shards)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._open_shards)

    def __len__(self) -> int:
        """Number of planned items, encoded or not."""
        return self.meta.items

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.path)!r}, {len(self)} items, arrays {', '.join(self.arrays)})"

    def _repr_html_(self) -> str:
        """For a notebook: what it holds, of what, from which backbone."""
        backbone = self.identity.get("backbone", {})
        rows = [
            ("images", f"{len(self):,}"),
            *(
                (name, f"{' x '.join(map(str, spec.shape))}, {spec.dtype}")
                for name, spec in self.arrays.items()
            ),
            (
                "backbone",
                f"{backbone.get('name', self.path.stem)}, weights {str(backbone.get('weights', '?'))[:12]}",
            ),
            ("path", str(self.path)),
        ]
        return html_table(f"embeddings of {self.path.parent.name}", (), rows)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the features' values: weights, architecture, preprocessing, precision, dtype."""
        return self.meta.identity

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity."""
        return self.meta.fingerprint

    @property
    def arrays(self) -> dict[str, ArraySpec]:
        """The feature arrays: name -> shape and stored dtype of one item."""
        return self.meta.features

    @property
    def embedding_shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return self.meta.arrays[EMBEDDING].shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the embeddings as they are read; `arrays` says how they are stored."""
        return self.meta.arrays[EMBEDDING].read_dtype

    @cached_property
    def ids(self) -> list[str]:
        """Ids of all items, in order."""
        return read_items(self.path, self.meta, "id")

    @cached_property
    def paths(self) -> list[str]:
        """Posix paths of the images relative to their dataset, in order."""
        return read_items(self.path, self.meta, "path")

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.ids)}

    def index(self, name: str) -> int:
        """The item with an id.

        Raises:
            StoreError: where there is none.
        """
        try:
            return self._positions[name]
        except KeyError:
            raise StoreError(
                f"{self.path} has no item '{name}'", "run `casam encode` to add new images"
            ) from None

    @cached_property
    def status(self) -> np.ndarray:
        """uint8 (N,): 0 not encoded yet, 1 encoded, 2 failed."""
        return self._side("status")

    @cached_property
    def pooled(self) -> np.ndarray:
        """float32 (N, C): `attention_pool` of each embedding at T = 1; zeros where there is none."""
        return self._side("pooled")

    @cached_property
    def source_sha256(self) -> np.ndarray:
        """uint8 (N, 32): SHA-256 of each image file; zeros where unknown."""
        return self._side("source_sha256")

    @cached_property
    def sizes(self) -> np.ndarray:
        """int32 (N, 4): height, width, input_height, input_width of each image; zeros where unknown."""
        return self._side("geometry")

    def geometry(self, index: int) -> Geometry:
        """How one image was put into the encoder's input."""
        height, width, input_height, input_width = (int(side) for side in self.sizes[index])
        if not height:
            raise self._unavailable(index, EMBEDDING)
        return Geometry(height, width, input_height, input_width, self.meta.image_size, self.meta.patch_size)

    @cached_property
    def failures(self) -> dict[int, str]:
        """Why items have no features: item -> message."""
        found = {}
        for shard in sorted({int(item) // self.meta.shard for item in np.flatnonzero(self.status == FAILED)}):
            start, stop = self.meta.shard_range(shard)
            rows = read_side(self.path, self.meta, "failure", shard)
            for item in range(start, stop):
                if self.status[item] == FAILED:
                    found[item] = rows[item - start].tobytes().rstrip(b"\0").decode(errors="replace")
        return found

    def committed(self, array: str = EMBEDDING) -> np.ndarray:
        """Which items of an array are done (encoded or failed for good): bool (N,)."""
        self._known(array)
        mask = np.zeros(len(self), dtype=bool)
        for shard, count in enumerate(read_records(self.path, self.meta, array)):
            start = shard * self.meta.shard
            mask[start : start + int(count)] = True
        return mask

    def available(self, array: str = EMBEDDING) -> np.ndarray:
        """Which items' features can be read: bool (N,)."""
        return self.committed(array) & (self.status == OK)

    def require_complete(self, array: str = EMBEDDING) -> None:
        """Raise a `StoreError` that says what to run unless every planned item is done."""
        done = int(self.committed(array).sum())
        if done < len(self):
            raise StoreError(
                f"{self.path}: {done} of {len(self)} images have '{array}'",
                "run the same `casam encode` again: it goes on where it was",
            )

    def read(self, index: int, array: str = EMBEDDING) -> np.ndarray:
        """One item, read-only, its checksum checked at its first use.

        A view of the page cache; float16 values made from the stored integers where the array is int8.

        Raises:
            StoreError: where it is not encoded yet, failed, or is damaged.
        """
        stored = self.read_stored(index, array)
        if not self.meta.arrays[array].quantised:
            return stored
        scale, offset = (self.read_stored(index, f"{array}_{part}") for part in ("scale", "offset"))
        values = dequantise(stored, scale, offset)
        values.flags.writeable = False
        return values

    def read_stored(self, index: int, array: str = EMBEDDING) -> np.ndarray:
        """One item as it is stored, a read-only view of the page cache: for int8 arrays the integers.

        Args:
            index: the item.
            array: a feature array, or `A_scale`, `A_offset` or `A_error` of an int8 array A.

        Raises:
            StoreError: see `read`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        shard, position = divmod(index, self.meta.shard)
        with self._mutex:
            mapped, count = self._shard(array, shard)
            if position >= count:  # a writer may have come further since
                self._shards.pop((array, shard), None)
                mapped, count = self._shard(array, shard)
            if mapped is None or position >= count or not mapped.has(position):
                raise self._unavailable(index, array)
            return mapped.read(position)

    def quantisation_errors(self, array: str = EMBEDDING) -> np.ndarray:
        """float32 (n, 2) of the available items of an int8 array, see `quantise.quantisation_error`.

        Raises:
            StoreError: where the array is not int8.
        """
        if not self._known(array).quantised:
            raise StoreError(
                f"{self.path}: '{array}' is not quantised", "only int8 arrays have such an error"
            )
        rows = [self.read_stored(int(i), f"{array}_error") for i in np.flatnonzero(self.available(array))]
        return np.array(rows, dtype=np.float32).reshape(-1, 2)

    @property
    def has_annotations(self) -> bool:
        """Whether there is a current version of annotations."""
        from casam_cache.store.annotations import current_version

        return current_version(self.path) is not None

    @cached_property
    def annotations(self) -> Annotations:
        """The current annotations.

        Raises:
            StoreError: where the store has none.
        """
        from casam_cache.store.annotations import Annotations

        return Annotations.open(self.path)

    def _known(self, array: str) -> ArraySpec:
        if array not in self.meta.arrays:
            raise StoreError(
                f"{self.path} has no array '{array}' (it has: {', '.join(self.arrays)})",
                f"casam encode DATASET --store {self.path.parent.parent} {_option(array)} adds it; "
                f"DATASET is the folder of {self.path.parent.name}, and all other options are as they were",
            )
        return self.meta.arrays[array]

    def _shard(self, array: str, shard: int) -> tuple[Shard | None, int]:
        key = (array, shard)
        found = self._shards.get(key)
        if found is None:
            spec = self._known(array)
            path = self.path / array / chunk_name(shard, len(spec.shape) + 1)
            count = read_record(self.path, self.meta.sources.get(array, array), shard)
            try:
                found = (Shard(path, spec, self.meta.shard), count)
            except FileNotFoundError:
                found = (None, count)
            self._shards[key] = found
            while len(self._shards) > self._open_shards:
                self._shards.popitem(last=False)
        self._shards.move_to_end(key)
        return found

    def _side(self, name: str) -> np.ndarray:
        """A side array of all committed items; zeros for the others."""
        parts = []
        for shard, count in enumerate(read_records(self.path, self.meta, EMBEDDING)):
            start, stop = self.meta.shard_range(shard)
            part = read_side(self.path, self.meta, name, shard, required=bool(count))[: stop - start]
            part[int(count) :] = 0
            parts.append(part)
        return np.concatenate(parts) if parts else read_side(self.path, self.meta, name, 0)[:0]

    def _unavailable(self, index: int, array: str) -> StoreError:
        name = self.ids[index]
        committed = bool(self.committed(array)[index])
        if committed and index in self.failures:
            return StoreError(
                f"{self.path}: image '{name}' could not be encoded: {self.failures[index]}",
                "mend or remove the image, then run `casam encode` again",
            )
        if committed:
            return StoreError(
                f"{self.path}: there is no '{array}' of '{name}'",
                "its image could not be read when that array was added, or the store is damaged: "
                "`casam store verify` tells",
            )
        done = int(self.committed(array).sum())
        return StoreError(
            f"{self.path}: '{name}' has no '{array}' yet: {done} of {len(self)} images encoded",
            "run the same `casam encode` again: it goes on where it was",
        )


def _option(array: str) -> str:
    view = view_of(array)
    return f"--with {array}" if view is None else f"--views {view.name}"


def find_stores(folder: Path, task: str = "*", backbone: str = "*") -> list[Path]:
    """All stores DIR/TASK/BACKBONE.zarr in a folder, sorted."""
    return sorted(path.parent for path in Path(folder).glob(f"{task}/{backbone}.zarr/zarr.json"))


def store_path(folder: Path, task: str, backbone: str) -> Path:
    return Path(folder) / task / f"{backbone}.zarr"
