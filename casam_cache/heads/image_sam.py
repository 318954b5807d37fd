"""A SAM trained through the image: what cached heads are compared with. Nothing is read from the cache but masks.

The mask decoder is trained, and of the encoder nothing, all, or, W the frozen weight of queries or of values

    W + B A, A of `rank` rows, B zero at first          (LoRA, its alpha at the rank)

in every block, or adapters in every block (`encoder_adapters`). Batch norms of a TinyViT keep the statistics that they
were trained with.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn.utils import parametrize

from casam_cache.backbones.base import EMBEDDING, Backbone
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.decoder_parts import LowRank, folded, save_trained_alone
from casam_cache.heads.encoder_adapters import ADAPTERS, add_adapters
from casam_cache.heads.options import ImageSamOptions


class ImageSam(Head):
    """A copy of a backbone's mask decoder and, where it is trained, of its encoder.

    Args:
        options: which part of the encoder is trained.
        backbone: with its encoder; it is never changed itself.
        seed: of A, with `encoder=lora`, and of adapters.
    """

    name = "image-sam"
    Options = ImageSamOptions
    needs = ("pixels", "input_size")

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        super().__init__(options)
        assert isinstance(options, ImageSamOptions)
        if backbone.encoder is None:
            raise CasamError(
                f"a SAM trained through the image needs the encoder of {backbone.name}, which is not loaded here",
                "casam predict and casam evaluate load it",
            )
        decoder = backbone.decoder_to_copy(self.name)
        self.mask_decoder = copy.deepcopy(decoder).requires_grad_(True)
        # Held so that the module does not own it: what stays frozen is neither moved, trained nor saved.
        self._frozen = (backbone,)
        self.encoder: nn.Module | None = None
        if options.encoder != "none":
            self.encoder = copy.deepcopy(backbone.encoder).requires_grad_(options.encoder == "all")
            if options.encoder == "lora":
                _add_low_rank(self.encoder, options.rank, seed)
            elif options.encoder in ADAPTERS:
                add_adapters(self.encoder, options.encoder, seed)
                save_trained_alone(self.encoder)

    def align(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Pixels (B, 3, S, S), the values of uint8, and the sizes (B, 2) of the images -> embeddings (B, C, g, g)."""
        backbone = self._frozen[0]
        images = backbone.normalise(features["pixels"].to(torch.uint8), features["input_size"].long())
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder is not None):
            embedding: torch.Tensor = self._encoding()(images, (EMBEDDING,))[EMBEDDING]
        return embedding

    def tuned_encoder(self) -> nn.Module | None:
        """A copy of the encoder as it was trained, low-rank matrices added to the weights; None for the frozen one."""
        if self.encoder is None:
            return None
        assert isinstance(self.options, ImageSamOptions)
        trained = folded(self.encoder)
        # All of it is saved, unlike of what is trained.
        whole: nn.Module = copy.deepcopy(cast(nn.Module, self._frozen[0].encoder))
        if self.options.encoder in ADAPTERS:
            add_adapters(whole, self.options.encoder, 0)
        whole.load_state_dict(dict([*trained.named_parameters(), *trained.named_buffers()]))
        return whole

    def _encoding(self) -> Any:
        """Made anew for each pass: what a backbone prepares once is of weights that change here."""
        if self.encoder is None:
            return self._frozen[0].plain_encoding()
        own = copy.copy(self._frozen[0])
        own.encoder = self.encoder
        return own.plain_encoding()


class QueryValueRank(nn.Module):
    """W + B A in the rows of queries and of values of a joint weight of queries, keys and values.

    Args:
        weight: (3 * width, width).
        heads: where each head's queries, keys and values stand together; 1 where all queries come first.
        rank: rows of each A.
        belongs_to: what A is drawn for.
    """

    def __init__(self, weight: torch.Tensor, heads: int, rank: int, *belongs_to: str | int) -> None:
        super().__init__()
        outputs, self._heads = weight.shape[0] // 3, heads
        own = weight.detach()[:outputs]
        self.query = LowRank(own, rank, *belongs_to, "q")
        self.value = LowRank(own, rank, *belongs_to, "v")

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """(3 * width, width) -> (3 * width, width)."""
        parts = weight.unflatten(0, (self._heads, 3, -1))
        query, key, value = parts.unbind(1)
        added = [
            (part.flatten(0, 1) + low.b @ low.a).unflatten(0, (self._heads, -1))
            for part, low in ((query, self.query), (value, self.value))
        ]
        return torch.stack([added[0], key, added[1]], 1).flatten(0, 2)


def _add_low_rank(encoder: nn.Module, rank: int, seed: int) -> None:
    """Beside `qkv` of every attention; a TinyViT has each head's queries, keys and values together.

    Raises:
        CasamError: the encoder has no such layer.
    """
    modules = encoder.named_modules()
    found = [(name, one) for name, one in modules if isinstance(getattr(one, "qkv", None), nn.Linear)]
    if not found:
        raise CasamError(
            "the encoder has no attention with a joint layer `qkv`, beside which LoRA learns",
            "choose --method sam-full, or another backbone",
        )
    for name, module in found:
        attention: Any = module
        biases = getattr(attention, "attention_biases", None)
        heads = 1 if biases is None else len(biases)
        low = QueryValueRank(attention.qkv.weight, heads, rank, seed, "lora", name)
        parametrize.register_parametrization(attention.qkv, "weight", low.to(attention.qkv.weight.device))
    save_trained_alone(encoder)
