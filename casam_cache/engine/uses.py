"""Which finished commands need which stages: what `casam runs list` shows, and `remove --unused` goes by."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage
from casam_cache.fingerprint import digest

FOLDER = "used"


@dataclass(frozen=True)
class Use:
    """A finished command.

    Attributes:
        name: of its note, a file name.
        what: for people.
        stages: KIND/KEY of every stage its result is made from.
        when: seconds since 1970, of the last time.
    """

    name: str
    what: str
    stages: frozenset[str]
    when: float


def note_use(runs: Runs, name: str, what: str, stages: Iterable[Stage]) -> None:
    """Notes that a command's result is made from these stages; the newest note of a name stays.

    A folder that can only be read gets none: the stages were there, and are shown.

    Raises:
        CasamError: the disk is full.
    """
    folder = runs.root / FOLDER
    note = {"name": name, "what": what, "stages": sorted({stage.name for stage in stages})}
    partial = folder / f".{name}.{os.getpid()}.partial"
    with runs.where_writable():
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**note, "digest": digest(note)}, indent=1) + "\n")
        partial.replace(folder / f"{name}.json")


def uses(runs: Runs) -> Iterator[Use]:
    """Every note that is what was written, by name: one flipped digit would make a needed stage an unused one."""
    for path in sorted((runs.root / FOLDER).glob("*.json")):
        try:
            note, when = json.loads(path.read_text()), path.stat().st_mtime
            if note.pop("digest") != digest(note) or note["name"] != path.stem:
                continue
            use = Use(path.stem, str(note["what"]), frozenset(map(str, note["stages"])), when)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        yield use


def unreadable(runs: Runs) -> list[Path]:
    """Notes that cannot be read: what they name is not known to be unused."""
    known = {use.name for use in uses(runs)}
    return sorted(path for path in (runs.root / FOLDER).glob("*.json") if path.stem not in known)
