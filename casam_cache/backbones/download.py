"""Fetch an official checkpoint into the cache folder: resumed where it stopped, verified, then renamed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from casam_cache.errors import CheckpointError
from casam_cache.folders import CACHE_VARIABLE, cache_folder
from casam_cache.locks import Lock

DownloadProgress = Callable[[int, int], None]
"""Called with (bytes done, bytes in total); the total is 0 while the server has not said it."""

_BLOCK = 1 << 17  # what a dropped connection loses at most
_ATTEMPTS = 3
_TIMEOUT = (15.0, 60.0)  # seconds to connect, seconds without a byte


def download(
    url: str, sha256: str, filename: str, folder: Path | None = None, progress: DownloadProgress | None = None
) -> Path:
    """The file at `url`, from the cache folder or downloaded into it.

    An interrupted download leaves `FILENAME.part`, and the next call goes on from there. The file appears
    under its name by one rename, after its SHA-256 was checked, so a file that is there is whole and is not
    hashed again.

    Args:
        url: http or https address.
        sha256: of the file, 64 hexadecimal digits.
        filename: its name in the folder.
        folder: where to keep it; the cache folder by default.
        progress: called with (bytes done, bytes in total).

    Raises:
        CheckpointError: unreachable, refused, corrupt, or the folder cannot be written.
        HeldError: another process is downloading it.
    """
    folder = cache_folder() if folder is None else folder
    target = folder / filename
    if target.is_file():
        return target
    by_hand = (
        f"check the connection and run this again (it goes on where it stopped), or fetch the file "
        f"yourself to {target}, or pass a local file: --checkpoint FILE"
    )
    import pooch
    import requests

    part = folder / f"{filename}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Lock(folder / f"{part.name}.lock", f"is downloading {target}"), _quiet_pooch():
            for resumed in (part.exists() and part.stat().st_size > 0, False):
                try:
                    pooch.retrieve(
                        url,
                        f"sha256:{sha256}",
                        filename,
                        folder,
                        downloader=_ResumingDownloader(part, progress),
                    )
                    break
                except ValueError as error:  # pooch's word for another hash; it has removed the file
                    if isinstance(error, requests.RequestException):
                        raise
                    if not resumed:
                        raise CheckpointError(
                            f"the file from {url} is corrupt: its SHA-256 is not {sha256}; it was removed",
                            by_hand,
                        ) from error
    except requests.RequestException as error:
        raise CheckpointError(f"cannot download {url}: {_reason(error)}", by_hand) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error.strerror or error}",
            f"free space there, choose another folder with {CACHE_VARIABLE}=DIR, or pass --checkpoint FILE",
        ) from error
    return target


class _ResumingDownloader:
    """A pooch downloader that appends to a part file of its own and hands it over when it is whole."""

    def __init__(self, part: Path, progress: DownloadProgress | None) -> None:
        self.part = part
        self.progress = progress

    def __call__(
        self, url: str, output_file: str | IO[bytes], _pooch: Any, *, check_only: bool = False
    ) -> None:
        import requests

        assert isinstance(output_file, str | os.PathLike)
        assert not check_only
        attempt = 0
        while True:
            before = _size(self.part)
            try:
                self._transfer(url)
                break
            except requests.HTTPError:
                raise
            except requests.RequestException:
                # A dropped connection is normal over gigabytes; only several in a row without a byte are a
                # failure.
                attempt = 0 if _size(self.part) > before else attempt + 1
                if attempt >= _ATTEMPTS or before == _size(self.part) == 0:
                    raise
        os.replace(self.part, output_file)

    def _transfer(self, url: str) -> None:
        import requests

        done = _size(self.part)
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                if response.headers.get("Content-Range", "") == f"bytes */{done}":
                    return  # the part is whole already
                self.part.unlink()
                raise requests.ConnectionError("the partial file does not belong to the file on the server")
            response.raise_for_status()
            continues = response.status_code == requests.codes.partial_content
            if not continues:
                done = 0
            total = done + int(response.headers.get("Content-Length", 0))
            with self.part.open("ab" if continues else "wb") as file:
                for block in response.iter_content(_BLOCK):
                    file.write(block)
                    done += len(block)
                    if self.progress is not None:
                        self.progress(done, total)
            if done < total:
                raise requests.ConnectionError(f"the connection ended after {done} of {total} bytes")


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {response.reason}"
    text = str(error)
    return text if len(text) < 160 else f"{type(error).__name__} (no connection)"
