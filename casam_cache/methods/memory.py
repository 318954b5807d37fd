"""What a method carries from one task to the next besides the head: tensors, plain facts, and named exemplars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from casam_cache.errors import CasamError

TENSORS = "memory.safetensors"
FACTS = "memory.json"


class Exemplar(NamedTuple):
    """A training image kept for later tasks, by name: its features and masks are read from its store.

    Attributes:
        task: the task it belongs to.
        item: its id there.
    """

    task: str
    item: str


@dataclass(frozen=True)
class Memory:
    """A method's declared memory, and all of the past it will see besides the last head.

    Attributes:
        tensors: by name, on the CPU; what they cost is part of the bytes kept.
        facts: plain JSON.
        exemplars: images of earlier tasks; the items a method gets of them are these and no others.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    exemplars: tuple[Exemplar, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of the tensors; exemplars cost what their features and masks take in the store."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def save_memory(memory: Memory, folder: Path) -> None:
    """Writes memory.safetensors and memory.json into `folder`, which must exist."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in memory.tensors.items()}
    (folder / TENSORS).write_bytes(save(tensors))
    described = {
        "facts": dict(memory.facts),
        "exemplars": [[exemplar.task, exemplar.item] for exemplar in memory.exemplars],
    }
    (folder / FACTS).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")


def load_memory(folder: Path) -> Memory:
    """The memory that `save_memory` wrote.

    Raises:
        CasamError: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        described = json.loads((folder / FACTS).read_text())
        tensors = load_file(folder / TENSORS)
        exemplars = tuple(Exemplar(task, item) for task, item in described["exemplars"])
        return Memory(tensors, described["facts"], exemplars)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CasamError(
            f"no readable memory in {folder}: {error}", f"remove {folder} and run the command again"
        ) from None
