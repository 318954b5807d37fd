"""Which runs take no prompts, told without torch."""

from __future__ import annotations

from pathlib import Path

from casam_cache.engine.runs import RECORD, read_record

WITHOUT_PROMPTS = "segmenter"  # the kind of the stage of a head that gives a map of classes
FINDS_OBJECTS = "proposals"  # of one that finds objects


def takes_no_prompts(run: Path | str) -> bool:
    """Whether a folder is that of a fitted head without prompts.

    Raises:
        CasamError: its record is damaged.
    """
    return _kind(run) in (WITHOUT_PROMPTS, FINDS_OBJECTS)


def finds_objects(run: Path | str) -> bool:
    """Whether it is one that finds objects, and gives no map of classes."""
    return _kind(run) == FINDS_OBJECTS


def _kind(run: Path | str) -> str:
    return read_record(Path(run)).kind if (Path(run) / RECORD).is_file() else ""
