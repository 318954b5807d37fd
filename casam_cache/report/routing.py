"""Scores of routers after the last task: a histogram a task with its threshold, and the images that were rejected."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casam_cache.bench.results import FOLDER, Results
from casam_cache.bench.routed import LastRouting, RoutedEntry
from casam_cache.bench.tables import Tables
from casam_cache.bench.tasks import Place
from casam_cache.engine.runs import Runs
from casam_cache.fingerprint import digest, finite_json
from casam_cache.report.figure_values import csv_text
from casam_cache.report.style import picture, style_of
from casam_cache.routers.routing import FALLBACK
from casam_cache.store.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "routing.json"  # beside results.json
BINS = 40  # the last one holds all beyond
MOST = 200  # rejected images that are listed
OWN, OTHER, UNSEEN = "own images", "other tasks", "unseen sets"
# Colours of Okabe and Ito, lines that differ in grey too.
_LOOKS: dict[str, dict[str, Any]] = {
    OWN: {"color": "#0072B2", "linestyle": "-"},
    OTHER: {"color": "#D55E00", "linestyle": "--"},
    UNSEEN: {"color": "#009E73", "linestyle": ":"},
}


@dataclass(frozen=True)
class Histogram:
    """Scores under the router of one task.

    Attributes:
        task: its name.
        threshold: above it an image is rejected; None where nothing is.
        low, high: where the bins begin and the last but one ends.
        shares: of each kind of image (its own, other tasks', of unseen sets), the share in each bin.
        images: how many of each kind.
    """

    task: str
    threshold: float | None
    low: float
    high: float
    shares: dict[str, list[float]]
    images: dict[str, int]

    @property
    def edges(self) -> list[float]:
        """BINS + 1 of them; the last bin is drawn as wide as the others."""
        step = (self.high - self.low) / (BINS - 1)
        return [self.low + step * number for number in range(BINS + 1)]


@dataclass(frozen=True)
class Rejected:
    """An image that went to the frozen SAM: of which set, and the nearest task with its score and threshold."""

    set: str
    image: str
    nearest: str
    score: float
    threshold: float


@dataclass(frozen=True)
class Routing:
    """What the routers of one configuration did over the first order and seed.

    Attributes:
        label: of the configuration.
        order: of the tasks.
        seed: of the run.
        histograms: a task each.
        rejected: the first `MOST`, by set, those of learnt tasks first, and by how far above the threshold they are.
        count: of all that were rejected.
    """

    label: str
    order: tuple[str, ...]
    seed: int
    histograms: tuple[Histogram, ...]
    rejected: tuple[Rejected, ...]
    count: int


def routing_of(entry: RoutedEntry, found: LastRouting) -> Routing:
    """Histograms and rejected images of one entry."""
    learnt = [name for name in found.images if name in found.tasks]
    unseen = [name for name in found.images if name not in found.tasks]
    histograms = []
    for place, task in enumerate(found.tasks):
        column = {name: scores[:, place] for name, scores in found.scores.items()}
        kinds = {
            OWN: [column[task]],
            OTHER: [column[name] for name in learnt if name != task],
            UNSEEN: [column[name] for name in unseen],
        }
        histograms.append(_histogram(task, float(found.thresholds[place]), kinds))
    rejected: list[tuple[Any, Rejected]] = []
    for name in (*learnt, *unseen):
        for row in np.flatnonzero(found.chosen[name] == FALLBACK):
            scores = found.scores[name][row]
            near = int(np.argmin(scores))
            one = Rejected(
                name,
                found.images[name][row],
                found.tasks[near],
                float(scores[near]),
                float(found.thresholds[near]),
            )
            rejected.append(((name in unseen, name, one.threshold - one.score, one.image), one))
    rejected.sort(key=lambda pair: pair[0])
    course = entry.course
    return Routing(
        entry.config.label, course.order, course.seed, tuple(histograms),
        tuple(one for _, one in rejected[:MOST]), len(rejected),
    )  # fmt: skip


def _histogram(task: str, threshold: float, kinds: dict[str, list[np.ndarray]]) -> Histogram:
    """Bins from the lowest score to twice as far as the threshold, or the 99th percentile of its own, is."""
    joined = {kind: np.concatenate(parts) for kind, parts in kinds.items() if parts}
    own = joined[OWN]
    low = float(min(values.min() for values in joined.values() if len(values)))
    far = float(np.percentile(own, 99)) if len(own) else low
    far = max(far, threshold) if math.isfinite(threshold) else far
    high = low + 2 * (far - low) if far > low else low + 1.0
    shares, images = {}, {}
    for kind, values in joined.items():
        step = (high - low) / (BINS - 1)
        bins = np.clip((values - low) / step, 0, BINS - 1).astype(np.int64)
        counts = np.bincount(bins, minlength=BINS)
        shares[kind] = [round(float(count) / max(1, len(values)), 6) for count in counts]
        images[kind] = len(values)
    return Histogram(task, threshold if math.isfinite(threshold) else None, low, high, shares, images)


def write_routing(results: Results, place: Place, runs: Runs) -> list[Routing]:
    """Writes `FILE` beside the results where routers of densities were among them; returns what is in it.

    Raises:
        CasamError: a stage is damaged, or the disk is full or read-only.
    """
    tables, seen, found = Tables(runs), set[str](), list[Routing]()
    for entry in results.entries:
        if not isinstance(entry, RoutedEntry) or entry.config.label in seen:
            continue
        seen.add(entry.config.label)
        last = entry.last_routing(tables)
        if last is not None:
            found.append(routing_of(entry, last))
    if found:
        stores = str(Path(place.stores).resolve())
        told = {"stores": stores, "model": place.model, "routing": [_json(one) for one in found]}
        data = json.loads(json.dumps(finite_json(told)))
        text = json.dumps({**data, "digest": digest(data)})
        write_file(runs.root / FOLDER / results.key / FILE, text.encode())
    return found


def read_routing(folder: Path) -> tuple[Path, str, list[Routing]] | None:
    """Folder of stores, name of the backbone and what `write_routing` wrote; None where it is not there or damaged."""
    try:
        data = json.loads((folder / FILE).read_text())
        if data.pop("digest") != digest(data):
            return None
        found = [
            Routing(
                str(each["label"]), tuple(each["order"]), int(each["seed"]),
                tuple(Histogram(**one) for one in each["histograms"]),
                tuple(Rejected(**one) for one in each["rejected"]), int(each["count"]),
            )
            for each in data["routing"]
        ]  # fmt: skip
        return Path(data["stores"]), str(data["model"]), found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _json(one: Routing) -> dict[str, Any]:
    parts = {
        "histograms": [vars(each) for each in one.histograms],
        "rejected": [vars(each) for each in one.rejected],
    }
    return {**vars(one), **parts}


def routing_picture(one: Routing, form: str, style: str = "paper") -> bytes:
    """Histograms of the scores under each task's router, with its threshold, as a file's content.

    Args:
        one: the routing of a configuration.
        form: svg, pdf or png.
        style: one of `STYLES`.
    """
    columns = min(3, len(one.histograms))
    lines = math.ceil(len(one.histograms) / columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(lines, columns, squeeze=False)
        handles: dict[str, Any] = {}
        cells: Sequence[Any] = list(grid.flat)
        for cell, histogram in zip(cells, one.histograms, strict=False):
            for kind, shares in histogram.shares.items():
                handles[kind] = cell.stairs(
                    [100 * share for share in shares], histogram.edges, **_LOOKS[kind]
                )
            if histogram.threshold is not None:
                handles["threshold"] = cell.axvline(histogram.threshold, color="#000000", linestyle="-.")
            cell.set_title(histogram.task)
        for cell in cells[len(one.histograms) :]:
            cell.set_axis_off()
        for row in grid:
            row[0].set_ylabel("% of the images")
        for cell in cells[max(0, len(one.histograms) - columns) : len(one.histograms)]:
            cell.set_xlabel("score (last bin: all beyond)")
        figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles))

    return picture(draw, style_of(style), form, 0.06 + (0.3 if columns > 1 else 0.45) * lines)


def routing_values(one: Routing) -> str:
    """What the picture shows, as CSV: task, threshold, kind of image, images, and of each bin its edges and share."""
    lines: list[tuple[object, ...]] = []
    for histogram in one.histograms:
        edges = histogram.edges
        shown = "" if histogram.threshold is None else f"{histogram.threshold:.6g}"
        for kind, shares in histogram.shares.items():
            for number, share in enumerate(shares):
                to = f"{edges[number + 1]:.6g}" if number < BINS - 1 else ""
                told = (f"{edges[number]:.6g}", to, f"{100 * share:.4f}")
                lines.append((histogram.task, shown, kind, histogram.images[kind], *told))
    return csv_text(("task", "threshold", "images of", "images", "from", "to", "percent"), lines)
