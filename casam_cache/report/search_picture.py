"""A search as a picture: what each trial gains over the frozen SAM against what it costs, and the front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from casam_cache.bench.search.objectives import front
from casam_cache.bench.search.outcome import SearchReport
from casam_cache.bench.search.study import TrialResult
from casam_cache.report.search_table import scored
from casam_cache.report.style import count_along, look_of, picture, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COSTS = {"flops": "FLOPs of head and decoder a sample and step", "parameters": "trained parameters"}


def search_picture(report: SearchReport, form: str, *, style: str = "paper") -> bytes:
    """Gain over FLOPs and over parameters, a point a trial that was fitted in full, as a file's content.

    Args:
        report: with such a trial at least.
        form: svg, pdf or png.
        style: paper, thesis or slides.
    """
    score = report.objectives[0]

    def draw(figure: Figure) -> None:
        axes: Sequence[Axes] = figure.subplots(1, len(_COSTS), sharey=True)
        for each, (cost, label) in zip(axes, _COSTS.items(), strict=True):
            _draw(each, report, cost)
            each.set_xlabel(label)
        axes[0].set_ylabel(f"gain in {scored(report)} (points)")
        axes[0].legend()

    def _draw(axes: Axes, report: SearchReport, cost: str) -> None:
        points = {trial.number: (_gain(trial, score), _cost(trial, cost)) for trial in report.complete}
        edge = sorted(front(points, (score, cost)), key=lambda number: points[number][1])
        look = look_of(report.name)
        axes.plot(
            [each[1] for each in points.values()], [each[0] for each in points.values()],
            linestyle="none", marker=look["marker"], color=look["color"], alpha=0.35, label="trial",
        )  # fmt: skip
        axes.plot(
            [points[number][1] for number in edge], [points[number][0] for number in edge],
            drawstyle="steps-post", **look, label="front",
        )  # fmt: skip
        axes.axhline(0.0, color="0.4", linewidth=0.8, linestyle=":")
        count_along(axes, [each[1] for each in points.values()])

    return picture(draw, style_of(style), form, 0.42)


def _gain(trial: TrialResult, score: str) -> float:
    return 100 * trial.rungs[-1].gains[score]


def _cost(trial: TrialResult, cost: str) -> float:
    value = trial.flops if cost == "flops" else trial.parameters
    assert value is not None
    return float(value)
