"""Test masks that stand for a bench, chosen by a rule: what each method makes of them after the last task."""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from casam_cache.bench.families import Entry
from casam_cache.bench.results import FOLDER, Results
from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.bench.tables import Tables
from casam_cache.bench.tasks import Place
from casam_cache.cutout import Cutout
from casam_cache.encode.source_images import SourceImages
from casam_cache.engine.runs import Runs
from casam_cache.errors import CasamError, DatasetError, ImageError
from casam_cache.fingerprint import finite_json
from casam_cache.heads.files import build_head
from casam_cache.report.tiles import image_tile, mask_tile, square_around
from casam_cache.store.files import write_file
from casam_cache.training.evaluate import evaluate
from casam_cache.training.evaluation_prompts import parse_prompt
from casam_cache.training.items import Item, ItemMask

FILE = "examples.npz"  # beside results.json
EACH = 2  # masks of each kind
MOST = 6  # configurations beside the frozen SAM
TILE = 192  # pixels
FROZEN = "frozen SAM"


@dataclass(frozen=True)
class Example:
    """One mask.

    Attributes:
        kind: worst tenth, median or best tenth.
        task, item, class_id, instance: which mask.
        gain: the mean over methods of what IoU gains over the frozen SAM's, in [-1, 1].
        scores: IoU by the label of the method, the frozen SAM's among them.
    """

    kind: str
    task: str
    item: str
    class_id: int
    instance: int
    gain: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Examples:
    """The chosen masks, from the lowest gain to the highest, with squares of the images around them.

    Attributes:
        rows: the masks.
        methods: name of the method of each configuration by its label, the frozen SAM first.
        rule: how they were chosen.
        images: uint8 (R, TILE, TILE, 3).
        truths: bool (R, TILE, TILE).
        masks: bool (R, M, TILE, TILE), a configuration each.
        said: why images are missing, or empty.
    """

    rows: tuple[Example, ...]
    methods: dict[str, str]
    rule: str
    images: np.ndarray
    truths: np.ndarray
    masks: np.ndarray
    said: str = ""

    def write(self, folder: Path) -> None:
        """Writes `FILE` into the folder of a bench's results.

        Raises:
            StoreError: the disk is full or read-only.
        """
        told = {"rows": [vars(row) for row in self.rows], "methods": self.methods, "rule": self.rule}
        text = json.dumps(finite_json({**told, "said": self.said})).encode()
        data = io.BytesIO()
        np.savez_compressed(
            data, told=np.frombuffer(text, np.uint8), images=self.images, truths=self.truths, masks=self.masks
        )
        write_file(folder / FILE, data.getvalue())

    @classmethod
    def read(cls, folder: Path) -> Examples | None:
        """What `write` wrote, or None where there is nothing, or it is damaged: the bench writes it again."""
        try:
            with np.load(io.BytesIO((folder / FILE).read_bytes()), allow_pickle=False) as arrays:
                told = json.loads(arrays["told"].tobytes())
                rows = tuple(Example(**{**row, "scores": _with_nan(row["scores"])}) for row in told["rows"])
                methods, shape = dict(told["methods"]), (len(rows), TILE, TILE)
                images, truths, masks = (arrays[name] for name in ("images", "truths", "masks"))
                whole = images.shape == (*shape, 3) and truths.shape == shape
                if not whole or masks.shape != (len(rows), len(methods), TILE, TILE):
                    return None
                return cls(rows, methods, str(told["rule"]), images, truths, masks, str(told["said"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile, zlib.error):
            return None


def _with_nan(scores: dict[str, Any]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in scores.items()}


def choose(gains: Sequence[float], each: int = EACH) -> list[tuple[str, int]]:
    """The middle of the worst tenth, of all, and of the best tenth: kind and place, the lowest gain first.

    Args:
        gains: of each mask; those that are NaN are never chosen. Equal ones go by their place.
        each: how many of a kind, fewer where there are few masks: each stands once.
    """
    ranked = sorted((gain, place) for place, gain in enumerate(gains) if not math.isnan(gain))
    places = [place for _, place in ranked]
    tenth = min(len(places), max(each, round(len(places) / 10)))
    parts = (
        ("worst tenth", places[:tenth]),
        ("median", places),
        ("best tenth", places[len(places) - tenth :]),
    )
    found: dict[int, str] = {}
    for kind, part in parts:
        start = (len(part) - each) // 2 if len(part) > each else 0
        for place in part[start : start + each]:
            found.setdefault(place, kind)
    return [(found[place], place) for place in places if place in found]


def bench_examples(results: Results, place: Place, runs: Runs, data: Path | None = None) -> Examples:
    """Predicts the chosen masks again, of the first order and seed, under what each method answers after the last task.

    Args:
        results: of a bench that has run.
        place: of its stores, and the device.
        runs: its stages.
        data: folder of the datasets; None: where each was when it was encoded.

    Raises:
        CasamError: there is no method beside the frozen SAM, no mask with a score, or a head cannot be used.
    """
    entries = _shown(results)
    if not entries:
        raise CasamError("no method beside the frozen SAM, so there is no gain to choose examples by")
    tables, first = Tables(runs), next(iter(entries.values()))
    wanted: list[tuple[str, int, dict[str, float]]] = []
    for task in sorted(first.course.order):
        frozen = tables.outcomes(first.frozen[task]).scores["iou"]
        of_task = [_last(entry, tables, task) for entry in entries.values()]
        for row in range(len(frozen)):
            own = [float(scores[row]) for scores in (frozen, *of_task)]
            wanted.append((task, row, dict(zip((FROZEN, *entries), own, strict=True))))
    gains = [_gain(scores) for *_, scores in wanted]
    kinds = choose(gains)
    if not kinds:
        raise CasamError("no test mask has a score under every method")
    predicting = _Predicting(place, runs)
    rows, images, truths, masks = [], [], [], []
    pixels = _Pixels(place, data)
    for kind, number in kinds:
        task, row, scores = wanted[number]
        outcomes = first.frozen[task].read(runs)
        item, owner = outcomes.item[row], (outcomes.class_id[row], outcomes.instance[row])
        rows.append(Example(kind, task, item, *owner, gains[number], scores))
        stages = [first.frozen[task], *(each.last_scorings(tables, task)[item] for each in entries.values())]
        answers = [predicting.mask(stage, item, owner) for stage in stages]
        truth = answers[0][0]
        square = square_around(truth)
        images.append(image_tile(pixels.read(task, item), square, TILE, truth.size))
        truths.append(mask_tile(truth, square, TILE))
        masks.append(np.stack([mask_tile(found, square, TILE) for _, found in answers]))
    methods = {FROZEN: "frozen", **_methods(entries)}
    return Examples(
        tuple(rows), methods, _rule(first, len(wanted), len(entries), results), np.stack(images),
        np.stack(truths), np.stack(masks), pixels.said,
    )  # fmt: skip


def write_examples(results: Results, place: Place, runs: Runs) -> Examples:
    """`bench_examples`, written beside the results for `casam report`; errors as there, and of the disk."""
    found = bench_examples(results, place, runs)
    found.write(runs.root / FOLDER / results.key)
    return found


def shown(methods: Mapping[str, str], most: int = MOST) -> list[str]:
    """Labels of the configurations to show, in the table's order: one of each method first, and always one of CA-SAM.

    Args:
        methods: name of the method of each configuration by its label, as the table lists them.
        most: how many there is room for.
    """
    firsts = {
        name: label for label, name in reversed(list(methods.items()))
    }  # the last one set is the first of the table
    ours = firsts.get("ca-sam")
    wanted = sorted(methods, key=lambda label: (label != ours, label != firsts[methods[label]]))[:most]
    return [label for label in methods if label in wanted]


def _shown(results: Results) -> dict[str, Entry]:
    """By label; of several runs of a configuration the one over the first order and seed."""
    found: dict[str, Entry] = {}
    for entry in results.entries:
        if entry.config.method.name != "frozen":
            found.setdefault(entry.config.label, entry)
    return {label: found[label] for label in shown(_methods(found))}


def _methods(entries: Mapping[str, Entry]) -> dict[str, str]:
    return {label: entry.config.method.name for label, entry in entries.items()}


def _last(entry: Entry, tables: Tables, task: str) -> np.ndarray:
    return entry.matrix(tables)[-1][entry.course.order.index(task)].scores["iou"]


def _gain(scores: dict[str, float]) -> float:
    """NaN where one of the scores is."""
    frozen = scores[FROZEN]
    return sum(value - frozen for name, value in scores.items() if name != FROZEN) / (len(scores) - 1)


def _rule(first: Entry, masks: int, methods: int, results: Results) -> str:
    labels = {entry.config.label for entry in results.entries if entry.config.method.name != "frozen"}
    few = "" if len(labels) == methods else f" these {methods} of {len(labels)}"
    return (
        f"Of {masks} {first.course.evaluate} masks of {len(first.course.order)} "
        f"{'task' if len(first.course.order) == 1 else 'tasks'}, by the mean over{few} methods "
        f"of the gain in IoU: the {EACH} in the middle of the worst tenth, of all, and of the best tenth. After "
        f"{', '.join(first.course.order)}; seed {first.course.seed}; {first.course.prompt.name}."
    )


class _Pixels:
    """Reads images of tasks; where one cannot be read, None and why."""

    def __init__(self, place: Place, data: Path | None) -> None:
        self._place, self._data, self.said = place, data, ""
        self._sources: dict[str, SourceImages | None] = {}

    def read(self, task: str, item: str) -> np.ndarray | None:
        store = self._place.store(task)
        try:
            if task not in self._sources:
                self._sources[task] = None
                self._sources[task] = SourceImages(store, self._data)
            source = self._sources[task]
            return None if source is None else source.read(store.index(item))
        except (DatasetError, ImageError) as error:
            self.said = error.message
            return None


class _Predicting:
    """Predicts single masks again, as a scoring did."""

    def __init__(self, place: Place, runs: Runs) -> None:
        self._place, self._runs = place, runs

    def mask(self, stage: Evaluate, item: str, owner: tuple[int, int]) -> tuple[Cutout, Cutout]:
        """The true and the predicted mask of a class and instance of an image."""
        place, task = self._place, stage.items.task
        if stage.head is None:
            backbone = place.backbone(task)
            head = build_head("identity", None, backbone, seed=0)
        else:
            backbone = stage.head.backbone(place, task)
            head = stage.head.head(self._runs, backbone, stage.member)
        items = place.items(stage.items)
        found: list[tuple[Cutout, Cutout]] = []

        def keep(_: Item, mask: ItemMask, bitmap: np.ndarray) -> None:
            if (int(mask.class_id), int(mask.instance)) == owner:
                found.append((mask.cutout, Cutout.of(bitmap)))

        one = replace(items, rows=tuple(row for row in items.rows if row.item.id == item))
        evaluate(head, backbone, one, prompt=parse_prompt(stage.prompt), on_mask=keep)
        return found[0]
