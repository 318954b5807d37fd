"""Run by test_store_crash.py in a process of its own: writers that die at every step, or that wait to be killed.

store_crash.py write FOLDER              one whole life of a store, slowly enough to be killed
store_crash.py every FOLDER STEP DTYPE   die before (or in the middle of) every STEP-th change to the disk
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from store_fakes import FAILS, feature, fill, tree

from casam_cache.store import EmbeddingStore
from casam_cache.store.quantise import dequantise, quantise
from casam_cache.store.verify import verify

KILLED = 9


def die_at(step: int) -> None:
    """Count every change to the disk and end the process at one of them, a write being half done."""
    left = step

    def wrap(name: str) -> None:
        original: Callable[..., Any] = getattr(os, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                if name == "write":
                    original(args[0], bytes(args[1])[: len(args[1]) // 2])
                os._exit(KILLED)
            return original(*args, **kwargs)

        setattr(os, name, counted)

    for name in ("replace", "rename", "write", "unlink", "mkdir", "ftruncate"):
        wrap(name)


def check_left(path: Path, dtype: str) -> None:
    """Whatever the kill left, what is committed is intact and `verify` finds no damage."""
    if not (path / "zarr.json").exists():
        return
    store = EmbeddingStore.open(path)
    for name in store.arrays:
        for item in np.flatnonzero(store.committed(name)).tolist():
            if item not in FAILS:
                wanted = feature(name, item)
                if dtype == "int8":
                    wanted = dequantise(*quantise(wanted))
                np.testing.assert_array_equal(store.read(item, name), wanted)
    report = verify(path)
    assert report.sound, report.describe()


def die_everywhere(folder: Path, stride: int, dtype: str) -> int:
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # a kill leaves the page cache intact
    fill(folder / "whole" / "x.zarr", commit_seconds=0, dtype=dtype)
    whole = tree(folder / "whole")
    step = 0
    while True:
        path = folder / "killed" / "x.zarr"
        shutil.rmtree(path.parent, ignore_errors=True)
        child = os.fork()
        if child == 0:
            die_at(step)
            fill(path, commit_seconds=0, dtype=dtype)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return step
        assert code == KILLED, f"died of itself at step {step}"
        check_left(path, dtype)
        fill(path, commit_seconds=0, dtype=dtype)
        assert tree(path.parent) == whole, f"other bytes after a kill at step {step}"
        step += stride


if __name__ == "__main__":
    target = Path(sys.argv[2])
    if sys.argv[1] == "write":
        fill(target, commit_seconds=0, pause=lambda: time.sleep(0.005))
    else:
        print(die_everywhere(target, int(sys.argv[3]), sys.argv[4]))
