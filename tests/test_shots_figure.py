"""The curve over few training images: what belongs together, in which order, and when there is none."""

from __future__ import annotations

from typing import Any

import pytest

from casam_cache.report.shots_figure import shots_curves, shots_figure, shots_values


def row(label: str, method: str, iou: float, shots: int | None = None, **more: Any) -> dict[str, Any]:
    options = {"kind": "affine"} | ({} if shots is None else {"shots": shots})
    return {"label": label, "method": method, "last_iou": iou, "options": options, "seed": 0, **more}


ROWS = [
    row("frozen", "frozen", 0.5),
    row("affine, shots=10", "alignment", 0.7, 10),
    row("affine, shots=2", "alignment", 0.6, 2),
    row("affine, shots=2", "alignment", 0.64, 2, seed=1),
    row("affine, shots=null", "alignment", 0.8),
    row("decoder", "decoder", 0.9),
]


def test_a_curve_is_a_configuration_over_its_shots_and_all_comes_last() -> None:
    curves, frozen = shots_curves(ROWS)
    (one,) = curves  # the decoder has one number of images only
    assert (one.label, one.method) == ("affine", "alignment")
    assert [shots for shots, _ in one.points] == [2, 10, None]
    assert one.points[0][1] == pytest.approx((60.0, 64.0))
    assert frozen == 50.0
    lines = shots_values(ROWS).splitlines()
    assert lines[1] == "affine,2,2,62.0000,60.0000,64.0000"
    assert lines[-1] == "frozen SAM,,,50.0000,,"
    drawn = shots_figure(ROWS, "svg")
    assert drawn is not None
    assert drawn == shots_figure(ROWS, "svg")
    for word in (b">affine<", b">all<", b">frozen SAM<"):
        assert word in drawn
    assert b"shots=" not in drawn


def test_without_two_numbers_of_images_there_is_no_figure() -> None:
    assert shots_figure([ROWS[0], ROWS[1], ROWS[-1]], "svg") is None
