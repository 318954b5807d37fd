"""Readers by name: installed ones, registered ones, or a class in a file: `my_file.py:MyReader`."""

from __future__ import annotations

from casam_cache.datasets.base import Reader
from casam_cache.errors import CasamError
from casam_cache.registry import Registry

READERS: Registry[Reader] = Registry("reader", Reader, "casam_cache.readers", options=False)


def every_reader() -> list[type[Reader]]:
    """All that are known, to be asked whether they recognise a folder.

    None is left out: one that cannot be asked may be the one that the folder is meant for.

    Raises:
        CasamError: one cannot be imported.
    """
    try:
        return list(READERS.all().values())
    except CasamError as error:
        error.hint = "mend or uninstall its package, or name the reader that is meant, e.g. --reader folder"
        raise
