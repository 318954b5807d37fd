"""`casam fit` on workers: the same numbers as here, folds at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Casam

from casam_cache.bench.fit_folds import fit_folds
from casam_cache.bench.segmentation import fit_segmentation
from casam_cache.engine.schedule import PlanProgress

SHORT = ["epochs=1", "blocks=1"]
HEAD = ["min_steps=2", "max_steps=2"]


@pytest.fixture(autouse=True)
def stores(encode: Callable[..., Any], discs: Any) -> None:
    encode(discs)


def test_an_executor_gives_the_same_numbers_and_takes_all_folds_at_once(casam: Casam) -> None:
    seen: list[PlanProgress] = []
    with ThreadPoolExecutor(2) as pool:
        there = fit_folds(
            "discs",
            runs="there",
            folds=2,
            options=SHORT,
            device="cpu",
            executor=pool,
            jobs=2,
            on_stages=seen.append,
        )
        mapped = fit_segmentation("discs", runs="there", options=HEAD, device="cpu", executor=pool, jobs=2)
    here = fit_folds("discs", runs="here", folds=2, options=SHORT, device="cpu")
    for one, other in zip(here.folds, there.folds, strict=True):
        assert one.test.metrics == other.test.metrics
        assert one.computed
    assert seen[0].total == 7, "two folds of a fit and two scores, and one cost"
    assert mapped.scores == fit_segmentation("discs", runs="here", options=HEAD, device="cpu").scores


def test_jobs_need_an_executor(casam: Casam) -> None:
    casam("fit", "--task", "discs", "--jobs", 2)
    assert casam.code == 1
    assert "--jobs needs --executor dask" in casam.err


@pytest.mark.slow
def test_a_cluster_on_this_machine(casam: Casam) -> None:
    fit = ("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1", "--device", "cpu")
    head = (
        "fit",
        "--task",
        "discs",
        "--head",
        "fcn",
        *(part for one in HEAD for part in ("--set", one)),
        "--device",
        "cpu",
    )
    there = ("--runs", "there", "--executor", "dask", "--jobs", 2)
    assert casam.json(*fit, *there)["test"] == casam.json(*fit)["test"]
    assert casam.json(*head, *there)["scores"] == casam.json(*head)["scores"]
