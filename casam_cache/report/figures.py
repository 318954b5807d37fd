"""Results as pictures: Figure 6 of the paper, and IoU over kinds of prompts and clicks. Needs no display."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from casam_cache.bench.evaluation import ClickScore, PromptReport
from casam_cache.metrics.compare import Estimate
from casam_cache.metrics.intervals import Interval
from casam_cache.report.configurations import Row
from casam_cache.report.layouts.blocks import Grid, grid
from casam_cache.report.paper import REPORTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def figure_6_picture(rows: Sequence[Row], form: str, *, title: str = "") -> bytes:
    """The figure as a file's content; the same rows give the same bytes.

    With a single number of epochs the blocks are on the axis instead, as one line. Where there are several seeds or
    orders, bars show the interval.

    Args:
        rows: results of the Alignment Layer with several `blocks`, and several `epochs` if wanted.
        form: svg, pdf or png.
        title: over it.

    Raises:
        ValueError: no row has blocks and epochs.
    """
    panels = {label: grid(rows, metric) for metric, label in REPORTED.items()}
    if not any(panels.values()):
        raise ValueError("no result has a number of blocks and of epochs")

    def draw(axes: Sequence[Axes]) -> None:
        for place, (label, values) in enumerate(panels.items()):
            _draw(axes[place], values)
            axes[place].set_ylabel(f"average {label} (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            axes[-1].legend(handles, labels, frameon=False)

    return _picture(draw, [1] * len(panels), form, title)


def prompt_picture(report: PromptReport, form: str, *, title: str = "") -> bytes:
    """IoU over kinds of prompts, and over clicks, frozen and fitted, as a file's content; bars are 95 % intervals.

    Args:
        report: of `evaluate_prompts`.
        form: svg, pdf or png.
        title: over it.
    """
    clicks = [each for each in report.prompts if len(each.clicks) > 1]

    def draw(axes: Sequence[Axes]) -> None:
        names = [each.prompt for each in report.prompts]
        shift = 0.06  # so that bars stand beside each other
        for side, (label, attribute) in enumerate((("frozen SAM", "frozen"), (report.method, "fitted"))):
            found = [getattr(each, attribute)["iou"] for each in report.prompts]
            places = [place + (2 * side - 1) * shift for place in range(len(names))]
            _intervals(axes[0], places, found, label, f"C{side}", line=":")
            for panel, each in zip(axes[1:], clicks, strict=True):
                numbers = [one.click + (2 * side - 1) * shift for one in each.clicks]
                _intervals(panel, numbers, [_side(one, attribute) for one in each.clicks], label, f"C{side}")
        axes[0].set_xticks(range(len(names)), names, rotation=30, ha="right")
        for panel, each in zip(axes[1:], clicks, strict=True):
            panel.set_xlabel(f"clicks ({each.prompt})")
            panel.set_xticks([one.click for one in each.clicks][:: max(1, len(each.clicks) // 10)])
        for panel in axes:
            panel.set_ylabel("IoU (%)")
            panel.grid(visible=True, linewidth=0.4, alpha=0.5)
            panel.spines[["top", "right"]].set_visible(False)
        axes[-1].legend(frameon=False)

    widths = [max(2, len(report.prompts)), *(max(3, min(8, len(each.clicks))) for each in clicks)]
    return _picture(draw, widths, form, title)


def _side(score: ClickScore, name: str) -> Interval:
    found: Interval = getattr(score, name)
    return found


def _intervals(
    axes: Axes, places: Sequence[float], found: Sequence[Interval], label: str, colour: str, line: str = "-"
) -> None:
    heights = [100 * each.mean for each in found]
    below, above = (
        [0.0 if math.isnan(edge) else 100 * abs(edge - each.mean) for each, edge in pairs]
        for pairs in ([(each, each.low) for each in found], [(each, each.high) for each in found])
    )
    axes.errorbar(
        places, heights, yerr=[below, above], marker="o", markersize=4, capsize=2, label=label, color=colour,
        linestyle=line,
    )  # fmt: skip


def _picture(draw: Callable[[Sequence[Axes]], None], widths: Sequence[int], form: str, title: str) -> bytes:
    """A row of panels as a file's content; what is drawn alike gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "casam", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)
        draw(list(axes[0]))
        if title:
            figure.suptitle(title)
        stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
        content = io.BytesIO()
        figure.savefig(content, format=form, metadata=stamp, dpi=150)
        return content.getvalue()


def _draw(axes: Axes, values: Grid) -> None:
    all_epochs = sorted({epochs for _, epochs in values})
    all_blocks = sorted({blocks for blocks, _ in values})
    if len(all_epochs) == 1:
        _line(
            axes,
            [(blocks, values[blocks, all_epochs[0]]) for blocks in all_blocks],
            f"{all_epochs[0]} epochs",
        )
        axes.set_xlabel("blocks of the Alignment Layer")
        axes.set_xticks(all_blocks)
    else:
        for blocks in all_blocks:
            points = [(epochs, values[blocks, epochs]) for epochs in all_epochs if (blocks, epochs) in values]
            _line(axes, points, f"{blocks} block" + ("s" if blocks > 1 else ""))
        axes.set_xlabel("epochs")
        axes.set_xticks(all_epochs)
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _line(axes: Axes, points: Sequence[tuple[int, Estimate]], label: str) -> None:
    places = [place for place, _ in points]
    heights = [100 * estimate.mean for _, estimate in points]
    halves = [0.0 if math.isnan(estimate.half) else 100 * estimate.half for _, estimate in points]
    axes.errorbar(places, heights, yerr=halves, marker="o", markersize=3, capsize=2, label=label)
