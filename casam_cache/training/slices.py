"""Which images of a store are slices of volumes, and where in them they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from casam_cache.datasets.volumes.slices import SliceName
from casam_cache.store import Annotations, EmbeddingStore


@dataclass(frozen=True)
class Slice:
    """Where an image lies in the volume that it is a slice of.

    Attributes:
        volume: what it is a slice of, unique in its task.
        index: of the slice, from 0, along the axis the volume was cut along.
        spacing: mm from slice to slice of those that were taken, from row to row, and from column to column; None where
            it is unknown.
        step: how many slices further the next one is that was taken; 1 where all were.
    """

    volume: str
    index: int
    spacing: tuple[float, float, float] | None = None
    step: int = 1


class Slices:
    """The slices of a store, by what its annotations say of its volumes.

    Args:
        store: whose images may be slices.
        annotations: of the store; `attributes["volumes"]` are records as of `volumes.look.record_of`.
    """

    def __init__(self, store: EmbeddingStore, annotations: Annotations) -> None:
        attributes: Mapping[str, Any] = annotations.attributes
        self._store = store
        self._volumes = {
            (record["source"], record["channel"], record["series"]): record
            for record in attributes.get("volumes", ())
        }
        taken = str(attributes.get("options", {}).get("slices"))
        self._step = int(taken.removeprefix("every:")) if taken.startswith("every:") else 1

    def place(self, item: int) -> Slice | None:
        """Where an image lies in its volume; None where it is no slice of one.

        Args:
            item: its number in the store.
        """
        path = self._store.paths[item] if self._volumes else ""
        if "#slice=" not in path:
            return None
        name = SliceName.parse(path)
        record = self._volumes.get((name.path, name.channel, name.series))
        if record is None:
            return None
        spacing = None
        if record["units"] == "mm":
            through, down, right = (
                float(record["spacing"][axis]) for axis in (name.axis, record["rows"], record["columns"])
            )
            spacing = (through * self._step, down, right)
        return Slice(record["name"], name.index, spacing, self._step)

    def facts(self, item: int) -> tuple[dict[str, Any], ...]:
        """What decides scores of volumes, as plain JSON; empty of an image that is no slice."""
        place = self.place(item)
        return () if place is None else (asdict(place),)
