"""Killed at any instant, a rerun loses nothing committed and ends with the bytes of an uninterrupted run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_fakes import fill, tree

SCRIPT = Path(__file__).with_name("store_crash.py")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL")


def run(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill_at_random(folder: Path, times: int, seed: int) -> int:
    fill(folder / "whole" / "x.zarr", commit_seconds=0)
    whole = tree(folder / "whole")
    path = folder / "killed" / "x.zarr"
    chance = random.Random(seed)
    kills = 0
    while True:
        process = run("write", path)
        deadline = time.monotonic() + 60
        start = None
        limit = chance.uniform(0, 0.4) if kills < times else 60
        while process.poll() is None and time.monotonic() < deadline:
            if start is None and path.parent.exists():  # it has begun to write
                start = time.monotonic()
            if start is not None and time.monotonic() - start > limit:
                process.kill()
                kills += 1
                break
            time.sleep(0.001)
        error = process.communicate()[1]
        if process.returncode == 0:
            assert tree(path.parent) == whole
            return kills
        assert process.returncode == -9, error


@pytest.mark.slow
def test_killed_at_random_instants(tmp_path: Path) -> None:
    assert kill_at_random(tmp_path, times=20, seed=1) > 0


@pytest.mark.slow
def test_killed_at_many_random_instants(tmp_path: Path) -> None:
    total = seed = 0
    while total < 50:  # a fast machine is done with a store before many of its kills
        total += kill_at_random(tmp_path / str(seed), times=12, seed=seed + 2)
        seed += 1
        assert seed <= 200


def every_step(folder: Path, stride: int, dtype: str = "float16") -> None:
    process = run("every", folder, stride, dtype)
    output, error = process.communicate(timeout=280)
    assert process.returncode == 0, error
    assert int(output) > 200


def test_killed_at_every_25th_change_to_the_disk(tmp_path: Path) -> None:
    every_step(tmp_path, 25)


@pytest.mark.slow
def test_killed_at_every_third_change_to_the_disk(tmp_path: Path) -> None:
    every_step(tmp_path, 3)


@pytest.mark.slow
def test_an_int8_store_killed_at_every_fifth_change_to_the_disk(tmp_path: Path) -> None:
    every_step(tmp_path, 5, "int8")
