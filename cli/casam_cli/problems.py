"""Problems as lines on the screen: of many that say the same of other files, the first few and their number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Line = TypeVar("_Line")
_VARIES = re.compile(r"\S*[\d/\\.']\S*")


def first_of_each_kind(
    lines: Iterable[_Line], most: int, text: Callable[[_Line], str] = str
) -> Iterator[tuple[_Line, int]]:
    """The first `most` lines of each kind in their order, each with how many of its kind follow and are left out.

    The number is 0 but at the last one shown. Lines are of one kind where they differ in names and numbers alone.
    """
    listed = [(line, _VARIES.sub("*", text(line))) for line in lines]
    counts = Counter(kind for _, kind in listed)
    seen: Counter[str] = Counter()
    for line, kind in listed:
        seen[kind] += 1
        if seen[kind] <= most:
            yield line, counts[kind] - most if seen[kind] == most else 0
