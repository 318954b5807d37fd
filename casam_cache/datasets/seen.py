"""What lies in a folder that no reader recognises, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from casam_cache.datasets.listing import walk

_LOOKED_AT = 5000
_FOLDERS, _KINDS = 8, 5


def describe_contents(path: Path, folders: Sequence[str]) -> str:
    """The folders directly in `path` and the kinds of files in and below it, with an example."""
    text = (
        f"it holds the folders {', '.join(folders[:_FOLDERS])}{', ...' if len(folders) > _FOLDERS else ''}"
        if folders
        else "it holds no folder"
    )
    try:
        names = [name for name, _ in islice(walk(path), _LOOKED_AT)]
    except OSError:
        return text
    kinds = Counter(_kind(name) for name in names)
    if not kinds:
        return f"{text}, and no file"
    at_least = "at least " if len(names) == _LOOKED_AT else ""
    counted = ", ".join(f"{at_least}{count} {kind}" for kind, count in kinds.most_common(_KINDS))
    more = f" and {len(kinds) - _KINDS} other kinds" if len(kinds) > _KINDS else ""
    example = next(name for name in names if _kind(name) == kinds.most_common(1)[0][0])
    return f"{text}, and files of the kinds {counted}{more}, for example {example}"


def _kind(name: str) -> str:
    suffixes = PurePosixPath(name).suffixes[-2:]
    whole = "".join(suffixes) if suffixes and suffixes[-1].lower() == ".gz" else "".join(suffixes[-1:])
    return whole.lower() or "without a suffix"
