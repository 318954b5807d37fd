"""Figure 6 as a picture: average IoU and BIoU over epochs, one line a number of blocks. Needs no display."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from casam_cache.metrics.compare import Estimate
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
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {label: grid(rows, metric) for metric, label in REPORTED.items()}
    if not any(panels.values()):
        raise ValueError("no result has a number of blocks and of epochs")
    with matplotlib.rc_context({"svg.hashsalt": "casam", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels))
        for place, (label, values) in enumerate(panels.items()):
            _draw(axes[place], values)
            axes[place].set_ylabel(f"average {label} (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            axes[-1].legend(handles, labels, frameon=False)
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
