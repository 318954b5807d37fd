"""How good the objects are that a head finds without prompts: per image and class, and for a whole split.

An image is compared class by class. What is quoted of a split is AP over all its found objects together, as COCO has
it, and the mean over images of mSA, for which only objects count that are at least as sure as the head's threshold. An
image where nothing is true and nothing was found has no mSA; where something was found, it is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.cutout import Cutout
from casam_cache.errors import memory_for
from casam_cache.metrics.instances import (
    THRESHOLDS,
    average_precision,
    hits,
    jackknife,
    mask_ious,
    segmentation_accuracy,
)
from casam_cache.metrics.intervals import Interval, mean_interval
from casam_cache.segmenters.instances import Instance, find_instances
from casam_cache.segmenters.proposals import Proposals, box_iou, propose
from casam_cache.training import mask_tables
from casam_cache.training.class_maps import classes_of
from casam_cache.training.items import EMBEDDING, Item, ItemMask, Items
from casam_cache.training.segmentation_scores import ClassScore, macro_interval

IMAGES, FOUND = "images.csv", "found.csv"
FIGURES = ("ap", "ap50", "ap75", "msa")
CANDIDATES = tuple(round(0.05 * step, 2) for step in range(1, 20))  # thresholds that are tried


@dataclass(frozen=True)
class ImageRows:
    """One row a class in an image, as columns of equal length.

    Attributes:
        task, item, group: where it is from.
        class_id: the class.
        objects: true ones.
        found: those that are sure enough.
        ap, ap50, ap75: of this image alone, of all found objects; NaN where none is true.
        msa: of the sure ones; NaN where none is true and none was found.
    """

    task: list[str] = field(default_factory=list)
    item: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    class_id: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    found: list[int] = field(default_factory=list)
    ap: list[float] = field(default_factory=list)
    ap50: list[float] = field(default_factory=list)
    ap75: list[float] = field(default_factory=list)
    msa: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FoundRows:
    """One row a found object, those of an image by falling score.

    Attributes:
        image: row of `ImageRows`.
        score: of the object.
        area: pixels.
        iou: with the true object of its class that it overlaps most.
        hits: 0 or 1 for each of the thresholds 0.50, 0.55, ..., 0.95: whether it took a true one.
    """

    image: list[int] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    area: list[int] = field(default_factory=list)
    iou: list[float] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class InstanceOutcomes:
    """How every image of a split was scored."""

    images: ImageRows = field(default_factory=ImageRows)
    found: FoundRows = field(default_factory=FoundRows)


def score_instances(
    head: Proposals,
    backbone: Backbone,
    items: Items,
    *,
    find: Callable[[int], Sequence[Instance]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> InstanceOutcomes:
    """Scores a head of proposals in fp32, at the images' own size.

    Ignored pixels count nowhere: they belong to no object, true or found. A found object of which more than half is
    ignored is left out.

    Args:
        head: moved to the backbone's device and set to evaluation mode.
        backbone: frozen.
        items: to score on; images without masks show no object.
        find: gives the objects of an item by its index, highest score first, in the place of the head's own.
        progress: called with (images done, images).
    """
    head.to(backbone.device).eval()
    outcomes, sure = InstanceOutcomes(), float(head.threshold)
    classes = tuple(sorted({*head.classes, *classes_of(items)}))
    for index, item in enumerate(items):
        with memory_for(f"{item.task}/{item.id}"):
            found = find(index) if find else _found(head, backbone, items, index)
            masks, ignored = items.masks(index) if item.masks else (), items.ignored(index)
            for number in classes:
                own, true = _compared(found, masks, ignored, number)
                _append(outcomes, item, number, own, true, sure)
        if progress:
            progress(index + 1, len(items))
    return outcomes


def _found(head: Proposals, backbone: Backbone, items: Items, index: int) -> list[Instance]:
    embedding = torch.from_numpy(np.array(items.feature(EMBEDDING, index)))
    return find_instances(head, backbone, embedding, items.item(index).geometry)


def _compared(
    found: Sequence[Instance], masks: Sequence[ItemMask], ignored: np.ndarray | None, number: int
) -> tuple[list[tuple[Cutout, float]], list[Cutout]]:
    """The found objects of a class with their scores, and the true ones, without what is ignored."""
    own = [(one.cutout, one.score) for one in found if one.class_id == number]
    true = [mask.cutout for mask in masks if mask.class_id == number]
    if ignored is None:
        return own, [cutout for cutout in true if cutout.area]
    counted = [(without(cutout, ignored), score, cutout.area) for cutout, score in own]
    left = [(cutout, score) for cutout, score, area in counted if 2 * cutout.area >= area]
    return left, [rest for cutout in true if (rest := without(cutout, ignored)).area]


def without(cutout: Cutout, ignored: np.ndarray) -> Cutout:
    """A mask without the pixels of a bool (H, W)."""
    rows, columns = cutout.pixels.shape
    part = ignored[cutout.top : cutout.top + rows, cutout.left : cutout.left + columns]
    return Cutout(cutout.pixels & ~part, cutout.top, cutout.left, cutout.size)


def _append(
    outcomes: InstanceOutcomes,
    item: Item,
    number: int,
    own: Sequence[tuple[Cutout, float]],
    true: Sequence[Cutout],
    sure: float,
) -> None:
    rows, place = outcomes.images, len(outcomes.images.item)
    ious = mask_ious([cutout for cutout, _ in own], true)
    matched = hits(ious)
    precision = average_precision(matched, len(true))
    confident = [row for row, (_, score) in enumerate(own) if score >= sure]
    rows.task.append(item.task)
    rows.item.append(item.id)
    rows.group.append(item.group)
    rows.class_id.append(number)
    rows.objects.append(len(true))
    rows.found.append(len(confident))
    rows.ap.append(float(precision.mean()))
    rows.ap50.append(float(precision[THRESHOLDS.index(0.5)]))
    rows.ap75.append(float(precision[THRESHOLDS.index(0.75)]))
    rows.msa.append(segmentation_accuracy(ious[confident]))
    for row, (cutout, score) in enumerate(own):
        outcomes.found.image.append(place)
        outcomes.found.score.append(score)
        outcomes.found.area.append(cutout.area)
        outcomes.found.iou.append(float(ious[row].max()) if len(true) else 0.0)
        outcomes.found.hits.append("".join(str(int(hit)) for hit in matched[:, row]))


@dataclass(frozen=True)
class InstanceScore(ClassScore):
    """The figures of one class over a split, or of all classes.

    Attributes:
        objects: true ones.
        found: sure enough ones.
    """

    objects: int = 0
    found: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, null for NaN."""
        return {**super().to_json(), "objects": self.objects, "found": self.found}


def instance_scores(outcomes: InstanceOutcomes) -> list[InstanceScore]:
    """The mean over all classes first, then each class, ascending.

    AP is of all found objects of the split, with the interval of a jackknife over groups; mSA is the mean over images,
    with that of `mean_interval`. Over all classes it is the mean of the classes' figures.
    """
    rows = outcomes.images
    numbers, objects, found = (np.array(column) for column in (rows.class_id, rows.objects, rows.found))
    groups = np.array([f"{task}\0{group}" for task, group in zip(rows.task, rows.group, strict=True)])
    classes = sorted(set(rows.class_id))
    split = _Split(outcomes)
    each = []
    for number in classes:
        own = numbers == number
        figures = {
            name: jackknife(split.figure([number], name, np.flatnonzero(own)), groups[own].tolist())
            for name in FIGURES[:3]
        }
        figures["msa"] = mean_interval(np.array(rows.msa)[own], groups[own].tolist())
        each.append(
            InstanceScore(
                number,
                int((objects[own] > 0).sum()),
                _shares(figures),
                int(objects[own].sum()),
                int(found[own].sum()),
            )
        )
    whole = {
        name: jackknife(split.figure(classes, name, np.arange(len(numbers))), groups.tolist())
        for name in FIGURES[:3]
    }
    whole["msa"] = macro_interval(np.array(rows.msa), numbers, groups)
    images = len(set(zip(rows.task, rows.item, strict=True)))
    return [InstanceScore(None, images, _shares(whole), int(objects.sum()), int(found.sum())), *each]


def _shares(figures: dict[str, Interval]) -> dict[str, Interval]:
    return {name: interval.within(0, 1) for name, interval in figures.items()}


class _Split:
    """The found objects of a split, by falling score, so that AP of any part of it is quickly had."""

    def __init__(self, outcomes: InstanceOutcomes) -> None:
        order = np.argsort(-np.array(outcomes.found.score), kind="stable")
        self._image = np.array(outcomes.found.image, int)[order]
        bits = np.array([[bit == "1" for bit in row] for row in outcomes.found.hits], bool)
        self._hits = bits.reshape(-1, len(THRESHOLDS))[order].T
        self._objects = np.array(outcomes.images.objects)
        self._class = np.array(outcomes.images.class_id)

    def figure(self, classes: Sequence[int], name: str, rows: np.ndarray) -> Callable[[np.ndarray], float]:
        """The mean over some classes of a figure, as a function of which of some rows of images are in it."""
        at = {"ap": slice(None), "ap50": slice(0, 1), "ap75": slice(5, 6)}[name]

        def value(chosen: np.ndarray) -> float:
            within = np.zeros(len(self._class), bool)
            within[rows[chosen]] = True
            values = []
            for number in classes:
                own = within & (self._class == number)
                true = int(self._objects[own].sum())
                if true:
                    values.append(average_precision(self._hits[at][:, own[self._image]], true).mean())
            return float(np.mean(values)) if values else float("nan")

        return value


def image_scores(outcomes: InstanceOutcomes) -> dict[str, float]:
    """The mean over classes of the mSA of each image by its id; NaN where it has none."""
    values: dict[str, list[float]] = {name: [] for name in outcomes.images.item}
    for name, value in zip(outcomes.images.item, outcomes.images.msa, strict=True):
        if np.isfinite(value):
            values[name].append(value)
    return {name: float(np.mean(found)) if found else float("nan") for name, found in values.items()}


def best_threshold(head: Proposals, backbone: Backbone, items: Items) -> float:
    """The least score with the best mean mSA over images and classes of some items; of equal ones the lowest."""
    values: list[list[float]] = []
    for index, item in enumerate(items):
        with memory_for(f"{item.task}/{item.id}"):
            found, masks = _found(head, backbone, items, index), items.masks(index) if item.masks else ()
            for number in head.classes:
                own, true = _compared(found, masks, items.ignored(index), number)
                ious = mask_ious([cutout for cutout, _ in own], true)
                scores = np.array([score for _, score in own])
                values.append([segmentation_accuracy(ious[scores >= least]) for least in CANDIDATES])
    table = np.array(values)
    means = np.nan_to_num(np.where(np.isfinite(table), table, 0).sum(axis=0))
    counts = np.maximum(np.isfinite(table).sum(axis=0), 1)
    return CANDIDATES[int((means / counts).argmax())]


@torch.no_grad()
def box_precision(head: Proposals, backbone: Backbone, items: Items) -> float:
    """AP of the proposed boxes with the true ones, in input pixels: the mean over classes and thresholds."""
    per_class: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {number: [] for number in head.classes}
    true_objects = dict.fromkeys(head.classes, 0)
    for index, item in enumerate(items):
        embedding = torch.from_numpy(np.array(items.feature(EMBEDDING, index)))
        (found,) = propose(head, backbone, embedding[None], [item.geometry])
        masks = items.masks(index) if item.masks else ()
        for place, number in enumerate(head.classes):
            own = found.classes == place
            corners = np.array([mask.box for mask in masks if mask.class_id == number], np.float32)
            true = torch.from_numpy(item.geometry.boxes_to_input(corners.reshape(-1, 4)))
            ious = box_iou(found.boxes[own].cpu(), true).numpy()
            per_class[number].append((found.scores[own].cpu().numpy(), hits(ious)))
            true_objects[number] += len(true)
    values = []
    for number, parts in per_class.items():
        if true_objects[number]:
            scores = np.concatenate([part[0] for part in parts])
            matched = np.concatenate([part[1] for part in parts], axis=1)
            order = np.argsort(-scores, kind="stable")
            values.append(average_precision(matched[:, order], true_objects[number]).mean())
    return float(np.mean(values)) if values else float("nan")


def write_instances(folder: Path, outcomes: InstanceOutcomes) -> None:
    """Writes images.csv and found.csv."""
    for name, rows in ((IMAGES, outcomes.images), (FOUND, outcomes.found)):
        columns = {entry.name: getattr(rows, entry.name) for entry in fields(rows)}
        mask_tables.write(folder / name, mask_tables.to_csv([*columns], [*columns.values()]))


def read_instances(folder: Path) -> InstanceOutcomes:
    """The tables that `write_instances` wrote.

    Raises:
        CasamError: one is missing or damaged.
    """
    outcomes = InstanceOutcomes()
    for name, rows in ((IMAGES, outcomes.images), (FOUND, outcomes.found)):
        mask_tables.read(folder / name, lambda text, rows=rows: _fill(rows, text))  # type: ignore[misc]
    return outcomes


_KINDS: dict[str, Callable[[str], Any]] = {
    "list[str]": str,
    "list[int]": int,
    "list[float]": mask_tables.number,
}


def _fill(rows: ImageRows | FoundRows, text: str) -> None:
    header, lines = mask_tables.from_csv(text)
    if header != [entry.name for entry in fields(rows)]:
        raise ValueError("no table of found objects")
    for entry, column in zip(fields(rows), zip(*lines, strict=True), strict=False):
        getattr(rows, entry.name).extend(map(_KINDS[str(entry.type)], column))
