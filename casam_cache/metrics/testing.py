"""Tests that a metric of yours can be put through: subclass `MetricContract` in a test file and run pytest.

    from casam_cache.metrics.testing import MetricContract

    class TestMyMetric(MetricContract):
        metric = "my_file.py:MyMetric"

Everything runs on small drawn masks, in a second. pytest itself is not imported.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from casam_cache.metrics.base import Metric
from casam_cache.metrics.columns import result_columns
from casam_cache.metrics.registry import METRICS, make_metrics

HEIGHT, WIDTH = 24, 40  # not square: rows and columns are easily swapped


def drawn_masks() -> list[np.ndarray]:
    """Bool masks (H, W): rectangles, single pixels, specks, a ring, all of the image, nothing."""
    masks = [np.zeros((HEIGHT, WIDTH), dtype=bool) for _ in range(6)]
    masks[0][4:20, 6:30] = True
    masks[1][5:21, 4:28] = True
    masks[2][0, 0] = True
    masks[3][4:20, 6:30] = True
    masks[3][8:16, 10:26] = False
    masks[4][-3:, -5:] = True
    masks[5][:] = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.1
    return [*masks, np.ones((HEIGHT, WIDTH), dtype=bool), np.zeros((HEIGHT, WIDTH), dtype=bool)]


class MetricContract:
    """What evaluation relies on in every metric. Set `metric`.

    Attributes:
        metric: a name, `my_file.py:MyMetric`, or the class.
        symmetric: whether predicted and true mask may change places.
    """

    metric: ClassVar[str | type[Metric]]
    symmetric: ClassVar[bool] = False

    def made(self) -> Metric:
        """The metric as evaluation makes it."""
        if not isinstance(self.metric, str):
            return self.metric()
        return make_metrics([self.metric])[METRICS.get(self.metric).name]

    def test_it_says_what_tables_need(self) -> None:
        """A name that can be part of a column's, a label, a direction; no column has that name already."""
        facts = self.made().facts()
        assert facts.name.isidentifier(), "name is part of columns: a Python identifier"
        assert facts.label, "label is what tables call it"
        assert facts.better in ("high", "low")
        assert isinstance(facts.percent, bool)
        keys = [column.key for column in result_columns([facts])]
        assert len(keys) == len(set(keys)), f"results have columns of that name: {keys}"

    def test_values_are_finite_or_nan(self) -> None:
        """Python's floats; infinity would make every mean infinite."""
        metric, masks = self.made(), drawn_masks()
        for predicted in masks:
            for truth in masks:
                value = metric(predicted, truth)
                assert isinstance(value, float), f"{type(value).__name__} instead of float"
                assert not math.isinf(value), "infinite: NaN says undefined, a number says how bad"

    def test_the_true_mask_is_the_best_prediction(self) -> None:
        """No other mask scores better; one that misses everything scores worse."""
        metric, masks = self.made(), drawn_masks()
        for truth in masks[:-1]:
            best = metric(truth, truth)
            assert math.isfinite(best), "undefined for a prediction without a fault"
            for predicted in masks:
                value = metric(predicted, truth)
                assert math.isnan(value) or not self._better(value, best), (
                    "another mask is better than the truth"
                )
        missed = metric(masks[4], masks[0])
        assert math.isnan(missed) or self._better(metric(masks[0], masks[0]), missed), (
            "a prediction that misses everything is as good as the truth: is `better` right?"
        )

    def test_nothing_found_where_nothing_is(self) -> None:
        """Two empty masks are undefined, or as good as can be."""
        metric, masks = self.made(), drawn_masks()
        value = metric(masks[-1], masks[-1])
        assert math.isnan(value) or value == metric(masks[0], masks[0])

    def test_masks_are_only_read(self) -> None:
        """The same arrays go on to the next metric, and may be views that cannot be written."""
        metric, masks = self.made(), drawn_masks()
        before = [mask.copy() for mask in masks]
        for mask in masks:
            mask.setflags(write=False)
        for predicted in masks:
            for truth in masks:
                metric(predicted, truth)
        assert all(np.array_equal(mask, copy) for mask, copy in zip(masks, before, strict=True))

    def test_a_value_depends_on_the_two_masks_alone(self) -> None:
        """Neither on what was scored before, nor on how the arrays lie in memory."""
        metric, masks = self.made(), drawn_masks()
        first = [[metric(predicted, truth) for predicted in masks] for truth in masks]
        strided = [np.repeat(mask, 2, axis=1)[:, ::2] for mask in masks]
        again = [[self.made()(p, t) for p in reversed(strided)] for t in reversed(strided)]
        assert np.array_equal(np.array(first), np.array(again)[::-1, ::-1], equal_nan=True)

    def test_masks_may_change_places_where_it_says_so(self) -> None:
        """Only if `symmetric` is set."""
        metric, masks = self.made(), drawn_masks()
        for predicted in masks if self.symmetric else ():
            for truth in masks:
                assert np.array_equal(metric(predicted, truth), metric(truth, predicted), equal_nan=True)

    def _better(self, first: float, second: float) -> bool:
        return first > second if self.made().better == "high" else first < second
