"""Where this user's own files of the project are: downloads, and small notes that only save time."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "CASAM_CACHE_DIR"


def cache_folder() -> Path:
    """$CASAM_CACHE_DIR, or the user's cache folder for casam-cache."""
    stated = os.environ.get(CACHE_VARIABLE)
    if stated:
        return Path(stated).expanduser()
    import pooch

    return Path(pooch.os_cache("casam-cache"))
