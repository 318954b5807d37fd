"""The name of a set of weights: one hash over all tensors, whatever file they came in. Needs no torch.

`fit` and a repeated `encode` only have to know *which* weights a checkpoint holds, and must not read 2.5 GB
or import
torch to find out: the fingerprint of a checkpoint file is remembered by path, size and modification time in
the cache folder, and of a small safetensors file simply computed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from casam_cache.fingerprint import digest, digest_arrays
from casam_cache.folders import cache_folder

_MEMO = "fingerprints.json"
_READ_AT_ONCE = 256 * 2**20


def weights_fingerprint(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 over named weights as float32, in the order of their names, as 64 hexadecimal digits.

    Names are those of `segment_anything`'s Sam state dict (image_encoder.*, prompt_encoder.*,
    mask_decoder.*), so the same weights in a .pth and in a safetensors file, or stored as float16, have the
    same fingerprint.
    """
    return digest_arrays((name, np.asarray(array, dtype=np.float32)) for name, array in arrays)


def known_fingerprint(path: Path) -> str | None:
    """The fingerprint of a checkpoint file, None where only loading it can tell (which then remembers it)."""
    try:
        key = _key(path)
    except OSError:
        return None
    remembered = _read_memo().get(key)
    if remembered is not None:
        return remembered
    if path.suffix != ".safetensors" or path.stat().st_size > _READ_AT_ONCE:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        fingerprint = weights_fingerprint(load_file(path).items())
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # bfloat16, which numpy lacks, or a damaged file: loading it will say which
    remember_fingerprint(path, fingerprint)
    return fingerprint


def remember_fingerprint(path: Path, fingerprint: str) -> None:
    """Note the fingerprint of a checkpoint file; a cache folder that cannot be written only costs time."""
    folder = cache_folder()
    try:
        memo = {**_read_memo(), _key(path): fingerprint}
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{_MEMO}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(memo, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(temporary, folder / _MEMO)
    except OSError:
        return


def _key(path: Path) -> str:
    path = path.resolve()
    stat = path.stat()
    return digest([str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino])


def _read_memo() -> dict[str, str]:
    try:
        memo = json.loads((cache_folder() / _MEMO).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memo if isinstance(memo, dict) else {}
