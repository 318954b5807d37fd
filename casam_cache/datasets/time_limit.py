"""A limit on how long one file may take to decode, for a thread cannot be stopped from outside.

The work runs in a thread of its own, which is left behind when time is over: it is a daemon, so that it does not keep
the program from ending. That holds in any thread and in worker processes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from casam_cache.errors import ImageError

VARIABLE = "CASAM_DECODE_SECONDS"
DEFAULT_SECONDS = 300.0
T = TypeVar("T")


def limit_seconds() -> float:
    """What the environment variable `CASAM_DECODE_SECONDS` says, else 300; nonsense counts as not said."""
    try:
        seconds = float(os.environ.get(VARIABLE, ""))
    except ValueError:
        return DEFAULT_SECONDS
    return seconds if 0 < seconds <= threading.TIMEOUT_MAX else DEFAULT_SECONDS


def within_limit(path: Path, work: Callable[[], T]) -> T:
    """What `work` gives or raises, if it ends in time.

    Args:
        path: the file that is being decoded, for the message.
        work: what decodes it.

    Raises:
        ImageError: it took too long; the thread that works on it is left behind.
    """
    seconds = limit_seconds()
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # handed on to whoever waits
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="decode one file", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise ImageError(
            f"{path}: not decoded after {seconds:g} seconds, given up",
            f"look at the file and the disk; {VARIABLE}=SECONDS in the environment waits longer",
        )
    result, error = outcome[0]
    if error is not None:
        try:
            raise error
        finally:  # else the traceback keeps itself, and the arrays in it
            outcome.clear()
            del error
    return result  # type: ignore[return-value]  # of a run that raised nothing
