"""What every refusal must look like, and the tiny SAM by name."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Casam

SHORT = ("--task", "discs", "--epochs", 1, "--set", "blocks=1")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }  # fmt: skip


def refused(casam: Casam, *words: str) -> None:
    """One error of a message and a hint, with all of `words`, exit code 1, no traceback, nothing on stdout."""
    assert casam.code == 1
    assert "Traceback" not in casam.err
    assert casam.err.count("error: ") == 1
    message, _, hint = casam.err[casam.err.index("error: ") :].strip().partition("\n")
    assert len(message) > len("error: ") + 10
    assert hint.strip(), "a hint says what to do"
    for word in words:
        assert word in casam.err
    assert casam.out == "" or set(json.loads(casam.out)) <= {"error", "tasks"}


def tiny(checkpoint: Path) -> tuple[object, ...]:
    return ("--model", "small", "--checkpoint", checkpoint, "--name", "tiny")
