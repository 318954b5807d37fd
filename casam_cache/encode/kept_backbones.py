"""In a folder of runs, once for each backbone: copies of what lies beside the stores, so that its runs need none.

RUNS/backbones/FINGERPRINT.safetensors    as in DIR/.backbones of a folder of stores, see `sources`
RUNS/backbones/FINGERPRINT.json           the same with the SHA-256 of each file and of itself
RUNS/backbones/source-SHA256.py           as there
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from casam_cache.encode.sources import FOLDER, files_of, stated_in
from casam_cache.errors import CheckpointError
from casam_cache.fingerprint import digest, digest_file
from casam_cache.references import COPY
from casam_cache.store.files import disk_errors

KEPT = "backbones"


def keep_backbone(stores: Path, fingerprint: str, runs: Path) -> dict[str, Any]:
    """Keeps what prediction needs of a store's backbone; a file that is there and whole is left alone.

    Args:
        stores: folder of stores.
        fingerprint: of the store's backbone.
        runs: folder of runs.

    Returns:
        `{"model", "backbone": its class as `BACKBONES.describe` gives it, "checkpoint": where it was, or None}`.

    Raises:
        CheckpointError: it is missing beside the stores.
        StoreError: the disk is full or read-only.
    """
    beside, into = stores / FOLDER, runs / KEPT
    stated = stated_in(beside, fingerprint)
    if stated is None:
        raise CheckpointError(
            f"nothing in {beside} says which backbone the store was encoded with",
            "run the same casam encode command again: it writes the file without encoding anything",
        )
    weights, about = files_of(into, fingerprint)
    names = [weights.name]
    if "source" in stated["backbone"]:
        names.append(COPY.format(stated["backbone"]["source"]["sha256"][:16]))
    sums = {}
    for name in names:
        with disk_errors(beside / name, "cannot read"):
            content = (beside / name).read_bytes()
        sums[name] = hashlib.sha256(content).hexdigest()
        _put(into / name, content)
    kept = {**stated, "files": sums}
    _put(about, (json.dumps({**kept, "digest": digest(kept)}, indent=1) + "\n").encode())
    return stated


def damaged_backbones(runs: Path) -> list[str]:
    """What is wrong with the backbones that a folder of runs keeps, a line each; the name of the file comes first."""
    wrong = []
    for about in sorted((runs / KEPT).glob("*.json")):
        try:
            stated = json.loads(about.read_text())
            if stated.pop("digest") != digest(stated):
                raise ValueError
            files = dict(stated["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            wrong.append(f"{about} is not what was written")
            continue
        for name, sha256 in files.items():
            path = about.parent / Path(name).name
            if not path.is_file() or digest_file(path) != sha256:
                wrong.append(f"{path} is missing or not what was written")
    return wrong


def _put(path: Path, content: bytes) -> None:
    with disk_errors(path):
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two runs, or two threads of one, may write it at once.
        partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        partial.write_bytes(content)
        os.replace(partial, path)
