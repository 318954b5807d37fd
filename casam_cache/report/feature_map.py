"""Figure 5 of the paper: features before and after a head beside those of a tuned encoder, laid out by t-SNE.

A point is an image of the test split: the mean of its cells. All sets of a task are laid out together, by
scikit-learn's TSNE from a PCA start with a fixed seed, so that the same runs give the same picture. Distances between
far groups mean nothing in it; Table 4 measures them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casam_cache.bench.stages.distance import Vectors, read_vectors
from casam_cache.engine.runs import stage_folder
from casam_cache.errors import CasamError
from casam_cache.report.figure_values import csv_text
from casam_cache.report.style import look_of, picture, style_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEEDS = "Figure 5 needs scikit-learn: pip install 'casam-cache[figures]', then casam report again."
PERPLEXITY = 30.0  # scikit-learn's own; a third of the points where there are fewer
_EXACT = 2000  # points up to which every pair is looked at: slower, and no tree whose order could matter


@dataclass(frozen=True)
class PointSet:
    """One set of a task's features on the plane.

    Attributes:
        task: whose images.
        label: `frozen`, the label of a fit, or the method that tuned the encoder.
        method: whose colour it has.
        images: ids.
        points: float32 (images, 2).
    """

    task: str
    label: str
    method: str
    images: tuple[str, ...]
    points: np.ndarray


def can_draw() -> bool:
    """Whether scikit-learn is installed."""
    return find_spec("sklearn") is not None


def has_features(results: Mapping[str, Any]) -> bool:
    """Whether results were compared with a reference, so that there are features to lay out."""
    return any(row.get("features") for row in results.get("results", ()))


def laid_out(results: Mapping[str, Any]) -> list[PointSet]:
    """The sets of each task: frozen, after each fit, tuned: the first of several seeds. What is gone is left out.

    Args:
        results: as `read_results` gives them.
    """
    root = Path(results["folder"]).parent.parent
    found: dict[str, dict[str, tuple[str, tuple[str, ...], np.ndarray]]] = {}
    for row in results["results"]:
        for task, name in (row.get("features") or {}).items():
            try:
                vectors: Vectors = read_vectors(stage_folder(root, name))
            except CasamError:
                continue
            sets = found.setdefault(task, {})
            sets.setdefault("frozen", ("frozen", vectors.images, vectors.before))
            sets.setdefault(row["label"], (row["method"], vectors.images, vectors.after))
            tuned = vectors.tuned_by or "reference"
            sets.setdefault(f"tuned ({tuned})", (tuned, vectors.images, vectors.reference))
    return [
        PointSet(task, label, method, images, points)
        for task, sets in found.items()
        for (label, (method, images, _)), points in zip(
            sets.items(), _embedded([vectors for _, _, vectors in sets.values()]), strict=True
        )
    ]


def _embedded(sets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Points (n, 2) of each set (n, C), all laid out together."""
    from sklearn.manifold import TSNE

    together = np.concatenate(sets)
    made = TSNE(
        2, perplexity=min(PERPLEXITY, (len(together) - 1) / 3), init="pca", random_state=0,
        method="exact" if len(together) <= _EXACT else "barnes_hut",
    )  # fmt: skip
    return np.split(made.fit_transform(together), np.cumsum([len(part) for part in sets])[:-1])


def figure_5(sets: Sequence[PointSet], form: str, style: str = "paper") -> bytes:
    """The picture, a panel a task, as a file's content.

    Args:
        sets: of `laid_out`, at least one.
        form: svg, pdf or png.
        style: one of `STYLES`.
    """
    tasks = list(dict.fromkeys(each.task for each in sets))
    across = min(3, len(tasks))
    down = math.ceil(len(tasks) / across)
    chosen = style_of(style)

    def draw(figure: Figure) -> None:
        handles: dict[str, Any] = {}
        for place, task in enumerate(tasks, 1):
            axes = figure.add_subplot(down, across, place)
            for each in (one for one in sets if one.task == task):
                look = look_of(each.method)
                handles[each.label] = axes.scatter(
                    each.points[:, 0], each.points[:, 1], s=0.3 * chosen.font**2, marker=look["marker"],
                    color=look["color"], alpha=0.75, linewidths=0,
                )  # fmt: skip
            axes.set_title(task)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_box_aspect(1)
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, len(handles))
        )

    return picture(draw, chosen, form, 0.1 + down / max(2, across))


def figure_5_values(sets: Sequence[PointSet]) -> str:
    """What the picture shows, as CSV: task, set, image, and its place."""
    lines = [
        (each.task, each.label, image, f"{x:.4f}", f"{y:.4f}")
        for each in sets
        for image, (x, y) in zip(each.images, each.points.tolist(), strict=True)
    ]
    return csv_text(("task", "features", "image", "x", "y"), lines)
