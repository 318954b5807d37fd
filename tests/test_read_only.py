"""Stores and runs on a file system that can only be read, really mounted so, in a namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Casam

pytestmark = pytest.mark.slow
Encode = Callable[..., Any]

MOUNTED = """
for folder in "$STORES" "$RUNS"; do
    mount --bind "$folder" "$folder" && mount -o remount,bind,ro "$folder" || exit 9
done
exec "$PYTHON" -c "$DRIVER"
"""
DRIVER = """
import contextlib, io, json, sys
from casam_cli.main import run
said = []
for command in json.load(sys.stdin):
    sys.argv, out, err, code = ["casam", *command], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run()
        except SystemExit as error:
            code = error.code or 0
    said.append((code, out.getvalue(), err.getvalue()))
json.dump(said, sys.stdout)
"""
FIT = ("fit", "--task", "discs", "--epochs", "1", "--set", "blocks=1", "--device", "cpu")
HEAD = (
    "fit",
    "--task",
    "discs",
    "--head",
    "fcn",
    "--set",
    "min_steps=2",
    "--set",
    "max_steps=2",
    "--device",
    "cpu",
)
BENCH = ("bench", "--methods", "naive", "--tasks", "discs", "--unseen", "none", "--epochs", "1", "--set", "blocks=1",
         "--device", "cpu")  # fmt: skip
SEARCH = ("search", "--head", "alignment", "--tasks", "discs", "--trials", "1", "--set", "max_steps=2", "--set",
          "min_steps=2", "--device", "cpu")  # fmt: skip


@pytest.fixture
def read_only(casam: Casam) -> Callable[..., list[tuple[int, str, str]]]:
    """Commands in one process that can only read `casam_store` and `casam_runs`: (exit code, output, errors)."""
    unshare = shutil.which("unshare")
    mounted = unshare and subprocess.run(
        [unshare, "-rm", "sh", "-c", "mount --bind . . && mount -o remount,bind,ro ."],
        cwd=casam.folder,
        check=False,
    )
    if not mounted or mounted.returncode:
        pytest.skip("no mount can be made here: unshare -rm is missing or forbidden")

    def run(*commands: tuple[object, ...]) -> list[tuple[int, str, str]]:
        done = subprocess.run(
            [str(unshare), "-rm", "sh", "-c", MOUNTED], cwd=casam.folder, check=True, text=True,
            input=json.dumps([[str(part) for part in command] for command in commands]), stdout=subprocess.PIPE,
            env={**os.environ, "STORES": "casam_store", "RUNS": "casam_runs", "PYTHON": sys.executable,
                 "DRIVER": DRIVER},
        )  # fmt: skip
        return [(code, out, err) for code, out, err in json.loads(done.stdout)]

    return run


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_finished_is_shown_and_what_is_not_is_refused(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path, read_only: Any
) -> None:
    """A lock that a killed process left in the store is no reason to write into it."""
    encode(discs)
    Path("casam_store/discs/.tiny.lock").write_text("999999\nelsewhere\n")
    tiny = ("--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny", "--device", "cpu")
    encoded = ("encode", discs, *tiny)
    finished = (FIT, HEAD, BENCH, SEARCH)
    run = casam.json(*FIT)["run"]
    for command in finished:
        casam(*command)
        assert casam.code == 0, casam.err
    readers = (
        encoded, ("report", "casam_runs"), ("report", "casam_runs", "--out", "tables"), ("runs", "list"),
        ("runs", "verify"), ("store", "verify", "casam_store/discs/tiny.zarr"), (*FIT, "--runs", "elsewhere"),
        ("predict", "--store", "casam_store", "--task", "discs", "--id", "p000", "--run", run, "--box", "2,2,20,20"),
    )  # fmt: skip
    writers = (
        (*SEARCH, "--trials", 2),
        (*SEARCH, "--seed", 1),
        (*FIT, "--seed", 1),
        (*BENCH, "--seeds", 2),
        (*encoded, "--update", "--views", "flip_h"),
    )
    before = tree(Path("casam_store")) | tree(Path("casam_runs"))
    said = read_only(*finished, *readers, *writers)
    for command, (code, out, err) in zip([*finished, *readers], said, strict=False):
        assert code == 0, (command, err)
        assert "Traceback" not in out + err
    for command, (code, _, err) in zip(writers, said[-len(writers) :], strict=True):
        assert code == 1, command
        assert "ead-only" in err
        assert len(err.strip().splitlines()) <= 4, err
    assert tree(Path("casam_store")) | tree(Path("casam_runs")) == before
