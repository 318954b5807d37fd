"""Only regular files are opened: reading a pipe, a socket or a device could wait, or go on, for ever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from casam_cache.errors import ImageError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def check_regular(path: Path) -> None:
    """Refuse whatever is no regular file or link to one, without opening it.

    Raises:
        ImageError: says what it is instead, or why it cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        raise ImageError(f"{path}: no permission to read it", f"chmod u+r '{path}'") from None
    except FileNotFoundError:
        reason = "a link to a file that does not exist" if path.is_symlink() else "there is no such file"
        raise ImageError(f"{path}: {reason}", "restore the file, or remove it from the dataset") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.ELOOP:
            reason = "a link that leads to itself"
        raise ImageError(f"{path}: {reason}", "restore the file, or remove it from the dataset") from None
    if stat.S_ISREG(mode):
        return
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
    link = f"a link to {kind}" if path.is_symlink() else kind
    raise ImageError(f"{path}: {link}, not a file", "put the file there, or remove it from the dataset")
