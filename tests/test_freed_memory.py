"""Freed memory stays with a process of `casam` and with those it starts, unless the environment says otherwise."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

AGAIN = """
import ctypes, json, resource, subprocess, sys
from casam_cli.freed_memory import keep_freed_memory

done = len(sys.argv) > 1 and keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def once(size=40 * 2**20):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    once()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
child = sys.argv[1:] == ["parent"] and subprocess.run(
    [sys.executable, "-c", sys.stdin.read()], capture_output=True, text=True, check=True
)
print(json.dumps({"done": done, "faults": faults, "child": child and json.loads(child.stdout)}))
"""


def ran(*arguments: str, **environment: str) -> dict[str, object]:
    """The script in a process without settings of its own but `environment`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    for name in ("GLIBC_TUNABLES", "LD_PRELOAD"):
        clean.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, *arguments],
        env={**clean, **environment}, input=AGAIN, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_a_block_that_is_asked_for_again_costs_no_new_pages() -> None:
    default, kept = ran(), ran("parent")
    assert (default["done"], kept["done"]) == (False, True)
    pages = 40 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert int(str(default["faults"])) > 10 * pages
    assert int(str(kept["faults"])) < pages
    child = kept["child"]
    assert isinstance(child, dict)
    assert child["faults"] < pages, "by the environment alone"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=2")]
)
def test_what_the_environment_chooses_stays(name: str, value: str) -> None:
    assert ran("alone", **{name: value})["done"] is False
