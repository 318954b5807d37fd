"""Which runs take no prompts, told without torch."""

from __future__ import annotations

from pathlib import Path

from casam_cache.engine.runs import RECORD, read_record

WITHOUT_PROMPTS = "segmenter"  # the kind of their stage


def takes_no_prompts(run: Path | str) -> bool:
    """Whether a folder is that of a fitted head without prompts.

    Raises:
        CasamError: its record is damaged.
    """
    return (Path(run) / RECORD).is_file() and read_record(Path(run)).kind == WITHOUT_PROMPTS
