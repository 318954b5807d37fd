"""What a fit, a bench, a store and a prediction show in a notebook: well-formed, escaped, the numbers they hold."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from bench_sets import Reference
from conftest import Casam, draw_dataset
from PIL import Image

import casam_cache as casam_
from casam_cache.bench.predict import Prediction
from casam_cache.notebook import SIDE

NAME = "discs & $x^$ 'n' {{ 7+7 }}"


def parsed(text: str) -> ElementTree.Element:
    """It is XML too, so everything in it is closed and escaped."""
    return ElementTree.fromstring(text)


def test_a_store_and_a_fit(casam: Casam, encode: Callable[..., Any], tmp_path: Path) -> None:
    encode(draw_dataset(tmp_path / "data" / NAME))
    store = casam_.EmbeddingStore.open(casam.folder / "casam_store" / NAME / "tiny.zarr")
    shown = parsed(store._repr_html_())
    assert shown.findtext("caption") == f"embeddings of {NAME}"
    cells = [[cell.text for cell in row] for row in shown.iter("tr")]
    assert ["images", "10"] in cells
    assert ["embedding", "16 x 8 x 8, float16"] in cells
    report = casam_.fit_task(
        NAME, store.path.parent.parent, casam.folder / "runs", options=["epochs=1", "held_out=0"]
    )
    shown = parsed(report._repr_html_())
    assert NAME in (shown.findtext("caption") or "")
    first, *_ = next(iter(shown.iter("tbody")))
    assert [cell.text for cell in first] == [
        "IoU", *(f"{100 * side['iou'].mean:.1f}" for side in (report.frozen.metrics, report.test.metrics, report.gain))
    ]  # fmt: skip


def test_a_bench(reference: Reference) -> None:
    shown = parsed(reference.results._repr_html_())
    head, *rows = shown.iter("tr")
    assert [cell.text for cell in head][:2] == ["method", "Last IoU"]
    estimates = reference.results.summary["estimates"]
    assert [row[0].text for row in rows] == list(estimates)
    assert rows[0][1].text == f"{100 * next(iter(estimates.values()))['last_iou']['mean']:.2f}"


def test_a_prediction_is_drawn_over_its_image_where_that_is_there() -> None:
    masks = np.zeros((2, 1, 700, 400), bool)
    masks[0, 0, 100:300, 100:300] = True
    image = np.full((700, 400, 3), 200, np.uint8)
    for pixels in (image, None):
        told = Prediction(masks, np.full((2, 1), 0.5, np.float32), masks, "identity", "", image=pixels)
        text = told._repr_html_()
        assert parsed(text).findtext("figcaption") == (
            "the frozen SAM; expected IoU 50.0, 50.0; 1 of 2 masks are empty"
        )
        [data] = re.findall('base64,([^"]*)', text)
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert max(drawn.shape) == SIDE
        changed = (drawn != (200 if pixels is not None else 40)).any(axis=-1)
        assert abs(changed.mean() - 1 / 7) < 0.01
