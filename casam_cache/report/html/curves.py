"""The course of a fit as a picture: loss an epoch, and IoU on the held-out groups at each check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from casam_cache.report.style import look_of, picture, style_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(fitted: Mapping[str, Any], method: str, form: str = "svg", style: str = "paper") -> bytes | None:
    """Loss by step, and beside it the IoU of held-out masks where some were held out.

    Args:
        fitted: `recorded["fit"]` of a fit's record.
        method: whose look is taken.
        form: svg, pdf or png.
        style: one of `STYLES`.

    Returns:
        None where nothing was recorded.
    """
    history = fitted.get("history") or []
    checks = (fitted.get("chosen") or {}).get("checks") or []
    if not history:
        return None
    look, chosen = look_of(method), style_of(style)
    steps, taken = [], 0
    for epoch in history:
        taken += int(epoch.get("steps") or 1)
        steps.append(taken)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(1, 1 + bool(checks), 1)
        axes.plot(steps, [epoch["loss"] for epoch in history], label="loss", **look)
        axes.set_xlabel("steps")
        axes.set_ylabel("loss, mean of an epoch")
        if checks:
            axes = figure.add_subplot(1, 2, 2)
            places = [check["step"] for check in checks]
            axes.plot(places, [100 * check["iou"] for check in checks], label="fitted", **look)
            axes.axhline(
                100 * fitted["chosen"]["frozen"], label="frozen SAM", **{**look_of("frozen"), "marker": ""}
            )
            kept = fitted["chosen"]
            axes.axvline(kept["step"], color="0.6", linewidth=0.8, label="kept")
            if kept.get("share", 1.0) < 1:
                axes.plot(
                    [kept["step"]],
                    [100 * kept["iou"]],
                    "o",
                    color="0.4",
                    label=f"{kept['share']:.0%} of the way there",
                )
            axes.set_xlabel("steps")
            axes.set_ylabel("IoU (%) of held-out masks")
            axes.legend()

    return picture(draw, chosen, form, 0.36)
