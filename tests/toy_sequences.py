"""Toy tasks in memory, and a method taken through them as the bench does: head and memory go through files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.backbones.architecture import Architecture
from casam_cache.config import parse_assignments
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head
from casam_cache.heads.files import load_head, save_head
from casam_cache.methods.memory import Memory, load_memory, save_memory
from casam_cache.methods.sequential import Past, Sequential, Setting
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays, pick
from casam_cache.training.loop import FitResult, fit_head
from casam_cache.training.options import TrainingOptions

TINY = Architecture(
    image_size=64, patch_size=8, width=16, depth=1, heads=2, window=4, global_blocks=(0,), channels=16,
    decoder_heads=2, decoder_mlp=32, iou_width=16,
)  # fmt: skip
QUICK = TrainingOptions(epochs=2, batch_size=2, learning_rate=1e-3)


def look(task: str, direction: int, count: int = 5, seed: int = 0, empty: int = 0, sign: float = 1.0):
    """Images with one object each, whose cells point in a direction of the task's own; the last `empty` have none."""
    rng = np.random.default_rng([seed, direction])
    towards = sign * 2 * np.random.default_rng(direction).standard_normal(16)
    embeddings = 0.3 * rng.standard_normal((count, 16, 8, 8))
    items, bitmaps = [], []
    for index in range(count):
        masks = []
        if index < count - empty:
            y, x = int(rng.integers(0, 24)), int(rng.integers(0, 36))
            bitmap = np.zeros((48, 64), dtype=bool)
            bitmap[y : y + 24, x : x + 28] = True
            cells = bitmap.reshape(6, 8, 8, 8).mean((1, 3)) > 0.5
            embeddings[index, :, :6][:, cells] += towards[:, None]
            box = np.array([x, y, x + 27, y + 23], dtype=np.float32)
            masks.append(ItemMask(bitmap, 1, 1, box, box[:2] + 5))
        bitmaps.append(masks)
        items.append(
            Item(f"image {index}", task, f"patient {index}", Geometry.fit(48, 64, 64, 8), len(masks))
        )
    return items_from_arrays(task, items, embeddings.astype(np.float16), bitmaps)


def with_feature(items: Items, name: str, array: np.ndarray) -> Items:
    """The same items with one more feature array, (N, ...), or another one of that name."""

    def read_by(place: int) -> Any:
        before = items.rows[place].read
        return lambda asked: array[place] if asked == name else before(asked)

    rows = tuple(replace(row, read=read_by(place)) for place, row in enumerate(items.rows))
    return replace(items, rows=rows)


def made(method: type, *assignments: str) -> Any:
    """The method with options as `--set` gives them."""
    options, _ = parse_assignments(["blocks=1", *assignments], [method.options_model(), TrainingOptions])
    return method(options)


@dataclass
class Learnt:
    """What is left after each task of a sequence."""

    heads: list[Head] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    fits: list[FitResult] = field(default_factory=list)


def past_of(
    folder: Path, backbone: Any, views: Mapping[str, Items], tasks: Sequence[str], seen: Sequence[str]
) -> Past:
    """What the next task gets, read from the files of the last one."""
    head = load_head(folder, backbone).eval().requires_grad_(False)
    memory = load_memory(folder)
    replay = pick({task: views[task] for task in seen}, memory.exemplars) if memory.exemplars else None
    return Past(head, memory, replay, tuple(tasks))


def setting_of(backbone: Any, training: TrainingOptions, task: str, seed: int = 0) -> Setting:
    """The setting of one task, whatever further fields it has."""
    given = {"backbone": backbone, "training": training, "seed": seed, "task": task, "tasks_total": 9}
    return Setting(**{name: value for name, value in given.items() if name in Setting.__dataclass_fields__})


def learn(
    method: Sequential,
    backbone: Any,
    views: Mapping[str, Items],
    order: Sequence[str],
    folder: Path,
    training: TrainingOptions = QUICK,
    **fitting: Any,
) -> Learnt:
    """Takes a method through the tasks; `folder` gets a subfolder a task."""
    result = Learnt()
    past = None
    for place, task in enumerate(order):
        setting = setting_of(backbone, training, task)
        here = folder / f"{place} {task}"
        here.mkdir(parents=True)
        if past is None and method.first is not None:
            head, penalty = method.build(backbone, setting.seed), None
            fit = fit_head(head, backbone, views[task], training)
        else:
            head = method.start(past, setting)
            penalty = method.penalty(views[task], past, setting)
            items = method.items(views[task], past, setting)
            fit = fit_head(head, backbone, items, training, penalty=penalty, **fitting)
        memory = method.remember(head, views[task], past, penalty, setting)
        save_head(head, here)
        save_memory(memory, here)
        result.heads.append(head)
        result.memories.append(memory)
        result.fits.append(fit)
        past = past_of(here, backbone, views, order[: place + 1], order[: place + 1])
    return result


def same(first: Head, second: Head) -> bool:
    """Whether two heads have equal weights, bit for bit."""
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(a.equal(b) for a, b in states)
