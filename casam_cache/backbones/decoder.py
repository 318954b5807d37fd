"""SAM's prompt encoder and mask decoder behind any encoder, batched over images with one or more prompts each.

`segment_anything`'s MaskDecoder.forward repeats *one* image for all prompts, so batches of images need a loop. Here
each prompt says which image it belongs to. The modules and the arithmetic are upstream's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from casam_cache.backbones.architecture import build_decoder
from casam_cache.backbones.base import EMBEDDING, Backbone
from casam_cache.backbones.checkpoints import ENCODER, MASK_DECODER, PROMPT_ENCODER
from casam_cache.backbones.decoder_file import DecoderFile, read_decoder, write_decoder
from casam_cache.backbones.prompts import NOT_A_POINT, Prompts
from casam_cache.fingerprint import weights_fingerprint


class SamDecoding(Backbone):
    """A backbone with SAM's prompt encoder and mask decoder; what it encodes with is its own.

    A subclass defines `load`, `preprocessing`, `normalise` and `encode`, and keeps this `__init__`. Its description
    holds under "decoder" what `build_decoder` takes, or it overrides `decoder_modules`.

    Args:
        description: see `Backbone.description`.
        encoder: anything that `encode` calls; None where only the decoder was loaded.
        prompt_encoder, mask_decoder: `segment_anything`'s; they say image and patch size and the channels.
        fingerprint: of all weights; computed if all are here.
        checkpoint: as in `Backbone`.
        neck: as in `Backbone`.
        name: as in `Backbone`.
        flops: of one image's encoding; counted where the encoder is.
    """

    prompt_encoder: nn.Module
    mask_decoder: nn.Module

    def __init__(
        self,
        description: Mapping[str, Any],
        encoder: nn.Module | None,
        prompt_encoder: nn.Module,
        mask_decoder: nn.Module,
        *,
        fingerprint: str | None = None,
        checkpoint: Path | None = None,
        neck: tuple[float, float] = (0.0, 1.0),
        name: str | None = None,
        flops: int | None = None,
    ) -> None:
        self._description = dict(description)
        self.encoder, self.prompt_encoder, self.mask_decoder = encoder, prompt_encoder, mask_decoder
        for module in self._modules().values():
            module.eval().requires_grad_(False)
        upstream: Any = prompt_encoder
        self.image_size, self.channels = upstream.input_image_size[0], upstream.embed_dim
        self.patch_size = self.image_size // upstream.image_embedding_size[0]
        self.checkpoint, self.neck, self.name = checkpoint, neck, name or type(self).name
        if fingerprint is None:
            if encoder is None:
                raise ValueError("without the encoder the fingerprint of all weights must be given")
            weights = ((key, tensor.cpu().float().numpy()) for key, tensor in backbone_state(self).items())
            fingerprint = weights_fingerprint(weights)
        self.fingerprint = fingerprint
        self._flops = flops
        self._dense_pe: dict[torch.device, Tensor] = {}

    @property
    def description(self) -> dict[str, Any]:
        return copy.deepcopy(self._description)

    @property
    def device(self) -> torch.device:
        return next(self.mask_decoder.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Moves the modules (in place, as `nn.Module.to` does) and returns a backbone that holds them."""
        moved = copy.copy(self)
        if self.encoder is not None:
            moved.encoder = self.encoder.to(device)
        moved.prompt_encoder = self.prompt_encoder.to(device)
        moved.mask_decoder = self.mask_decoder.to(device)
        return moved

    def encoder_flops(self) -> int:
        """Counted by torch on an empty image: matrix products and convolutions only."""
        if self._flops is None:
            side = self.image_size
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                self.encode(torch.zeros((1, 3, side, side), device=self.device), (EMBEDDING,))
            self._flops = counter.get_total_flops()
        return self._flops

    def dense_pe(self) -> Tensor:
        """Positional encoding of the embedding grid, float32 (1, C, g, g), computed once a device."""
        device = self.device
        if device not in self._dense_pe:
            # An inference tensor could not be saved for a backward pass, and bf16 would ruin the phases.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
                self._dense_pe[device] = self.prompt_encoder.get_dense_pe()  # type: ignore[operator]
        return self._dense_pe[device]

    def prepare_decoding(self) -> None:
        self.dense_pe()

    def embed_prompts(self, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """SAM's PromptEncoder, without its boolean indexing (which makes a GPU wait for the host).

        Positions are encoded in float32 also under autocast: bf16 has not the digits for their phases.

        Returns:
            sparse: float32 (P, n, C), n = `prompts.token_count`.
            dense: float32 (P, C, g, g); without mask prompts a view of one C-vector that occupies no memory.
        """
        encoder: Any = self.prompt_encoder
        packed = prompts.pack()
        count = len(packed)
        with torch.autocast(self.device.type, enabled=False):
            if packed.points is None or packed.labels is None:
                sparse = torch.empty((count, 0, self.channels), device=self.device)
            else:
                side = self.image_size
                position = encoder.pe_layer.forward_with_coords(packed.points.float() + 0.5, (side, side))
                kinds = [encoder.not_a_point_embed.weight, *(e.weight for e in encoder.point_embeddings)]
                labels = packed.labels.long()
                position = torch.where(
                    (labels == NOT_A_POINT)[..., None], torch.zeros_like(position), position
                )
                sparse = position + torch.cat(kinds)[labels - NOT_A_POINT]
            if packed.masks is not None:
                return sparse, encoder.mask_downscaling(packed.masks.float())
            grid = self.grid
            return sparse, encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(count, -1, grid, grid)

    def decode(
        self,
        embedding: Tensor,
        image_index: Tensor | None,
        sparse: Tensor,
        dense: Tensor,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """SAM's MaskDecoder: three masks a prompt with `multimask`, else one; see `Backbone.decode`."""
        decoded = decode_further(self, embedding, image_index, sparse, dense, multimask)
        return decoded.low_res, decoded.iou

    @classmethod
    def decoder_modules(cls, description: Mapping[str, Any]) -> tuple[nn.Module, nn.Module]:
        """Prompt encoder and mask decoder of a description, their weights to be replaced."""
        return build_decoder(**description["decoder"])

    def save_decoder(self, path: Path) -> None:
        """Writes prompt encoder and mask decoder, the description and the fingerprint of *all* weights into one file.

        Training from a store needs this file (16 MB for the official models), not the checkpoint. It appears by one
        rename, and equal backbones give equal bytes.
        """
        state = {
            key: tensor.cpu().contiguous()
            for key, tensor in backbone_state(self).items()
            if not key.startswith(ENCODER)
        }
        about = DecoderFile(self.name, self._description, self.fingerprint, self.neck, self.encoder_flops())
        write_decoder(path, about, state)

    @classmethod
    def load_decoder(cls, path: Path, device: torch.device | str = "cpu") -> Self:
        about, state = read_decoder(path)
        with torch.random.fork_rng(devices=[]):
            prompt_encoder, mask_decoder = cls.decoder_modules(about.description)
        load_state(prompt_encoder, state, PROMPT_ENCODER)
        load_state(mask_decoder, state, MASK_DECODER)
        return cls(
            about.description, None, prompt_encoder, mask_decoder, fingerprint=about.fingerprint,
            neck=about.neck, name=about.name, flops=about.encoder_flops,
        ).to(device)  # fmt: skip

    def _modules(self) -> dict[str, nn.Module]:
        modules = {PROMPT_ENCODER: self.prompt_encoder, MASK_DECODER: self.mask_decoder}
        return modules if self.encoder is None else {ENCODER: self.encoder, **modules}


def backbone_state(backbone: SamDecoding) -> dict[str, Tensor]:
    """The tensors of the parts that are loaded, under the names of `segment_anything`'s Sam state dict."""
    return {
        f"{prefix}{name}": tensor.detach()
        for prefix, module in backbone._modules().items()
        for name, tensor in module.state_dict().items()
    }


def load_state(module: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    """Puts those of the named tensors that begin with `prefix` into a module, copied as float32."""
    own = {
        key.removeprefix(prefix): tensor.detach().to(torch.float32, copy=True).contiguous()
        for key, tensor in state.items()
        if key.startswith(prefix)
    }
    module.load_state_dict(own, strict=True, assign=True)


@dataclass(frozen=True)
class DecoderOutput:
    """What SAM's mask decoder gives, and what a decoder built on it reads.

    Attributes:
        low_res: float32 logits (P, 3 or 1, 4g, 4g).
        iou: float32 (P, 3 or 1).
        upscaled: (P, C / 8, 4g, 4g), the image features that mask tokens are multiplied with.
        further: (P, m, C), the further tokens after the transformer.
    """

    low_res: Tensor
    iou: Tensor
    upscaled: Tensor
    further: Tensor


def decode_further(
    backbone: SamDecoding,
    image_embeddings: Tensor,
    image_index: Tensor | None,
    sparse: Tensor,
    dense: Tensor,
    multimask: bool,
    further: Tensor | None = None,
) -> DecoderOutput:
    """SAM's MaskDecoder with m further output tokens beside its own.

    Gradients flow to the embeddings, the prompt embeddings, and to decoder parameters that ask for them.
    Under bf16 autocast normalisation and the final product of mask tokens and pixels stay float32.

    Args:
        backbone: whose SAM mask decoder to use.
        image_embeddings: (B, C, g, g).
        image_index: int64 (P,), the image of each prompt; None when prompt i belongs to image i.
        sparse: (P, n, C).
        dense: (P, C, g, g), an expanded view where there is no mask prompt.
        multimask: the three masks for ambiguous prompts instead of the single one.
        further: (m, C), output tokens that stand behind SAM's own.
    """
    decoder: Any = backbone.mask_decoder
    count = len(sparse)
    output = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    own = torch.cat(output if further is None else [*output, further])
    tokens = torch.cat([own.expand(count, -1, -1), sparse], dim=1)
    if image_index is None and len(image_embeddings) != count:
        raise ValueError(f"{count} prompts on {len(image_embeddings)} images need an image_index")
    source = image_embeddings if image_index is None else image_embeddings.index_select(0, image_index)
    source = source.float() + dense
    channels, rows, columns = source.shape[1:]

    queries, keys = decoder.transformer(source, backbone.dense_pe(), tokens)
    upscaled = normalise_in_float(
        decoder.output_upscaling, keys.transpose(1, 2).reshape(count, channels, rows, columns)
    )
    chosen = range(1, decoder.num_mask_tokens) if multimask else range(1)
    hyper = torch.stack([decoder.output_hypernetworks_mlps[i](queries[:, 1 + i]) for i in chosen], dim=1)
    with torch.autocast(source.device.type, enabled=False):
        low_res = (hyper.float() @ upscaled.float().flatten(2)).unflatten(2, upscaled.shape[2:])
    iou = decoder.iou_prediction_head(queries[:, 0])[:, chosen.start : chosen.stop]
    behind = queries[:, 1 + decoder.num_mask_tokens : len(own)]
    return DecoderOutput(low_res, iou.float(), upscaled, behind)


def normalise_in_float(sequence: nn.Module, features: Tensor) -> Tensor:
    """Run an nn.Sequential with float32 input to each of its modules.

    A no-op in float32. Under autocast convolutions still run in bf16, but SAM's LayerNorm2d, which is written
    out in means and powers that autocast does not know as a normalisation, gets float32.
    """
    for module in sequence.children():
        features = module(features.float())
    return features
