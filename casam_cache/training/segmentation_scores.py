"""How good a segmenter is: every class of every image, scored at the image's own size, and what is quoted of it.

A row is a class in an image. An image without the class, where it is not predicted either, has no value; where it is
predicted, IoU and Dice are 0. So false alarms count, which no score from prompts can see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from casam_cache.backbones.base import Backbone
from casam_cache.errors import memory_for
from casam_cache.metrics.base import scored
from casam_cache.metrics.intervals import Interval, mean_interval
from casam_cache.metrics.registry import STANDARD, make_metrics
from casam_cache.segmenters.base import Segmenter, class_map
from casam_cache.training.class_maps import classes_of, true_map
from casam_cache.training.items import EMBEDDING, Item, Items
from casam_cache.training.outcomes import Outcomes
from casam_cache.training.whole_images import WholeImages


def score_segmenter(
    segmenter: Segmenter,
    backbone: Backbone,
    items: Items,
    *,
    metrics: Sequence[str] = STANDARD,
    on_map: Callable[[Item, np.ndarray, np.ndarray], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    whole: WholeImages | None = None,
) -> Outcomes:
    """Scores a segmenter in fp32; a row for each class of each image, those of classes it was not trained on too.

    Args:
        segmenter: moved to the backbone's device and set to evaluation mode.
        backbone: frozen.
        items: to score on; images without masks are background.
        metrics: names of metrics, or `FILE.py:Class`.
        on_map: called with each item, its true and its predicted map, (H, W) of ids of classes.
        progress: called with (images done, images).
        whole: takes each class of each image, to score the larger ones that they are tiles of.

    Returns:
        Outcomes whose `instance` is 0 and whose `predicted_iou` is NaN: there is no such estimate here.
    """
    scorers = make_metrics(metrics)
    segmenter.to(backbone.device).eval()
    classes = tuple(sorted({*segmenter.classes, *classes_of(items)}))
    outcomes = Outcomes(scores={name: [] for name in scorers})
    ids, trained = np.array([0, *classes]), np.array([0, *segmenter.classes])
    for index, item in enumerate(items):
        with memory_for(f"{item.task}/{item.id}"):
            embedding = torch.from_numpy(np.array(items.feature(EMBEDDING, index)))
            found = class_map(segmenter, backbone, embedding, item.geometry).cpu().numpy()
            truth = ids[true_map(items.masks(index) if item.masks else (), item.geometry, classes)]
            predicted, ignored = trained[found], items.ignored(index)
            for number in classes:
                own, wanted = predicted == number, truth == number
                if ignored is not None:
                    own, wanted = own & ~ignored, wanted & ~ignored
                outcomes.task.append(item.task)
                outcomes.item.append(item.id)
                outcomes.group.append(item.group)
                outcomes.class_id.append(number)
                outcomes.instance.append(0)
                outcomes.area.append(int(np.count_nonzero(wanted)))
                outcomes.predicted_iou.append(np.nan)
                for name, metric in scorers.items():
                    outcomes.scores[name].append(float(scored(metric, own, wanted, ignored)))
                if whole is not None:
                    whole.add_counts(item, number, 0, own, wanted, joined=True)
            if on_map:
                on_map(item, truth, predicted)
        if progress:
            progress(index + 1, len(items))
    return outcomes


@dataclass(frozen=True)
class ClassScore:
    """Means of one class over the images in which it is, or was predicted; or over all classes.

    Attributes:
        class_id: the class; None: the mean of the classes' means (macro).
        images: that have the class; of all classes, images scored.
        metrics: mean with its interval by groups, by name of the metric.
    """

    class_id: int | None
    images: int
    metrics: dict[str, Interval]

    def __getitem__(self, metric: str) -> Interval:
        return self.metrics[metric]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, null for NaN."""
        metrics = {name: interval.to_json() for name, interval in self.metrics.items()}
        return {"class": self.class_id, "images": self.images, **metrics}


def class_scores(outcomes: Outcomes) -> list[ClassScore]:
    """The mean over all classes first, then each class, ascending."""
    numbers, groups = np.array(outcomes.class_id), np.array(outcomes.task_groups)
    area = np.array(outcomes.area)
    each: list[ClassScore] = []
    for number in sorted(set(outcomes.class_id)):
        own = numbers == number
        intervals = {
            name: mean_interval(np.array(values)[own], groups[own].tolist())
            for name, values in outcomes.scores.items()
        }
        each.append(ClassScore(number, int((area[own] > 0).sum()), _shares(intervals)))
    macro = {
        name: macro_interval(np.array(values), numbers, groups) for name, values in outcomes.scores.items()
    }
    return [ClassScore(None, len(set(zip(outcomes.task, outcomes.item, strict=True))), _shares(macro)), *each]


def _shares(intervals: dict[str, Interval]) -> dict[str, Interval]:
    return {
        name: interval.within(0, 1) if name in STANDARD else interval for name, interval in intervals.items()
    }


def macro_interval(values: np.ndarray, classes: np.ndarray, groups: np.ndarray) -> Interval:
    """The unweighted mean of the classes' means, with its interval by groups.

    A patient's classes resemble each other, so classes are no strata. Group g moves the mean by
    u_g = sum over classes c of (S_gc - n_gc m_c) / (C n_c), where S_gc is the sum and n_gc the number of its values of
    c, n_c all values of c and m_c their mean. The interval is that of a mean of the G numbers m + G u_g (infinitesimal
    jackknife), one a group. With one class it is `mean_interval` itself.

    Args:
        values: a row each, NaN where undefined.
        classes: of each row; one without a finite value has no part in the mean.
        groups: of each row.
    """
    finite = np.isfinite(values)
    present = sorted(set(classes[finite].tolist()))
    if len(present) < 2:
        return mean_interval(values, groups.tolist())
    names, member = np.unique(groups[finite], return_inverse=True)
    moved, means = np.zeros(len(names)), []
    for number in present:
        own = classes[finite] == number
        kept = values[finite][own]
        means.append(kept.mean())
        part = np.bincount(member[own], weights=kept - kept.mean(), minlength=len(names))
        moved += part / (len(present) * len(kept))
    mean = float(np.mean(means))
    found = mean_interval(mean + len(names) * moved, names.tolist())
    return Interval(mean, found.low, found.high, int(finite.sum()), len(names), int((~finite).sum()), found.p)
