"""A finished routed model: its heads, and the router that names one of them, or none, for an embedding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from casam_cache.backbones.base import Backbone
from casam_cache.bench.routed_work import MODEL, read_query
from casam_cache.config import validated
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.files import load_head
from casam_cache.routers.files import load_router
from casam_cache.routers.fitted import TaskRouters
from casam_cache.routers.options import PoolingOptions, RouterOptions
from casam_cache.routers.pooling import pool
from casam_cache.routers.routing import Decision


class RoutedModel:
    """What a `model` stage names.

    Args:
        folder: of the stage, inside its runs folder.
        backbone: of the heads.

    Raises:
        CasamError: the stage or one that it names is missing or damaged.
    """

    def __init__(self, folder: Path, backbone: Backbone) -> None:
        try:
            described = json.loads((folder / MODEL).read_text())
            stages: dict[str, list[str]] = described["stages"]
            options = described["options"]
        except (OSError, ValueError, KeyError) as error:
            raise CasamError(
                f"the model in {folder} cannot be read: {error}", "run the bench again"
            ) from None
        self._folders = {role: folder.parent.parent / kind / key for role, (kind, key) in stages.items()}
        self._backbone = backbone
        self.name = str(described["method"]["name"])
        pooling = validated(PoolingOptions, described["pooling"])
        routing = validated(
            RouterOptions, {key: value for key, value in options.items() if key in RouterOptions.model_fields}
        )
        assert isinstance(pooling, PoolingOptions)
        assert isinstance(routing, RouterOptions)
        self._pooling, self._fallback = pooling, bool(options.get("fallback", True))
        fitted = [load_router(self._folders[f"router/{task}"]) for task in described["tasks"]]
        self._routers = TaskRouters([replace(router, options=routing) for router in fitted])
        self._queries = {
            task: read_query(self._folders[f"query/{task}"])
            for task in described["tasks"]
            if pooling.pooling == "learned"
        }
        self._heads: dict[str, Head] = {}

    def choose(self, embedding: np.ndarray, valid: tuple[int, int]) -> Decision:
        """Where an image goes.

        Args:
            embedding: (C, g, g) as a store gives it.
            valid: rows and columns of the grid that hold image.
        """
        if self._queries:
            own = {
                task: pool(embedding, valid, self._pooling, fitted=query)
                for task, query in self._queries.items()
            }
            decided = self._routers.decide(own)
        else:
            decided = self._routers.decide(pool(embedding, valid, self._pooling))
        return decided if self._fallback else replace(decided, task=decided.nearest)

    def head(self, task: str) -> Head:
        """The head of a task, in evaluation mode on the backbone's device."""
        if task not in self._heads:
            loaded = load_head(self._folders[f"head/{task}"], self._backbone)
            self._heads[task] = loaded.to(self._backbone.device).eval()
        return self._heads[task]
