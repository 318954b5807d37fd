"""What every head is: a map of image embeddings, and optionally a mask decoder of its own.

`run_head` takes embeddings through a head and the mask decoder: the one path of training, evaluation and prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import BaseModel
from torch import nn

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts
from casam_cache.fingerprint import generator

if TYPE_CHECKING:
    from casam_cache.training.items import Items
    from casam_cache.training.step import Pairs


class Head(nn.Module):
    """A module between a frozen encoder and a mask decoder.

    A head maps embeddings (B, C, g, g) to embeddings of the same shape. One that also replaces the decoder
    sets `mask_decoder`; None means the backbone's frozen one. Everything in `parameters()` that requires a
    gradient is trained, and nothing of the backbone is.

    Most heads define `forward` alone. One that reads more than the embedding names it in `needs` and overrides
    `align` or `decode`; one that adds prompts overrides `prompt_tokens`. Training, evaluation and prediction all
    call these through `run_head`. One that is taught something else than masks overrides `lesson`.

    Attributes:
        name: in the registry, files and tables.
        Options: model of its options; what is saved of a head are these.
        needs: what it reads of an image: `embedding` always; `early`, `tokens` of the store; `valid`, which cells of
            the grid hold image, float32 0 or 1 (B, g, g).
        replaces_sam: whether it answers without SAM's mask decoder, so that the frozen SAM is no state of it.
        begins_as_frozen: whether untrained it is the frozen SAM, or as good as.
        options: the validated options the head was built from.
        mask_decoder: its own mask decoder (the type that `Backbone.decoder_to_copy` gives), or None.
        augments: whether its images are changed at random while it is trained; for what reads pixels.
        class_maps: how many maps of an image it predicts, one a class, without looking at prompts; 0: it answers them.
    """

    name: ClassVar[str]
    Options: ClassVar[type[BaseModel]]
    needs: ClassVar[tuple[str, ...]] = ("embedding",)
    replaces_sam: ClassVar[bool] = False
    options: BaseModel
    mask_decoder: nn.Module | None
    begins_as_frozen: bool = False
    augments: bool = False
    class_maps: int = 0

    def __init__(self, options: BaseModel) -> None:
        super().__init__()
        self.options = options
        self.mask_decoder = None

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Image embeddings (B, C, g, g) -> embeddings (B, C, g, g) for the mask decoder."""
        raise NotImplementedError

    def align(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """All that the head `needs`, by name, (B, ...) each -> embeddings (B, C, g, g) for the mask decoder."""
        aligned: torch.Tensor = self(features["embedding"])
        return aligned

    def embed_prompts(
        self, backbone: Backbone, prompts: Prompts, classes: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `decode` gets of P prompts as `sparse` (P, ...) and `dense` (P, ...): the backbone's embeddings.

        Args:
            backbone: frozen.
            prompts: on its device, in input pixels.
            classes: int64 (P,), the class of what each prompt means; None where nobody says.
        """
        return backbone.embed_prompts(prompts)

    def mask_side(self, backbone: Backbone) -> int:
        """Side L of the masks that it is trained on: 4g, that of SAM's own."""
        return backbone.low_res

    def check_masks(self, item: str, classes: Sequence[int]) -> None:
        """Whether it can say anything of an image's masks; asked where `class_maps` is not 0.

        Args:
            item: name of the image, for messages.
            classes: of its masks.

        Raises:
            CasamError: it cannot.
        """

    def lesson(self, items: Items, backbone: Backbone) -> Callable[[Pairs], torch.Tensor] | None:
        """What it minimises in the place of the masks' loss: a loss, 0-d, of a step's images; None: that of the masks.

        Asked once a fit. Nothing that it returns may draw random numbers.

        Args:
            items: that it is trained on, views among them.
            backbone: frozen, on the device of training.
        """
        return None

    def prompt_tokens(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Tokens (B, n, C) to append to the sparse prompt embeddings of each image's prompts; None for none."""
        return None

    def decode(
        self,
        backbone: Backbone,
        features: Mapping[str, torch.Tensor],
        aligned: torch.Tensor,
        image_index: torch.Tensor | None,
        sparse: torch.Tensor,
        dense: torch.Tensor,
        multimask: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (P, 1 or 3, 4g, 4g) and IoU estimates (P, 1 or 3) of P prompts on the B images.

        Args:
            backbone: frozen.
            features: what the head `needs`, by name.
            aligned: what `align` gave, (B, C, g, g).
            image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
            sparse: prompt embeddings (P, n, C), the head's own tokens included.
            dense: prompt embeddings (P, C, g, g).
            multimask: three masks a prompt instead of one.
        """
        return backbone_for(self, backbone).decode(aligned, image_index, sparse, dense, multimask)

    @classmethod
    def build(cls, options: BaseModel, backbone: Backbone, seed: int) -> Head:
        """A new head, also one into which saved weights are loaded.

        Override it where `__init__` takes something else than (options, backbone, seed).

        Args:
            options: an instance of `Options`.
            backbone: whose dimensions, and for some whose decoder it starts from.
            seed: what the initial weights depend on, beside options and backbone.
        """
        return cls(options, backbone, seed)  # type: ignore[call-arg]

    def trained(self) -> Iterator[nn.Parameter]:
        """The parameters that the optimiser steps."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def rates(self, learning_rate: float) -> list[tuple[float, list[nn.Parameter]]]:
        """What is stepped at which learning rate; together all of `trained`.

        Args:
            learning_rate: of the recipe.
        """
        return [(learning_rate, list(self.trained()))]

    def trained_parameters(self) -> int:
        """How many numbers are trained, as the paper counts parameters."""
        return sum(parameter.numel() for parameter in self.trained())


def backbone_for(head: Head, backbone: Backbone) -> Backbone:
    """The backbone a head decodes with: the frozen one, or one that holds the head's own mask decoder."""
    return backbone if head.mask_decoder is None else backbone.with_decoder(head.mask_decoder)


def run_head(
    head: Head,
    backbone: Backbone,
    features: Mapping[str, torch.Tensor],
    image_index: torch.Tensor | None,
    sparse: torch.Tensor,
    dense: torch.Tensor,
    multimask: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A head and its decoder on P embedded prompts and B images, with whatever gradients are asked for.

    Args:
        head: on the backbone's device.
        backbone: whose mask decoder is used unless the head has its own.
        features: everything the head `needs`, by name: float32 (B, ...) on the device.
        image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
        sparse: prompt embeddings (P, n, C).
        dense: prompt embeddings (P, C, g, g).
        multimask: three masks a prompt instead of one.

    Returns:
        The aligned embedding (B, C, g, g), float32 logits (P, 1 or 3, 4g, 4g), IoU estimates (P, 1 or 3).
    """
    aligned = head.align(features)
    low_res, iou = decode_aligned(head, backbone, features, aligned, image_index, sparse, dense, multimask)
    return aligned, low_res, iou


def decode_aligned(
    head: Head,
    backbone: Backbone,
    features: Mapping[str, torch.Tensor],
    aligned: torch.Tensor,
    image_index: torch.Tensor | None,
    sparse: torch.Tensor,
    dense: torch.Tensor,
    multimask: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The second half of `run_head`: for further prompts on images that went through `Head.align` already.

    Args:
        head: on the backbone's device.
        backbone: whose mask decoder is used unless the head has its own.
        features: everything the head `needs`, by name: float32 (B, ...) on the device.
        aligned: what `Head.align` gave for them, (B, C, g, g).
        image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
        sparse: prompt embeddings (P, n, C).
        dense: prompt embeddings (P, C, g, g).
        multimask: three masks a prompt instead of one.

    Returns:
        float32 logits (P, 1 or 3, 4g, 4g), IoU estimates (P, 1 or 3).
    """
    sparse = with_tokens(sparse, head.prompt_tokens(features), image_index)
    return head.decode(backbone, features, aligned, image_index, sparse, dense, multimask)


def with_tokens(
    sparse: torch.Tensor, added: torch.Tensor | None, image_index: torch.Tensor | None
) -> torch.Tensor:
    """Prompt embeddings (P, n, C) with a head's own tokens (B, m, C) of each prompt's image behind them."""
    if added is None:
        return sparse
    own = added if image_index is None else added.index_select(0, image_index)
    return torch.cat([sparse, own], dim=1)


@torch.no_grad()
def predict_low_res(
    head: Head,
    backbone: Backbone,
    features: torch.Tensor | Mapping[str, torch.Tensor],
    prompts: Prompts,
    image_index: torch.Tensor | None = None,
    *,
    multimask: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Low-res logits for P prompts on B images, without gradients.

    Args:
        head: on the backbone's device.
        backbone: prompt encoder and frozen mask decoder.
        features: everything the head `needs`, by name, (B, ...) as stored, any dtype, on any device; the embedding
            (B, C, g, g) alone for a head that needs no more.
        prompts: P prompts in input pixels (`Geometry.to_input`, `boxes_to_input`).
        image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
        multimask: three masks a prompt instead of one.

    Returns:
        float32 logits (P, 1 or 3, 4g, 4g) and the IoU head's estimates (P, 1 or 3). `upscale` of
        `casam_cache.backbones.decoder` brings logits to the image's size; a mask is where they exceed 0.
    """
    device = backbone.device
    sparse, dense = head.embed_prompts(backbone, prompts.to(device), None)
    named = {"embedding": features} if isinstance(features, torch.Tensor) else features
    moved = {name: tensor.to(device).float() for name, tensor in named.items()}
    index = None if image_index is None else image_index.to(device)
    _, low_res, iou = run_head(head, backbone, moved, index, sparse, dense, multimask)
    return low_res, iou


def draw_uniform(module: nn.Module, fan_in: int, *belongs_to: str | int) -> None:
    """Fills a convolution's weight and bias as torch does by default: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Each tensor has a generator of its own, named by `belongs_to` and the tensor's name: neither torch's
    global state nor what was built before matters, and the numbers do not change with the torch release.
    """
    bound = fan_in**-0.5
    with torch.no_grad():
        for tensor_name, parameter in module.named_parameters():
            drawn = generator(*belongs_to, tensor_name).uniform(-bound, bound, size=tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))
