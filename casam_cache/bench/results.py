"""Rows of results: Last, Avg, FF, routing and sizes from finished stages; plain data, written beside the stages."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.bench.families import Entry
from casam_cache.bench.orders import Order
from casam_cache.bench.recipe import Recipe
from casam_cache.bench.tables import OutcomeTable, Tables
from casam_cache.engine.runs import Runs
from casam_cache.errors import CasamError
from casam_cache.fingerprint import digest, finite_json
from casam_cache.metrics.columns import facts_of, result_columns, scored_metrics
from casam_cache.metrics.compare import average_columns, holm, over_runs
from casam_cache.metrics.continual import Weight, summarise, task_weights
from casam_cache.metrics.intervals import difference_interval
from casam_cache.notebook import html_table

FILE = "results.json"
FOLDER = "bench"


def make_row(entry: Entry, tables: Tables, recipe: Recipe) -> dict[str, Any]:
    """One result as plain JSON: metrics in [0, 1], null where they do not apply."""
    config, course = entry.config, entry.course
    scored = [entry.splits[task] for task in course.order]
    images, masks = [split.scored for split in scored], [sum(split.masks) for split in scored]
    matrix = _means(entry.matrix(tables))
    [frozen] = _means([[tables.outcomes(entry.frozen[task]) for task in course.order]])
    metrics = facts_of(matrix[0][0])
    extra = entry.extra(tables)
    oracle = _means(extra.pop("oracle", []))
    described: dict[str, Any] = {"tasks": list(course.order), "images": images, "masks": masks}
    row: dict[str, Any] = {
        "key": entry.key,
        "method": config.method.name,
        "label": config.label,
        "model": entry.tasks.place.model,
        "stand_in": entry.tasks.place.backbone(course.order[0]).stand_in,
        "router": None,
        "options": config.to_json(),
        "chosen": dict(config.chosen),
        "weight": recipe.weight,
        "forgetting": recipe.forgetting,
        "evaluate": course.evaluate,
        "prompt": course.prompt.name,
        "order": list(course.order),
        "seed": course.seed,
        **{column.key: None for column in result_columns(metrics)},
        "parameters": None,
        "bytes_kept": None,
        "step_seconds": None,
        "gflops": tables.runs.recorded(entry.cost).get("flops", math.nan) / 1e9,
        "seconds": round(tables.seconds(entry.stages), 3),
    }
    for metric in metrics:
        name = metric.name
        base = [means[name] for means in frozen]
        figured = partial(
            summarise, images=images, masks=masks, weight=recipe.weight, forgetting=recipe.forgetting,
            frozen=base, better=metric.better,
        )  # fmt: skip
        values = [[means[name] for means in cells] for cells in matrix]
        figures = figured(values)
        row |= {f"last_{name}": figures.last, f"avg_{name}": figures.avg, f"ff_{name}": figures.ff}
        described |= {name: values, f"frozen_{name}": base}
        if name == "iou":
            row |= {"bwt": figures.bwt, "fwt": figures.fwt}
        if oracle:
            told = figured([[means[name] for means in cells] for cells in oracle])
            row |= {f"oracle_last_{name}": told.last, f"oracle_ff_{name}": told.ff}
    unseen = _unseen(entry, tables, extra.get("confusion", {}))
    row |= {**extra, "matrix": described, "unseen": unseen}
    row |= {f"ood_{metric.name}": _pooled(unseen, metric.name, recipe.weight) for metric in metrics}
    cleaned: dict[str, Any] = finite_json(row)
    return cleaned


def _means(cells: Sequence[Sequence[OutcomeTable]]) -> list[list[dict[str, float]]]:
    return [[table.means() for table in row] for row in cells]


def _unseen(entry: Entry, tables: Tables, confusion: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Each unseen set: the method beside the frozen SAM, and the share of images sent to it."""
    found: dict[str, Any] = {}
    for name, table in entry.on_unseen(tables).items():
        split = entry.unseen[name]
        base = tables.outcomes(entry.frozen[name]).means()
        found[name] = {
            **table.means(),
            **{f"frozen_{score}": value for score, value in base.items()},
            "images": split.scored,
            "masks": sum(split.masks),
        }
        if name in confusion:
            sent = confusion[name]
            found[name]["accuracy"] = sent.get("frozen", 0) / sum(sent.values())
    return found


def _pooled(unseen: Mapping[str, Mapping[str, Any]], metric: str, weight: Weight) -> float | None:
    """Mean of a metric over the unseen sets where it is defined, weighted as tasks are."""
    kept = [each for each in unseen.values() if math.isfinite(each[metric])]
    weights = [1 if weight == "tasks" else each[weight] for each in kept]
    return (
        sum(w * each[metric] for w, each in zip(weights, kept, strict=True)) / sum(weights) if kept else None
    )


def summarise_rows(
    entries: Sequence[Entry], rows: Sequence[Mapping[str, Any]], tables: Tables
) -> dict[str, Any]:
    """For each configuration the mean and interval over orders and seeds; and paired tests between configurations.

    What is tested is the difference of Last, the number of the table: tasks weighted as there, each mask's score
    averaged over the runs first, with groups (patients, slides) as what was drawn; p-values are Holm's, over all pairs.
    """
    labels = list(dict.fromkeys(row["label"] for row in rows))
    metrics = facts_of(scored_metrics(rows[0]))
    estimates = {}
    figures = [column.key for column in result_columns(metrics)]
    for label in labels:
        own = [row for row in rows if row["label"] == label]
        seeds, orders = [row["seed"] for row in own], [tuple(row["order"]) for row in own]
        estimates[label] = {
            name: vars(over_runs([row[name] for row in own], seeds, orders))
            for name in figures
            if any(row[name] is not None for row in own)
        }
    tests: list[dict[str, Any]] = []
    if 2 <= len(labels) <= MOST_TESTED:
        last = {
            label: [_last_row(entry, tables) for entry in entries if entry.config.label == label]
            for label in labels
        }
        weights = _weights(rows[0])
        for metric in metrics:
            tests += _tests(metric.name, last, weights)
    summary: dict[str, Any] = finite_json({"estimates": estimates, "tests": tests})
    return summary


def _last_row(entry: Entry, tables: Tables) -> dict[str, OutcomeTable]:
    """Outcomes after the last task, tasks in sorted order so that every order has the same masks."""
    by_task = dict(zip(entry.course.order, entry.matrix(tables)[-1], strict=True))
    return {task: by_task[task] for task in sorted(by_task)}


def _weights(row: Mapping[str, Any]) -> dict[str, float]:
    """The weight of each task in Last."""
    matrix = row["matrix"]
    weights = task_weights(row["weight"], matrix["images"], matrix["masks"])
    return dict(zip(matrix["tasks"], weights.tolist(), strict=True))


MOST_TESTED = 20  # configurations; a grid of hundreds is no family of hypotheses


def _tests(
    metric: str, last: Mapping[str, Sequence[Mapping[str, OutcomeTable]]], weights: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Each pair of configurations: the difference of the first's Last to the second's.

    Args:
        metric: of which.
        last: by configuration, for each of its runs, outcomes by task.
        weights: of the tasks.
    """
    [one, *_] = next(iter(last.values()))
    groups = [group for table in one.values() for group in table.group]
    tasks = [task for task, table in one.items() for _ in table.group]
    columns = {
        label: average_columns(
            [np.concatenate([table.scores[metric] for table in run.values()]) for run in runs]
        )
        for label, runs in last.items()
    }
    found: list[dict[str, Any]] = []
    for first, second in combinations(last, 2):
        result = difference_interval(columns[first], columns[second], groups, tasks=tasks, weights=weights)
        found.append(
            {
                "first": first,
                "second": second,
                "metric": metric,
                "difference": result.mean,
                "low": result.low,
                "high": result.high,
                "p": result.p,
                "groups": result.groups,
            }
        )
    for entry, p in zip(found, holm([entry["p"] for entry in found]), strict=True):
        entry["p_holm"] = p
    return found


@dataclass(frozen=True)
class Results:
    """What a bench ends with.

    Attributes:
        recipe: what was asked.
        model: the backbone's stores.
        orders, unseen: what was run on.
        rows: `make_row` of every line.
        stages: requested (what a framework without sharing would run), distinct, computed, reused.
        summary: means and intervals, and paired tests.
        selection: what was chosen on the validation split, where something was.
        skipped: methods that could not run on these stores.
        mixtures: devices, thread counts and versions of the stages, where there is more than one of something.
        entries: what each row is of, for whoever asks its stages for more; not written.
    """

    recipe: Recipe
    model: str
    orders: Sequence[Order]
    unseen: Sequence[str]
    rows: list[dict[str, Any]]
    stages: dict[str, int]
    summary: dict[str, Any]
    selection: dict[str, Any] | None
    skipped: list[dict[str, str]]
    mixtures: dict[str, list[str]]
    entries: Sequence[Entry] = field(default=(), repr=False, compare=False)

    @property
    def key(self) -> str:
        """Names the folder of results: by what was asked, and the rows."""
        return digest([self.recipe.model_dump(mode="json"), [row["key"] for row in self.rows]])[:20]

    def _repr_html_(self) -> str:
        """For a notebook: a row a configuration, means over orders and seeds in percent."""
        names = {"last_iou": "Last IoU", "avg_iou": "Avg IoU", "ff_iou": "FF IoU", "last_biou": "Last BIoU"}
        estimates = self.summary["estimates"]
        shown = {key: name for key, name in names.items() if any(key in each for each in estimates.values())}
        rows = []
        for label, own in estimates.items():
            means = [own.get(key, {}).get("mean") for key in shown]
            rows.append((label, *("" if mean is None else f"{100 * mean:.2f}" for mean in means)))
        title = f"{self.recipe.title}, {self.model}: {len(self.orders)} orders of {len(self.orders[0].tasks)} tasks"
        return html_table(title, ("method", *shown.values()), rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "title": self.recipe.title,
            "table": self.recipe.table,
            "model": self.model,
            "orders": {order.name: list(order.tasks) for order in self.orders},
            "unseen": list(self.unseen),
            "metrics": [vars(metric) for metric in facts_of(scored_metrics(self.rows[0]))],
            "results": self.rows,
            "stages": self.stages,
            "summary": self.summary,
            "selection": self.selection,
            "skipped": self.skipped,
            "mixtures": self.mixtures,
            "recipe": self.recipe.model_dump(mode="json"),
        }

    def write(self, runs: Runs) -> Path:
        """Writes results.json into a folder named by the rows; what a rerun writes differs only in `stages`.

        One that is there stays where the folder can only be read.

        Raises:
            CasamError: the disk is full or read-only.
        """
        folder = runs.root / FOLDER / self.key
        partial = folder / f"{FILE}.{os.getpid()}.partial"  # two processes may end the same bench at once
        data = json.loads(json.dumps(self.to_json()))
        with runs.where_writable() if (folder / FILE).is_file() else runs.disk_errors():
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({**data, "digest": digest(data)}, indent=1) + "\n")
            partial.replace(folder / FILE)
        return folder


def read_results(runs: Path, say: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """Every results.json of a runs folder, the oldest first; or the one in the folder given.

    Args:
        runs: the folder.
        say: takes a line for each that is damaged, and is left out.

    Raises:
        CasamError: there is none, or each is damaged.
    """
    paths = [runs / FILE] if (runs / FILE).is_file() else list((runs / FOLDER).glob(f"*/{FILE}"))
    if not paths:
        raise CasamError(f"no results in {runs}", f"casam bench --runs {runs} makes them")
    found, wrong = [], list[CasamError]()
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime, str(path))):
        try:
            found.append(_read(path))
        except CasamError as error:
            wrong.append(error)
    if not found:
        raise wrong[0]
    for damaged in wrong:
        say(f"left out: {damaged}")
    return found


def damaged_results(runs: Path) -> list[str]:
    """What is wrong with the results.json of a runs folder, a line each."""
    wrong = []
    for path in sorted((runs / FOLDER).glob(f"*/{FILE}")):
        try:
            _read(path)
        except CasamError as error:
            wrong.append(error.message)
    return wrong


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
        if data.pop("digest") != digest(data):
            raise ValueError("it is not what was written")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CasamError(
            f"{path} cannot be read: {error}", "run the bench again: it computes nothing twice"
        ) from None
    return {**data, "folder": str(path.parent)}
