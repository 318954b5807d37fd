"""Metrics by name: installed ones, `biou_Npx`, or a class in a file: `my_file.py:MyMetric`."""

from __future__ import annotations

from collections.abc import Iterable

from casam_cache.errors import CasamError
from casam_cache.metrics.base import Metric
from casam_cache.metrics.boundary import CAPPED, capped_boundary
from casam_cache.registry import Registry


class MetricRegistry(Registry[Metric]):
    """Knows Boundary IoU with any cap too, by the cap: `biou_5px`."""

    def get(self, name: str) -> type[Metric]:
        capped = CAPPED.fullmatch(name)
        return super().get(name) if capped is None else capped_boundary(int(capped[1]))


METRICS = MetricRegistry("metric", Metric, "casam_cache.metrics", options=False)
STANDARD = ("iou", "biou", "dice")  # always scored
TAKEN = (
    "task",
    "item",
    "group",
    "class_id",
    "instance",
    "area",
    "predicted_iou",
    "tasks",
    "images",
    "masks",
    "accuracy",
    "undefined",
    "intervals",
)  # what stands beside metrics in outcomes, scores and results


def make_metrics(names: Iterable[str] = ()) -> dict[str, Metric]:
    """The standard metrics and those asked for, each once, by their own names.

    Args:
        names: of metrics, or `FILE.py:Class`.

    Raises:
        OptionError: there is no such metric.
        CasamError: one cannot be imported or is unfinished.
    """
    made: dict[str, Metric] = {}
    for asked in (*STANDARD, *names):
        cls = METRICS.get(asked)
        wrong = [
            *([] if cls.name.isidentifier() else [f"name {cls.name!r} is no identifier"]),
            *([f"name {cls.name!r} is taken by another column"] if cls.name in TAKEN else []),
            *([] if isinstance(getattr(cls, "label", None), str) else ["it has no label"]),
            *([] if getattr(cls, "better", None) in ("high", "low") else ["better is neither high nor low"]),
        ]
        if wrong:
            raise CasamError(
                f"metric {asked}: {', '.join(wrong)}",
                'it needs name = "my_metric", label = "My metric", and better = "high" or "low"',
            )
        made[cls.name] = cls()
    return made
