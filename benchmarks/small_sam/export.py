"""The averaged weights of a run as the safetensors file that the package ships, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from model import SMALL, Sam, resized

from casam_cache.backbones.architecture import Architecture
from casam_cache.fingerprint import canonical_json, digest_file

CHECKPOINT = "checkpoint.pt"


def export(folder: Path, out: Path, architecture: Architecture = SMALL) -> Path:
    """Write the averaged weights of a run as `out`/small.safetensors with its line in `out`/SHA256SUMS."""
    from safetensors.torch import save_file

    state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    weights = dict(sorted(resized(state["average"], Sam(architecture).state_dict()).items()))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "small.safetensors"
    fresh = out / "small.safetensors.new"
    described = {"architecture": canonical_json(architecture.to_json()), "name": "small"}
    save_file(weights, fresh, metadata=described)
    _sort_metadata(fresh)
    fresh.chmod(0o644)
    fresh.replace(path)
    (out / "SHA256SUMS").write_text(f"{digest_file(path)}  {path.name}\n")
    return path


def _sort_metadata(path: Path) -> None:
    """Rewrite a safetensors header canonically: its metadata is written in the order of a hash map."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
