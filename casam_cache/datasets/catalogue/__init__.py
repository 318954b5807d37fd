"""Public datasets by name: what they are, where they come from, and which reader takes them as they are distributed."""

from __future__ import annotations

import re

from casam_cache.datasets.catalogue.entry import Entry
from casam_cache.datasets.catalogue.others import OTHERS
from casam_cache.datasets.catalogue.paper import TASKS, UNSEEN
from casam_cache.errors import unknown_name

ENTRIES: tuple[Entry, ...] = (*TASKS, *UNSEEN, *OTHERS)

__all__ = ["ENTRIES", "Entry", "find_entry", "get_entry"]


def find_entry(name: str) -> Entry | None:
    """The entry of that name, or of that other name, whatever its case, dashes and blanks."""
    return _KNOWN.get(_plain(name))


def get_entry(name: str) -> Entry:
    """As `find_entry`.

    Raises:
        OptionError: there is none; the message lists those there are.
    """
    found = find_entry(name)
    if found is None:
        raise unknown_name("dataset", name, [entry.name for entry in ENTRIES])
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


_KNOWN = {_plain(name): entry for entry in ENTRIES for name in (*entry.aliases, entry.name)}
