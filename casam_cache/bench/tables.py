"""Finished stages as arrays, read once: the outcome table that every question about routing is a look-up in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from casam_cache.bench.node import Node
from casam_cache.bench.outcomes import read_outcomes
from casam_cache.bench.stages import Runs
from casam_cache.heads.files import WEIGHTS
from casam_cache.methods.memory import TENSORS, load_memory


@dataclass(frozen=True)
class OutcomeTable:
    """Per-mask outcomes on one split.

    Attributes:
        item: ids of the masks' images (M,).
        group: patients or slides (M,), named with their task.
        scores: float64 (M,) by metric, NaN where undefined.
    """

    item: np.ndarray
    group: np.ndarray
    scores: Mapping[str, np.ndarray]

    def choose(self, others: Sequence[OutcomeTable], choice: dict[str, int]) -> OutcomeTable:
        """Mask by mask, the outcome under the head chosen for its image; -1 is this table.

        Args:
            others: the same masks under other heads.
            choice: index into `others` by image id.
        """
        picked = np.array([choice[item] for item in self.item], dtype=np.int64)
        rows = np.arange(len(picked))
        tables = (*others, self)
        scores = {name: np.stack([t.scores[name] for t in tables])[picked, rows] for name in self.scores}
        return OutcomeTable(self.item, self.group, scores)


class Tables:
    """Reads finished stages of a runs folder, each once."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._outcomes: dict[str, OutcomeTable] = {}
        self._records: dict[str, dict[str, Any]] = {}

    def outcomes(self, node: Node) -> OutcomeTable:
        """The table an `evaluate` node wrote."""
        if node.key not in self._outcomes:
            read = read_outcomes(self.runs.folder(node.stage))
            groups = [f"{task}/{group}" for task, group in zip(read.task, read.group, strict=True)]
            self._outcomes[node.key] = OutcomeTable(
                np.array(read.item, dtype=object),
                np.array(groups, dtype=object),
                {name: np.array(values, dtype=np.float64) for name, values in read.scores.items()},
            )
        return self._outcomes[node.key]

    def recorded(self, node: Node) -> dict[str, Any]:
        """What was recorded beside a stage's result; empty where only its children are left."""
        if node.key not in self._records:
            found = self.runs.exists(node.stage)
            self._records[node.key] = self.runs.record(self.runs.folder(node.stage)) if found else {}
        facts: dict[str, Any] = self._records[node.key].get("recorded", {})
        return facts

    def parameters(self, node: Node) -> int | None:
        """Numbers that a fit trained."""
        found: int | None = self.recorded(node).get("parameters")
        return found

    def seconds(self, nodes: Sequence[Node]) -> float:
        """Seconds that stages took when they were computed."""
        return float(sum(self.recorded(node).get("seconds", 0.0) for node in nodes))

    def mixtures(self, nodes: Sequence[Node]) -> dict[str, list[str]]:
        """Devices, thread counts and library versions behind some stages, where there is more than one of a kind.

        They are no part of any key, since results should not depend on them; where they differ, they may in the last
        digits.
        """
        seen: dict[str, set[str]] = {}
        for node in nodes:
            facts = self.recorded(node)
            versions = facts.get("versions", {})
            told = {
                "device": facts.get("device"),
                "threads": facts.get("threads"),
                "machine": facts.get("machine"),
            }
            for name, value in {**told, **versions}.items():
                if value is not None:
                    seen.setdefault(name, set()).add(str(value))
        return {name: sorted(values) for name, values in sorted(seen.items()) if len(values) > 1}

    def folder(self, node: Node) -> str:
        """Where a stage is."""
        return str(self.runs.folder(node.stage))

    def bytes_kept(self, node: Node) -> int:
        """Bytes of the head's weights."""
        path = self.runs.folder(node.stage) / WEIGHTS
        return path.stat().st_size if path.exists() else 0

    def memory_bytes(self, node: Node) -> int:
        """Bytes of a memory's tensors and of its exemplars' embeddings; their masks are a few hundred bytes each."""
        folder = self.runs.folder(node.stage)
        if not (folder / TENSORS).exists():
            return 0
        memory = load_memory(folder)
        return memory.bytes + sum(
            self._exemplar_bytes(node, task) for task in [e.task for e in memory.exemplars]
        )

    def _exemplar_bytes(self, node: Node, task: str) -> int:
        return self._embedding_bytes(node.place.stores, task, node.place.model)

    @cached_property
    def _sizes(self) -> dict[tuple[str, str], int]:
        return {}

    def _embedding_bytes(self, stores: str, task: str, model: str) -> int:
        from casam_cache.bench.sources import store_of

        if (task, model) not in self._sizes:
            store = store_of(stores, task, model)
            self._sizes[task, model] = int(np.prod(store.embedding_shape)) * store.dtype.itemsize
        return self._sizes[task, model]
