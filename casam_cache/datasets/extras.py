"""Libraries of formats that not everybody needs: imported when such a file is met, with the install line if missing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from casam_cache.errors import ImageError

INSTALL = "pip install 'casam-cache[medical]'"


def extra(module: str, path: Path, what: str) -> Any:
    """A module of the extra `medical`.

    Args:
        module: its name, e.g. `nibabel`.
        path: the file that needs it.
        what: kind of the file, e.g. `NIfTI`.

    Raises:
        ImageError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        needed = module.partition(".")[0]
        raise ImageError(f"{path}: reading {what} needs {needed}, which is not installed", INSTALL) from None
