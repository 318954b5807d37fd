"""The columns of a result, in one list: what is worked out, stored and shown follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from casam_cache.metrics.base import MetricFacts
from casam_cache.metrics.registry import METRICS, STANDARD


@dataclass(frozen=True)
class ResultColumn:
    """One figure of a result.

    Attributes:
        key: in a row of results.
        label: in tables, below `group`.
        group: what it is a figure of.
        better: whether high or low values are; empty: neither.
        percent: whether it is shown times 100.
        brief: whether it is in the table that `casam bench` ends with.
    """

    key: str
    label: str
    group: str
    better: Literal["high", "low", ""] = "high"
    percent: bool = True
    brief: bool = True


def result_columns(metrics: Iterable[MetricFacts]) -> tuple[ResultColumn, ...]:
    """Last, Avg and FF of each metric, then routing, the unseen sets and the transfers.

    FF is in the units of its metric and counts what got worse: low is better whichever way the metric goes. The
    transfers are of IoU.
    """
    known = tuple(metrics)
    columns: list[ResultColumn] = []
    for one in known:
        columns += [
            ResultColumn(f"last_{one.name}", "Last", one.label, one.better, one.percent),
            ResultColumn(f"avg_{one.name}", "Avg", one.label, one.better, one.percent),
            ResultColumn(f"ff_{one.name}", "FF", one.label, "low", one.percent),
        ]
    columns += [
        ResultColumn("routing_accuracy", "Acc", "routing"),
        ResultColumn("ood_accuracy", "Acc", "unseen sets"),
        *(
            ResultColumn(f"ood_{one.name}", one.label, "unseen sets", one.better, one.percent)
            for one in known
        ),
        ResultColumn("bwt", "BWT", "transfer", brief=False),
        ResultColumn("fwt", "FWT", "transfer", brief=False),
    ]
    return tuple(columns)


def facts_of(names: Iterable[str]) -> list[MetricFacts]:
    """What tables say of metrics whose code is at hand.

    Raises:
        OptionError: there is no metric of a name.
    """
    return [METRICS.get(name).facts() for name in names]


def scored_metrics(row: Mapping[str, Any]) -> list[str]:
    """The metrics of a row of results, in its order: those with a matrix R and the frozen SAM's scores beside it."""
    return [name for name in row["matrix"] if f"frozen_{name}" in row["matrix"]]


def recorded_facts(results: Mapping[str, Any]) -> Sequence[MetricFacts]:
    """The metrics of a results.json: as it tells them, so that a user's file need not be at hand."""
    if "metrics" in results:
        return [MetricFacts(**entry) for entry in results["metrics"]]
    return facts_of(STANDARD)
