"""Where whole files are read and written by name: a folder, or a bucket behind an address (`obstore`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from casam_cache.errors import OptionError, StoreError
from casam_cache.store.files import disk_errors, make_directory, write_file

SCHEMES = ("s3://", "gs://", "file://")
_PATIENCE = {"max_retries": 4}


class Place(Protocol):
    """Files by their names below it, parts parted by `/`; each appears whole or not at all."""

    name: str

    def files(self) -> dict[str, int]:
        """Bytes of each file."""

    def read(self, name: str) -> bytes | None:
        """The content; None where there is no such file."""

    def write(self, name: str, data: bytes) -> None:
        """Puts a file, in the place of an earlier one."""


class FolderPlace:
    """A folder on this machine, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def files(self) -> dict[str, int]:
        with disk_errors(self.path, "cannot read"):
            found = (path for path in self.path.rglob("*") if path.is_file())
            return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in found}

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.path / name}: cannot read: {error.strerror}") from error

    def write(self, name: str, data: bytes) -> None:
        make_directory((self.path / name).parent)
        write_file(self.path / name, data)


class Bucket:
    """An object store behind an address; keys, region and endpoint come from the usual environment variables.

    Args:
        address: of one of `SCHEMES`.
        create: make the folder of a `file://` that is not there.
    """

    def __init__(self, address: str, create: bool = True) -> None:
        try:
            from obstore.store import from_url
        except ImportError:
            raise OptionError(
                f"{address}: addresses need obstore, which is not installed",
                "pip install 'casam-cache[remote]'",
            ) from None
        self.name = address.rstrip("/")
        with self._errors():
            made: Any = {"mkdir": create} if address.startswith("file://") else {"retry_config": _PATIENCE}
            self._store = from_url(self.name, **made)

    def files(self) -> dict[str, int]:
        import obstore

        with self._errors():
            return {meta["path"]: meta["size"] for part in obstore.list(self._store) for meta in part}

    def states(self) -> dict[str, str]:
        """Of each file a text that is another one once its content is: bytes, and what the server says of it."""
        import obstore

        with self._errors():
            found = [meta for part in obstore.list(self._store) for meta in part]
        return {
            meta["path"]: f"{meta['size']} {meta['e_tag'] or meta['last_modified'].isoformat()}"
            for meta in found
        }

    def read(self, name: str) -> bytes | None:
        import obstore

        with self._errors():
            try:
                return bytes(obstore.get(self._store, name).bytes())
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        import obstore

        with self._errors():
            obstore.put(self._store, name, data)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            reason = " ".join(str(error).split("\n\nDebug source")[0].split())
            raise StoreError(
                f"{self.name}: {reason[:300]}",
                "look at the address, the network and the keys (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, "
                "GOOGLE_APPLICATION_CREDENTIALS, ...); the same command goes on from here",
            ) from error


def place_of(text: str, create: bool = True) -> Place:
    """The folder, or what is behind the address; `create` as for `Bucket`.

    Raises:
        OptionError: a scheme that is not known, or obstore is not installed.
        StoreError: the address cannot be used.
    """
    if "://" not in text:
        return FolderPlace(Path(text))
    if not text.startswith(SCHEMES):
        raise OptionError(f"{text}: no such kind of address", f"a folder, or {', '.join(SCHEMES)}...")
    return Bucket(text, create)
