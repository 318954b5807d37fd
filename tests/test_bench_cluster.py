"""A bench on a real cluster engine: a Dask scheduler with two worker processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench_sets import CIRCUMSTANCES, draw_and_encode
from conftest import Casam

BENCH = (
    "bench", "--tasks", "amber,cobalt", "--methods", "naive,ca-sam", "--epochs", "1", "--set", "blocks=1",
    "--set", "vae_steps=5", "--device", "cpu", "--json",
)  # fmt: skip


def bench(folder: Path, *options: object) -> dict[str, object]:
    """`casam bench` in a process of its own, as a cluster's workers need one to come from."""
    command = [sys.executable, "-c", "from casam_cli.main import run; run()", *BENCH, *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_cluster_computes_the_same_rows(tmp_path: Path, tiny_checkpoint: Path) -> None:
    stores = draw_and_encode(tmp_path, tiny_checkpoint)
    here = bench(tmp_path, "--store", stores, "--runs", tmp_path / "here", "--jobs", 1)
    there = bench(
        tmp_path, "--store", stores, "--runs", tmp_path / "there", "--jobs", 2, "--executor", "dask"
    )
    rows = [
        [{key: value for key, value in row.items() if key not in CIRCUMSTANCES} for row in found["results"]]
        for found in (here, there)
    ]
    assert rows[0] == rows[1]
    assert here["stages"] == there["stages"]


def test_an_executor_that_is_not_there(casam: Casam, tmp_path: Path, tiny_checkpoint: Path) -> None:
    stores = draw_and_encode(tmp_path, tiny_checkpoint)
    casam(*BENCH[:-1], "--store", stores, "--executor", "slurm")
    assert casam.code == 1
    assert "unknown executor 'slurm'" in casam.err
    assert "dask:ADDRESS" in casam.err
