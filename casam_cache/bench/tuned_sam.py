"""The SAM that a run has trained through the image, as a backbone: it encodes, and its decoder lies beside the stores.

Where the encoder has adapters, images pass it in the form in which it was trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from casam_cache.backbones.architecture import Architecture
from casam_cache.backbones.base import EMBEDDING, Backbone, Fetch, Forward
from casam_cache.backbones.checkpoints import ENCODER, MASK_DECODER, PROMPT_ENCODER
from casam_cache.backbones.cost import tiny_vit_flops, vit_flops
from casam_cache.backbones.published import Dimensions, PublishedSam, neck_scale
from casam_cache.backbones.tinyvit import TinyArchitecture
from casam_cache.bench.opened_run import open_run
from casam_cache.bench.tuned_run import TUNED, TunedRun
from casam_cache.errors import CheckpointError, OptionError
from casam_cache.fingerprint import weights_fingerprint
from casam_cache.heads.image_sam import ImageSam

_OF_A_RUN = CheckpointError(
    "an encoder that a run has tuned: casam encode DIR --run RUN encodes with it",
    "name the run of casam fit --method sam-full, or of another method that trains the encoder",
)


class TunedSam(PublishedSam):
    """A published SAM, ViT or TinyViT, with the encoder and mask decoder of a run of `docs/image-mode.md`.

    Its description is that of the SAM it began from, and under "tuned" the run, its method and the first weights.
    """

    name = TUNED
    source = "runs of casam fit --method sam-full and others"
    about = "the encoder that a run has trained: casam encode DIR --run RUN"

    def __init__(self, *parts: Any, **others: Any) -> None:
        super().__init__(*parts, **others)
        self._began: Backbone | None = None
        self._adapted = False

    @classmethod
    def load(
        cls,
        checkpoint: Path | None,
        *,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """The SAM of a run.

        Args:
            checkpoint: the run's folder, or head.safetensors in it.
            device: where to put it.
            progress: unused: what the run began from is where its stores were encoded.

        Raises:
            CasamError: the run is gone, damaged or has no encoder of its own, or the checkpoint it began from is gone.
            OptionError: it began from a backbone that is no published SAM.
        """
        if checkpoint is None:
            raise _OF_A_RUN
        run = TunedRun.open(Path(checkpoint))
        opened = open_run(run.folder, device=str(device), pixels=True)
        began, head = opened.backbone, opened.head
        assert isinstance(head, ImageSam)
        if not isinstance(began, PublishedSam):
            raise OptionError(
                f"{run.folder} was fitted on {began.name}, which is a backbone of your own",
                "encoders of published SAMs alone, ViT and TinyViT, can encode once they are tuned",
            )
        encoder, decoder = head.tuned_encoder(), head.mask_decoder
        assert encoder is not None
        assert decoder is not None
        own = began.description.get(TUNED, {})
        described = {
            "method": run.method,
            "run": run.key,
            "from": began.fingerprint,
            **({"stand_in": began.stand_in} if began.stand_in else {}),
            **({"of": own} if own else {}),
        }
        parts = {ENCODER: encoder, PROMPT_ENCODER: began.prompt_encoder, MASK_DECODER: decoder}
        state = {
            f"{prefix}{name}": tensor for prefix, part in parts.items() for name, tensor in _all_of(part)
        }
        made = cls(
            {**began.description, TUNED: described}, encoder, began.prompt_encoder, decoder,
            fingerprint=weights_fingerprint((name, tensor.cpu().float().numpy()) for name, tensor in state.items()),
            checkpoint=run.folder / "head.safetensors", neck=neck_scale(state), name=run.store_name,
        )  # fmt: skip
        made.image_a_core, made.recipe = began.image_a_core, began.recipe  # type: ignore[misc]
        made.own_preset = made.preset = began.preset  # type: ignore[misc]
        made._began = began
        made._adapted = len(_all_of(encoder)) != len(_all_of(began.encoder))
        made._flops = began.encoder_flops() + (made._further_flops(began) if made._adapted else 0)
        made._began = copy.copy(began)
        made._began.encoder = None
        return made

    @property
    def stand_in(self) -> str:
        """What is said of the SAM it began from."""
        return str(self._description[TUNED].get("stand_in", ""))

    @classmethod
    def dimensions(cls, description: Mapping[str, Any]) -> Dimensions:
        plain = {key: value for key, value in description.items() if key != TUNED}
        made = TinyArchitecture if plain.get("encoder") == TinyArchitecture.kind else Architecture
        return made.from_json(plain)

    @classmethod
    def architecture_of(cls, path: Path | None) -> Dimensions:
        if path is None:
            raise _OF_A_RUN
        return cls.dimensions(TunedRun.open(path).identity["backbone"]["architecture"])

    @classmethod
    def own_checkpoint(cls, progress: Callable[[int, int], None] | None = None) -> Path:
        raise _OF_A_RUN

    @classmethod
    def here(cls) -> Path | None:
        return None

    @classmethod
    def get(cls) -> str:
        return "casam encode DIR --run RUN"

    @classmethod
    def weights_here(cls) -> str:
        return f"those of a run: {cls.get()}"

    @classmethod
    def to_fetch(cls, checkpoint: Path | None) -> Fetch | None:
        """There is nothing to fetch: where the run is gone, so is its encoder."""
        return None if checkpoint is not None else Fetch("", {})

    @classmethod
    def flops_of(cls, architecture: Any) -> int:
        return (
            tiny_vit_flops(architecture)
            if isinstance(architecture, TinyArchitecture)
            else vit_flops(architecture)
        )

    def encoder_flops(self) -> int:
        """Of the SAM it began from, and what torch counts more than that where adapters stand beside it."""
        return super().encoder_flops() if self._flops is None else self._flops

    def encode(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        return self.plain_encoding()(images, names)

    def encoding(self, settings: Mapping[str, Any]) -> Forward:
        """The faster form of the SAM it began from, where no adapters stand in the encoder and there is but one."""
        own = self._of_its_kind()
        return own.plain_encoding() if self._adapted or own.settings else own.encoding({})

    def plain_encoding(self) -> Forward:
        return self._of_its_kind().plain_encoding()

    def _of_its_kind(self) -> Backbone:
        """The SAM it began from with this encoder, which may have been moved or replaced since."""
        assert self._began is not None
        began = copy.copy(self._began)
        began.encoder, began.mask_decoder = self.encoder, self.mask_decoder
        return began

    def _further_flops(self, began: Backbone) -> int:
        image = torch.zeros((1, 3, self.image_size, self.image_size), device=self.device)
        counted = []
        for each in (self, began):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                each.plain_encoding()(image, (EMBEDDING,))
            counted.append(counter.get_total_flops())
        return int(counted[0] - counted[1])


def _all_of(module: nn.Module | None) -> list[tuple[str, Tensor]]:
    """Weights and buffers by name, whatever of them a head's file holds."""
    assert module is not None
    return [(name, tensor.detach()) for name, tensor in (*module.named_parameters(), *module.named_buffers())]
