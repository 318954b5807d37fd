"""How much of the disk the shards read from buckets may take, and which of them go when it is more.

At most $CASAM_BUCKET_GIB; without it half of what there is for them: what they take now and what is free beside. The
shards that were not used for the longest time go first; those used within the last hour stay, since a command may be at
them. One that goes while a process has it open stays readable there.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from casam_cache.errors import OptionError
from casam_cache.folders import cache_folder

VARIABLE = "CASAM_BUCKET_GIB"
IN_USE = 3600.0  # seconds
GIB = 2**30


def buckets_folder() -> Path:
    """A folder for each bucket; need not exist."""
    return cache_folder() / "buckets"


def room() -> tuple[int, int]:
    """Bytes that the files read from buckets take, and that they may take.

    Raises:
        OptionError: $CASAM_BUCKET_GIB is no number, or below 0.
    """
    folder = buckets_folder()
    held = sum(size for _, size, _ in _files(folder))
    stated = os.environ.get(VARIABLE)
    if stated is None:
        return held, (held + shutil.disk_usage(_nearest(folder)).free) // 2
    try:
        limit = float(stated)
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise OptionError(f"{VARIABLE} is '{stated}'", "a number of GiB from 0, e.g. 20")
    return held, int(limit * GIB)


def note_use(shard: Path) -> None:
    """Notes that a shard of a bucket is used now."""
    with suppress(OSError):
        os.utime(shard)


def make_room(is_shard: Callable[[Path], bool], say: Callable[[str], None] | None = None) -> int:
    """Removes shards until the rest fits; they are read again when they are needed.

    Args:
        is_shard: whether a file is one, by its path.
        say: takes a line for a person, where any was removed.

    Returns:
        How many were removed.

    Raises:
        OptionError: see `room`.
    """
    held, limit = room()
    if held <= limit:
        return 0
    now, before, gone = time.time(), held, 0
    for used, size, path in sorted(_files(buckets_folder())):
        if held <= limit:
            break
        if now - used > IN_USE and is_shard(path):
            with suppress(OSError):  # gone, or open where an open file cannot be removed
                path.unlink()
                held, gone = held - size, gone + 1
    if gone and say is not None:
        say(
            f"removed {gone} shards that were read from buckets and not used for longest, {(before - held) / GIB:.2f} "
            f"GiB, from {buckets_folder()}: at most {limit / GIB:.2f} GiB stay ({VARIABLE})"
        )
    return gone


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, bytes and path of every file."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            state = path.stat()
            if path.is_file():
                yield state.st_mtime, state.st_size, path


def _nearest(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
