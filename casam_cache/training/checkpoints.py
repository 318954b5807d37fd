"""Checkpoints of a fit: whole or absent, and never another fit's."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from casam_cache.errors import CasamError

CHECKPOINT = "checkpoint.pt"
_SUM = hashlib.sha256().digest_size


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the checkpoint in `folder`; a kill at any instant leaves the old one or the new one.

    The file is the SHA-256 of what follows it, and what `torch.save` makes of the state.
    """
    data = io.BytesIO()  # torch.save into a file that cannot grow fails without saying why
    torch.save(state, data)
    payload = data.getbuffer()
    partial = folder / f"{CHECKPOINT}.partial"
    with partial.open("wb") as file:
        file.write(hashlib.sha256(payload).digest())
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / CHECKPOINT)


def read_checkpoint(
    folder: Path, key: str, warn: Callable[[str], None] | None = None
) -> dict[str, Any] | None:
    """The checkpoint in `folder`, on the CPU; None if there is none, or none that can be trusted.

    Args:
        folder: where `write_checkpoint` wrote.
        key: what the fit is named; another fit's checkpoint is refused.
        warn: called with a line if there is one that is not what was written.

    Raises:
        CasamError: if it belongs to a fit with other options, data or seed.
    """
    path = folder / CHECKPOINT
    try:
        data = memoryview(path.read_bytes())
        if hashlib.sha256(data[_SUM:]).digest() != data[:_SUM]:
            raise ValueError("its checksum is another one")
        state: dict[str, Any] = torch.load(io.BytesIO(data[_SUM:]), map_location="cpu", weights_only=True)
        found = state["key"]
    except FileNotFoundError:
        return None
    except Exception:  # torch raises many types for what another release of it wrote
        if warn:
            warn(f"the checkpoint in {folder} is damaged: this fit begins anew")
        return None
    if found != key:
        raise CasamError(
            f"{path} belongs to a fit with other options, data or seed", "use another folder, or remove it"
        )
    return state
