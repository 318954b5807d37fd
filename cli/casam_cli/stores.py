"""Options that name stores: a folder, or an address of a bucket, which a folder of the user's cache stands for."""

from __future__ import annotations

from pathlib import Path

from casam_cache.errors import OptionError
from casam_cli import console


def stores_folder(text: str | Path) -> Path:
    """The folder, or the one that stands for the address.

    Raises:
        CasamError: the address cannot be read.
    """
    if "://" not in str(text):
        return Path(text)
    from casam_cache.store.bucket_cache import local_stores

    with console.bar(str(text), "files") as bar:
        return local_stores(str(text), bar.update, console.show_line)


def folder_only(text: str | Path) -> Path:
    """A folder on this machine.

    Raises:
        OptionError: it is an address.
    """
    if "://" in str(text):
        raise OptionError(
            f"{text}: stores are written into a folder",
            "encode into one, then casam store copy DIR " + str(text),
        )
    return Path(text)
