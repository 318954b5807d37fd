"""A finished routed model: its heads, and the router that names one of them, or none, for an embedding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from casam_cache.backbones.base import Backbone
from casam_cache.bench.stages.routed import MODEL
from casam_cache.engine.runs import read_record, stage_folder
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.files import load_head
from casam_cache.routers.files import load_pooling, load_router
from casam_cache.routers.fitted import TaskRouters
from casam_cache.routers.pooling import pool_one
from casam_cache.routers.routing import Decision


class RoutedModel:
    """What a `model` stage names.

    Args:
        folder: of the stage, inside its runs folder, verified.
        backbone: of the heads.
        trust: run Python files that lie beside heads, routers and poolings, whoever wrote them.

    Raises:
        CasamError: the stage or one that it names is missing or damaged, or brings code that is not trusted.
    """

    def __init__(self, folder: Path, backbone: Backbone, *, trust: bool = False) -> None:
        self._backbone, self._trust = backbone, trust
        try:
            described = json.loads((folder / MODEL).read_text())
            self.name = str(described["method"]["name"])
            self._fallback = bool(described["method"]["options"].get("fallback", True))
            self._folders = {
                str(role): _as_it_was(folder, str(name)) for role, name in described["stages"].items()
            }
            rule = {name: described["router"][name] for name in ("threshold", "strict")}
            tasks = [str(task) for task in described["tasks"]]
            self._fits = {task: self._folders[f"head/{task}"] for task in tasks}
            fitted = [load_router(self._folders[f"router/{task}"], trust=trust) for task in tasks]
            self._routers = TaskRouters([replace(one, choice=replace(one.choice, **rule)) for one in fitted])
            of_tasks = {task: self._folders.get(f"query/{task}", folder) for task in tasks}
            self._learned = any(place != folder for place in of_tasks.values())
            self._poolings = {task: load_pooling(place, trust=trust) for task, place in of_tasks.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CasamError(
                f"{folder} does not describe a routed model: {error}", "run the command that made it again"
            ) from None
        self._heads: dict[str, Head] = {}

    def choose(self, embedding: np.ndarray, valid: tuple[int, int]) -> Decision:
        """Where an image goes.

        Args:
            embedding: (C, g, g) as a store gives it.
            valid: rows and columns of the grid that hold image.
        """
        if self._learned:
            own = {task: pool_one(pooling, embedding, valid) for task, pooling in self._poolings.items()}
            return self._routers.decide(own, fallback=self._fallback)
        vector = pool_one(next(iter(self._poolings.values())), embedding, valid)
        return self._routers.decide(vector, fallback=self._fallback)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it has heads for, in the order they were learnt."""
        return tuple(self._fits)

    @property
    def needs(self) -> tuple[str, ...]:
        """What any of the heads reads of an image, the embedding first: which one is chosen is not known before."""
        return tuple(
            dict.fromkeys(["embedding", *(name for task in self._fits for name in self.head(task).needs)])
        )

    def head(self, task: str) -> Head:
        """The head of a task, in evaluation mode on the backbone's device."""
        if task not in self._heads:
            loaded = load_head(self._fits[task], self._backbone, trust=self._trust)
            self._heads[task] = loaded.to(self._backbone.device).eval()
        return self._heads[task]


def _as_it_was(folder: Path, name: str) -> Path:
    """The folder of a stage that a model names; thresholds and heads of another fit would not go together."""
    found = stage_folder(folder.parent.parent, name)
    if read_record(folder).parents.get(name) != read_record(found).content:
        raise CasamError(
            f"{found} was computed anew since the model {folder.name} was made of it",
            "run the bench that made the model again",
        )
    return found
