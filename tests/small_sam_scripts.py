"""The modules of benchmarks/small_sam, which lie beside each other and in no package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "benchmarks" / "small_sam"


@contextmanager
def importable(*names: str) -> Iterator[dict[str, ModuleType]]:
    """Imports those modules; afterwards none of the folder is known: their plain names mean nothing elsewhere."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: import_module(name) for name in names}
    finally:
        sys.path.remove(str(FOLDER))
        for path in FOLDER.glob("*.py"):
            sys.modules.pop(path.stem, None)
