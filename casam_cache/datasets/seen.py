"""What lies in a folder that no reader recognises, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.listing import entries, is_folder, walk

_LOOKED_AT = 5000
_FOLDERS, _KINDS = 8, 5
_ANNOTATIONS = (".json", ".xml", ".txt", ".csv")
_NO_ANNOTATIONS = ("readme", "license", "licence", "classes.", "split.", "requirements")


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


def unread_annotations(path: Path) -> list[str]:
    """Files in and below a folder that may be annotations of a layout that nobody reads, sorted; three at most."""
    try:
        names = [name for name, _ in islice(walk(path), _LOOKED_AT)]
    except OSError:
        return []
    texts = [name for name in names if PurePosixPath(name).suffix.lower() in _ANNOTATIONS]
    return [name for name in texts if not PurePosixPath(name).name.lower().startswith(_NO_ANNOTATIONS)][:3]


def other_folders(path: Path, read: Iterable[str]) -> list[str]:
    """Folders directly in `path` that hold images and are none of those that are read; four at most."""
    known = {folder.split("/")[0] for folder in read}
    inside = [entry for entry in entries(path) if is_folder(entry) and entry.name not in known]
    return [entry.name for entry in inside if _any_image(Path(entry.path))][:4]


def _any_image(folder: Path) -> bool:
    try:
        names = [name for name, _ in islice(walk(folder), 100)]
    except OSError:
        return False
    return any(PurePosixPath(name).suffix.lower() in image_suffixes() for name in names)


def _kind(name: str) -> str:
    suffixes = PurePosixPath(name).suffixes[-2:]
    whole = "".join(suffixes) if suffixes and suffixes[-1].lower() == ".gz" else "".join(suffixes[-1:])
    return whole.lower() or "without a suffix"
