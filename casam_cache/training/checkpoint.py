"""The state of an unfinished fit on disk: replaced atomically after every epoch, never half-written."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from casam_cache.errors import CasamError

FILE = "checkpoint.pt"
_DIGEST = 32  # bytes of SHA-256 after the state


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the checkpoint in `folder`; a kill at any instant leaves the old one or the new one."""
    data = io.BytesIO()  # torch.save into a file that cannot grow fails without saying why
    torch.save(state, data)
    data.write(
        hashlib.sha256(data.getbuffer()).digest()
    )  # torch.load does not notice a flipped bit of a tensor
    partial = folder / f"{FILE}.partial"
    with partial.open("wb") as file:
        file.write(data.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / FILE)


def read_checkpoint(folder: Path, key: str) -> dict[str, Any] | None:
    """The checkpoint in `folder`, on the CPU; None if there is none.

    Args:
        folder: where `write_checkpoint` wrote.
        key: what the fit is named; another fit's checkpoint is refused.

    Raises:
        CasamError: if it cannot be read or belongs to a fit with other options, data or seed.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
        data, sha256 = content[:-_DIGEST], content[-_DIGEST:]
        if hashlib.sha256(data).digest() != sha256:
            raise ValueError("it is damaged")
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        found = state["key"]
    except Exception as error:  # torch raises many types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CasamError(f"cannot resume from {path}: {reason}", f"start this fit anew: rm {path}") from None
    if found != key:
        raise CasamError(
            f"{path} belongs to a fit with other options, data or seed", "use another folder, or remove it"
        )
    return state
