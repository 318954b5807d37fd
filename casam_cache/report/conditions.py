"""What stands under every table: what the numbers are, and where the conditions differ from the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from casam_cache.bench.paper_sets import TASKS, UNSEEN, paper_name
from casam_cache.metrics.continual import Forgetting
from casam_cache.report.configurations import Configuration, Row, at
from casam_cache.report.prompt_words import explain
from casam_cache.training.evaluation_prompts import ORACLE_BOX, parse_prompt

_FORGETTING: dict[str, str] = {
    "paper": "equation 11 (largest score before the last task minus the last score)",
    "mammoth": "Mammoth's (the largest score includes the last one, so it is never negative)",
    "avalanche": "Avalanche's (score right after training minus the last one)",
}
_MOST_TOLD = 6  # configurations; a grid has no room for it
_PAPER_TRAINING = {"epochs": 24, "learning_rate": 1e-4, "batch_size": 6}


def conditions(runs: Sequence[Configuration], recipe: Mapping[str, Any]) -> list[str]:
    """The notes of any table of results.

    Args:
        runs: everything in the table.
        recipe: what was run, as `Recipe.model_dump`; an empty mapping where it is not known.
    """
    rows = [row for each in runs for row in each.rows]
    if not rows:
        return ["No results of ours yet: only the paper's figures."]
    notes = [_sources(rows), _datasets(rows), _means(rows), _prompts(rows), _training(runs)]
    notes += [
        _selection(recipe),
        _bounds(runs),
        _task_ids(runs),
        _told(runs),
        _thresholds(runs),
        _undefined(runs),
    ]
    return [note for note in notes if note]


def _sources(rows: Sequence[Row]) -> str:
    models = ", ".join(sorted({str(row.get("model")) for row in rows}))
    spread = spread_of(rows)
    stand_ins = sorted({f" {row['model']} is {row['stand_in']}." for row in rows if row.get("stand_in")})
    return (
        f"ours: backbone {models}; {spread}.{''.join(stand_ins)} paper: as printed there, SAM's ViT-B by its parameter "
        "counts, one run a method, no intervals."
    )


def spread_of(rows: Sequence[Row]) -> str:
    """How seeds and orders enter a table's cells, and which orders were run."""
    seeds = len({row.get("seed", 0) for row in rows})
    orders = list(dict.fromkeys(tuple(row.get("order") or ()) for row in rows))
    if seeds == 1 and len(orders) == 1:
        return "a single seed and order, so no interval"
    few = (
        ""
        if max(seeds, len(orders)) > 2
        else "; too few for an interval, so the runs' values are in brackets"
    )
    spread = f"means over {_count(seeds, 'seed')} and {_count(len(orders), 'order')}"
    if not few:
        spread += (
            ", ± half of the 95 % interval (variance of the means by seed plus that of the means by order)"
        )
    if len(orders) == 1:
        return spread + few
    listed = [" > ".join(order) for order in orders[:_MOST_ORDERS]]
    more = len(orders) - len(listed)
    rest = f"; {more} more in results.json" if more else ""
    return f"{spread}{few}; orders: {'; '.join(listed)}{rest}"


_MOST_ORDERS = 12


def _datasets(rows: Sequence[Row]) -> str:
    tasks = sorted({task for row in rows for task in row.get("order") or ()})
    unseen = sorted({name for row in rows for name in row.get("unseen") or {}})
    parts = []
    if tasks:
        parts.append(f"{_count(len(tasks), 'task')}: {', '.join(tasks)} (the paper: {', '.join(TASKS)})")
    if unseen:
        told = "unseen, each on all its images that have a mask, whatever their split"
        parts.append(f"{told}: {', '.join(unseen)} (the paper: {', '.join(UNSEEN)})")
    same = [name for name in [*tasks, *unseen] if paper_name(name)]
    if same:
        parts.append(f"named as in the paper, with our images and splits: {', '.join(same)}")
    else:
        parts.append(
            "none of these sets is one of the paper's: no value can be compared with the paper's directly"
        )
    return "Datasets: " + "; ".join(parts) + "." if tasks or unseen else ""


def _means(rows: Sequence[Row]) -> str:
    weights = sorted({str(row["weight"]) for row in rows if row.get("weight")})
    forgetting: list[Forgetting] = sorted({row["forgetting"] for row in rows if row.get("forgetting")})
    if not weights:
        return ""
    text = f"Means over tasks weighted by {', '.join(weights)}"
    if weights != ["tasks"]:
        text += " of the test sets"
    text += " (the paper states images, and its averages fit mask counts better)"
    if forgetting:
        text += f"; FF: {', '.join(_FORGETTING[name] for name in forgetting)}, unweighted"
    splits = sorted({str(row["evaluate"]) for row in rows if row.get("evaluate")} - {"test"})
    return text + (f"; scored on the {', '.join(splits)} split" if splits else "") + "."


def _prompts(rows: Sequence[Row]) -> str:
    prompts = sorted({str(row.get("prompt") or ORACLE_BOX) for row in rows})
    told = [
        f"{prompt}: {explain(parse_prompt(prompt))}"
        + (", as in the paper" if prompt == ORACLE_BOX else " (the paper: oracle box)")
        for prompt in prompts
    ]
    return f"Test prompts: {', '.join(told)}."


def _training(runs: Sequence[Configuration]) -> str:
    """Where the training differs from section 4.1.2; the frozen SAM has none."""
    runs = [each for each in runs if each.method != "frozen"]
    found = []
    for name, paper in _PAPER_TRAINING.items():
        ours = sorted({each.options[name] for each in runs if each.options.get(name) is not None})
        if ours and ours != [paper]:
            found.append(f"{name} {', '.join(f'{value:g}' for value in ours)} (the paper: {paper:g})")
    limits = sorted({each.options["max_steps"] for each in runs if each.options.get("max_steps")})
    if limits:
        found.append(f"at most {', '.join(map(str, limits))} optimiser steps (the paper: no limit)")
    shares = sorted({each.options["box_share"] for each in runs if each.options.get("box_share") is not None})
    if shares and shares != [0.5]:
        found.append(
            f"share of box prompts in training {', '.join(f'{share:g}' for share in shares)} (the paper: mixed)"
        )
    return f"Training: {'; '.join(found)}." if found else ""


def _selection(recipe: Mapping[str, Any]) -> str:
    metric = recipe.get("select")
    return (
        f"Configurations were chosen by {metric} on the validation split; test was scored once."
        if metric
        else ""
    )


def _bounds(runs: Sequence[Configuration]) -> str:
    names = sorted({each.label for each in runs if not each.ranked and not each.oracle})
    return f"Not ranked, since it sees all tasks at once: {'; '.join(names)}." if names else ""


def _task_ids(runs: Sequence[Configuration]) -> str:
    told = sorted({each.label for each in runs if each.oracle})
    emr = sorted(
        {str(each.rows[0].get("router")) for each in runs if each.method == "emr" and not each.oracle}
    )
    parts = [f"told the task of each test image (not ranked): {'; '.join(told)}"] if told else []
    parts += [f"emr: task ids from the {', '.join(emr)} router"] if emr else []
    return f"Task ids: {'; '.join(parts)}; the paper does not say where EMR's come from." if parts else ""


def _told(runs: Sequence[Configuration]) -> str:
    """What routing costs: Last with the true task told, of the same heads."""
    found = []
    for each in runs:
        routed, told = each.estimate(at("last_iou")).mean, each.estimate(at("oracle_last_iou")).mean
        if math.isfinite(told) and math.isfinite(routed):
            found.append(f"{each.label} {100 * told:.2f} ({100 * (routed - told):+.2f} by routing)")
    return f"Last-IoU had the task been told: {'; '.join(found)}." if 0 < len(found) <= _MOST_TOLD else ""


def _thresholds(runs: Sequence[Configuration]) -> str:
    """Conformal quantiles need enough scores: with fewer, the threshold is infinite and nothing falls back."""
    labels: dict[tuple[str, ...], list[str]] = {}
    with_thresholds = [each for each in runs if any(row.get("thresholds") for row in each.rows)]
    for each in with_thresholds:
        listed = (row.get("thresholds") or {} for row in each.rows)
        infinite = sorted({task for thresholds in listed for task, tau in thresholds.items() if tau is None})
        if infinite and each.options.get("threshold") != "none":
            labels.setdefault(tuple(infinite), []).append(each.label)
    if not labels:
        return ""
    everywhere = len(labels) == 1 and len(next(iter(labels.values()))) == len(with_thresholds)
    said = [", ".join(tasks) + ("" if everywhere else f" ({'; '.join(of)})") for tasks, of in labels.items()]
    return f"Infinite thresholds (too few calibration scores for the rule, so never a fallback): {'; '.join(said)}."


def _undefined(runs: Sequence[Configuration]) -> str:
    """Test sets with no defined score."""
    empty: set[str] = set()
    for each in runs:
        for row in each.rows:
            matrix = row.get("matrix") or {}
            if matrix.get("iou"):
                columns = zip(matrix.get("tasks", ()), zip(*matrix["iou"], strict=True), strict=False)
                empty |= {task for task, column in columns if all(value is None for value in column)}
    return (
        f"Without any mask with a defined score, left out of every mean: {', '.join(sorted(empty))}."
        if empty
        else ""
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
