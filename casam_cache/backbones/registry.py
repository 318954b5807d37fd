"""The backbones this package knows by name, and where their checkpoints are. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.errors import CheckpointError, unknown_name

WEIGHTS = Path(__file__).parent.parent / "weights"
OFFICIAL = "https://dl.fbaipublicfiles.com/segment_anything"
REINSTALL = "reinstall the package: pip install --force-reinstall --no-deps casam-cache"


@dataclass(frozen=True)
class KnownModel:
    """A backbone by name.

    Attributes:
        name: what `--model` takes.
        description: one line for a person.
        filename: of the checkpoint, in the download cache or among the package's weights.
        sha256: of that file, not the MD5 whose first digits its name carries; None for the bundled one, whose
            sum is in the package's SHA256SUMS.
        size: of that file, bytes; None for the bundled one.
    """

    name: str
    description: str
    filename: str
    sha256: str | None = None
    size: int | None = None

    @property
    def bundled(self) -> bool:
        """Whether the package ships the checkpoint."""
        return self.sha256 is None

    @property
    def url(self) -> str | None:
        """The official address, None for a bundled model."""
        return None if self.bundled else f"{OFFICIAL}/{self.filename}"

    @property
    def architecture(self) -> Architecture:
        """The dimensions: fixed for the official models, written in the file for the bundled one.

        Raises:
            CheckpointError: the bundled file is missing or says nothing of its architecture.
        """
        if not self.bundled:
            return ARCHITECTURES[self.name]
        stated = stated_architecture(self.bundled_path())
        if stated is None:
            raise CheckpointError(f"{self.bundled_path()} does not state its architecture", REINSTALL)
        return stated

    def bundled_path(self) -> Path:
        """The bundled checkpoint file.

        Raises:
            CheckpointError: it is not there.
        """
        path = WEIGHTS / self.filename
        if not path.is_file():
            raise CheckpointError(f"the bundled checkpoint {path} is missing", REINSTALL)
        return path

    def bundled_sha256(self) -> str:
        """The SHA-256 that the package's SHA256SUMS states for the bundled checkpoint."""
        sums = WEIGHTS / "SHA256SUMS"
        lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
        for digits, name in (line.split() for line in lines if len(line.split()) == 2):
            if name.lstrip("*") == self.filename:
                return digits
        raise CheckpointError(f"{sums} does not state the sum of {self.filename}", REINSTALL)


MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            "small", "bundled stand-in for demos and CPUs, not a medical-grade SAM", "small.safetensors"
        ),
        KnownModel(
            "vit_b",
            "Segment Anything ViT-B, 91 M parameters",
            "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375_042_383,
        ),
        KnownModel(
            "vit_l",
            "Segment Anything ViT-L, 308 M parameters",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1_249_524_607,
        ),
        KnownModel(
            "vit_h",
            "Segment Anything ViT-H, 636 M parameters",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2_564_550_879,
        ),
    )
}


def model_names() -> list[str]:
    """The names `--model` takes."""
    return list(MODELS)


def known_model(name: str) -> KnownModel:
    """The model of that name.

    Raises:
        OptionError: there is none; the message lists those there are.
    """
    if name not in MODELS:
        raise unknown_name("model", name, model_names())
    return MODELS[name]


def stated_architecture(path: Path) -> Architecture | None:
    """The architecture in a safetensors file's metadata, None where it states none or is another format."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    modified = path.stat()
    return _read_architecture(path, modified.st_size, modified.st_mtime_ns)


@cache
def _read_architecture(path: Path, _size: int, _modified: int) -> Architecture | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        return (
            Architecture.from_json(json.loads(metadata["architecture"]))
            if "architecture" in metadata
            else None
        )
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors checkpoint: {error}", "copy or download the file again"
        ) from error


def local_checkpoints() -> dict[str, str]:
    """Where each model's checkpoint is on this machine, or that it would be fetched; fetches nothing."""
    from casam_cache.folders import cache_folder

    found = {}
    for model in MODELS.values():
        folder = WEIGHTS if model.bundled else cache_folder()
        path = folder / model.filename
        found[model.name] = (
            str(path) if path.is_file() else f"not here yet, from {model.url or 'the package'}"
        )
    return found
