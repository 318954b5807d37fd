"""A stage as a job: what to call, on which finished stages, where the data lies; plain data for any executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_device
from casam_cache.bench.sources import backbone_of, split_of, store_of
from casam_cache.bench.stages import Runs, Stage
from casam_cache.store import EmbeddingStore
from casam_cache.training.stored import SplitView


@dataclass(frozen=True)
class Place:
    """Where inputs lie and where to compute; decides no result and enters no key.

    Attributes:
        stores: the folder of stores.
        model: the backbone's store of every task.
        device: `cpu`, `cuda:0`, ...
        references: methods that are not installed, `file.py:Class` by name.
        reference: folder of stores of adapter-tuned features (Table 4); empty without.
    """

    stores: str
    model: str
    device: str
    references: Mapping[str, str] = field(default_factory=dict)
    reference: str = ""


@dataclass(frozen=True)
class Node:
    """One stage of a plan.

    Attributes:
        stage: what decides the result, the parents' keys among it.
        function: `module:name` of a function that takes a `Work`, or a list of them if `together` is set.
        place: where inputs lie.
        parents: nodes whose finished folders the function reads, by role.
        cost: how much work it is, in the unit of its kind; for estimates only.
        together: nodes that name the same group are given to the function at once.
        at_most: how many of them; None leaves it to the runner.
        label: for people.
    """

    stage: Stage
    function: str
    place: Place
    parents: Mapping[str, Node] = field(default_factory=dict)
    cost: float = 1.0
    together: str | None = None
    label: str = ""
    at_most: int | None = None

    @cached_property
    def key(self) -> str:
        """The stage's key."""
        return self.stage.key

    @property
    def kind(self) -> str:
        """The stage's kind."""
        return self.stage.kind

    def to_json(self) -> dict[str, Any]:
        """Everything a worker needs, as plain JSON."""
        return {
            "kind": self.kind,
            "revision": self.stage.revision,
            "inputs": self.stage.inputs,
            "function": self.function,
            "place": {
                **vars(self.place),
                "stores": str(Path(self.place.stores).resolve()),
                "references": dict(self.place.references),
            },
            "parents": {role: [node.kind, node.key] for role, node in self.parents.items()},
            "cost": self.cost,
        }


@dataclass(frozen=True)
class Work:
    """What a stage's function gets: its inputs, its parents' folders, and an empty folder for its result.

    Attributes:
        inputs: of the stage, as hashed.
        parents: finished folders by role.
        place: where inputs lie.
        result: an empty folder.
        checkpoints: a folder that survives interruptions.
        progress: takes what is worth showing while the function runs; absent in other processes.
    """

    inputs: Mapping[str, Any]
    parents: Mapping[str, Path]
    place: Place
    result: Path
    checkpoints: Path
    progress: Callable[[Any], None] | None = None

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return choose_device(self.place.device)

    @property
    def task(self) -> str:
        """The task the stage is about."""
        return str(self.inputs["task"])

    def store(self, task: str) -> EmbeddingStore:
        """The store of a task."""
        return store_of(self.place.stores, task, self.place.model)

    def backbone(self) -> Backbone:
        """Prompt encoder and mask decoder of the stores' backbone, on the device."""
        weights = self.inputs.get("backbone")
        if weights is None:
            task = self.inputs["task"] if "task" in self.inputs else self.inputs["items"][0][0]
            weights = self.store(task).identity["backbone"]["weights"]
        return backbone_of(self.place.stores, weights, str(self.device))

    def split(self, task: str, split: str, content: str) -> SplitView:
        """The view of a split that held `content` when the plan was made.

        Raises:
            StoreError: it holds something else now.
        """
        return split_of(self.place.stores, task, self.place.model, split, content)


def run_nodes(
    runs: str,
    payloads: list[dict[str, Any]],
    threads: int | None = 1,
    progress: Callable[[Any], None] | None = None,
) -> list[str]:
    """Computes stages given as JSON (of one function), each unless it is there; the entry point of every executor.

    Args:
        runs: the runs folder.
        payloads: `Node.to_json` of nodes whose parents are finished; more than one only for functions that take
            lists.
        threads: of torch meanwhile; None leaves them as they are.
        progress: handed on to the functions; only within one process.

    Returns:
        For each: `computed`, `found`, or `busy` when another process is computing it now.
    """
    folder = Runs(Path(runs))
    states = []
    with ExitStack() as stack, _torch_threads(threads):
        claimed = []
        for payload in payloads:
            stage = Stage(payload["kind"], payload["revision"], payload["inputs"])
            claim = stack.enter_context(folder.claim(stage, wait=False))
            if claim is None:
                states.append("found" if folder.exists(stage) else "busy")
                continue
            states.append("computed")
            parents = {role: folder.root / kind / key for role, (kind, key) in payload["parents"].items()}
            place = Place(**payload["place"])
            work = Work(stage.inputs, parents, place, claim.result, claim.checkpoints, progress)
            claimed.append((claim, work, payload))
        if claimed:
            module, _, name = claimed[0][2]["function"].partition(":")
            function = getattr(import_module(module), name)
            works = [work for _, work, _ in claimed]
            began = time.monotonic()
            if getattr(function, "takes_many", False):
                recorded = function(works)
            else:
                recorded = [function(work) for work in works]
            seconds = round(
                (time.monotonic() - began) / len(works), 3
            )  # a stage's share, where many ran as one
            for (claim, work, payload), facts in zip(claimed, recorded, strict=True):
                facts = {**facts, "cost": payload["cost"], "device": str(work.device)}
                claim.finish({**facts, "threads": torch.get_num_threads(), "seconds": seconds})
    return states


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """In any executor's process or thread, not only in those that the bench starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def takes_many(function: Any) -> Any:
    """Marks a stage function that is given a list of `Work` and returns a list of facts to record."""
    function.takes_many = True
    return function
