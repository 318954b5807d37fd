"""The frozen image encoder as the store sees it: uint8 batches in, named float32 features out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casam_cache.backbones.architecture import PIXEL_MEAN, PIXEL_STD, Architecture
from casam_cache.backbones.attention import AUTO, CUDA_FORMS, choose_form
from casam_cache.backbones.blocks import prepare_blocks
from casam_cache.backbones.compiling import compile_fixed
from casam_cache.backbones.decoder import normalise_in_float
from casam_cache.backbones.devices import PRECISIONS
from casam_cache.backbones.sam import Backbone
from casam_cache.errors import OptionError, unknown_name
from casam_cache.fingerprint import generator

FEATURES = ("embedding", "early", "tokens")
TOKENS = 10
TOKEN_SEED = 0
TOKEN_READ = 0


def early_block(architecture: Architecture) -> int:
    """Index of the first block with global attention, whose output is HQ-SAM's early feature."""
    return min(architecture.global_blocks)


def feature_shape(name: str, architecture: Architecture) -> tuple[int, ...]:
    """Shape of one image's feature: embedding (C, g, g), early (width, g, g), tokens (width,).

    Raises:
        OptionError: for an unknown feature.
    """
    grid = architecture.grid
    shapes = {
        "embedding": (architecture.channels, grid, grid),
        "early": (architecture.width, grid, grid),
        "tokens": (architecture.width,),
    }
    if name not in shapes:
        raise unknown_name("feature", name, list(FEATURES))
    return shapes[name]


def feature_identity(name: str, architecture: Architecture) -> dict[str, Any]:
    """What defines a feature beyond the weights and the preprocessing, as JSON data.

    Raises:
        OptionError: for an unknown feature.
    """
    feature_shape(name, architecture)
    if name == "early":
        return {"after_block": early_block(architecture)}
    if name == "tokens":
        return {
            "tokens": TOKENS,
            "seed": TOKEN_SEED,
            "read": TOKEN_READ,
            "attend": "all image tokens of the block's input and themselves, without relative positions",
        }
    return {}


class FrozenEncoder:
    """The image encoder of a backbone, on the device where the backbone is.

    *embedding* is SAM's image embedding. Weights and function are upstream's; its blocks run in a form that
    does less work (`blocks`, `attention`), measured equal to `segment_anything` in float32 to 1e-5 of the
    largest value (tests/test_parity.py).

    *early* is the output of the first block with global attention (the first of HQ-SAM's
    `interm_embeddings`), channels first. If it is all that is asked for, the later blocks do not run.

    *tokens* is MoDA's task token as in its released code: 10 tokens of the ViT's width, drawn once from N(0,
    1) with a fixed seed, pass the frozen blocks beside the patches, and token 0 is read after the last block.
    Upstream's windows and relative positions have no place for tokens that are not on the grid, and the image
    embedding must not change, so here, in windowed and in global blocks alike, with x the block's input and t
    the tokens:

        q = queries of norm1(t);  k, v = keys and values of [norm1(x), norm1(t)], x being all g x g grid
        tokens t <- t + proj(softmax(q k^T / sqrt(head dim)) v);  t <- t + mlp(norm2(t))

    Tokens have no absolute position, their attention no relative position term, and no window padding takes
    part. Image tokens never attend to them: x goes on through the block bit for bit as without tokens.

    On a CPU the items of a batch are encoded one after the other, so that an item's bits depend on no other
    and memory does not grow with the batch; large inputs gain nothing from batches there. On a GPU libraries
    choose kernels by the batch's size: equal bits need batches of equal size, which the store plans.

    Args:
        backbone: with its encoder loaded; moving its modules later is not followed.
        precision: "fp32" (TF32 off), or "bf16": autocast, with LayerNorm and the residual stream in float32.
        attention: a form of `attention.FORMS`, or "auto" for the device's; `self.attention` says which. Forms
            differ in rounding only, but bits that must be reproduced need the same one.
        compiled: run the blocks through `torch.compile`: a minute before the first batch, other last bits.
    """

    def __init__(
        self, backbone: Backbone, precision: str = "fp32", attention: str = AUTO, *, compiled: bool = False
    ) -> None:
        if backbone.encoder is None:
            raise ValueError("this backbone was loaded without its encoder")
        if precision not in PRECISIONS:
            raise OptionError(f"unknown precision '{precision}'", f"available: {', '.join(PRECISIONS)}")
        self.architecture = backbone.architecture
        self.precision = precision
        self.device = backbone.device
        self.attention = choose_form(attention, self.device)
        self._encoder: Any = backbone.encoder
        self._blocks = prepare_blocks(self._encoder, self.architecture.grid, self.attention)
        self._mean = torch.tensor(PIXEL_MEAN, device=self.device).view(-1, 1, 1)
        self._std = torch.tensor(PIXEL_STD, device=self.device).view(-1, 1, 1)
        drawn = generator("moda tokens", TOKEN_SEED).standard_normal((TOKENS, self.architecture.width))
        self._tokens = torch.from_numpy(drawn.astype(np.float32)).to(self.device)
        self.compiled = compiled
        self._forward = compile_fixed(self._run) if compiled else self._run

    @classmethod
    def of(cls, backbone: Backbone, identity: Mapping[str, Any]) -> FrozenEncoder:
        """The encoder that computes as a store of this identity was computed.

        Forms made for CUDA are not used elsewhere, where they cost gigabytes: another device has other last bits.
        """
        attention, compiled = identity.get("attention", AUTO), identity.get("compiled", False)
        if attention in CUDA_FORMS and backbone.device.type != "cuda":
            attention = AUTO
        return cls(backbone, identity["precision"], attention, compiled=compiled)

    def preprocess(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """Sam.preprocess for a batch: normalise, and *then* set the padding to zero.

        Args:
            pixels: uint8 (B, 3, S, S), each image in the top-left corner (`preprocess.stack_inputs`).
            sizes: int64 (B, 2), (h, w) of each image.

        Returns:
            float32 (B, 3, S, S) on the encoder's device.
        """
        side = self.architecture.image_size
        if pixels.shape[1:] != (3, side, side) or pixels.dtype != torch.uint8:
            raise ValueError(
                f"expected uint8 (B, 3, {side}, {side}), got {pixels.dtype} {tuple(pixels.shape)}"
            )
        pixels = pixels.to(self.device, non_blocking=True)
        sizes = sizes.to(self.device, non_blocking=True)
        along = torch.arange(side, device=self.device)
        valid = (along[:, None] < sizes[:, 0, None, None]) & (along < sizes[:, 1, None, None])
        normalised = (pixels - self._mean) / self._std
        return torch.where(valid[:, None], normalised, torch.zeros((), device=self.device))

    @torch.inference_mode()
    def __call__(
        self, pixels: Tensor, sizes: Tensor, features: Sequence[str] = ("embedding",)
    ) -> dict[str, Tensor]:
        """Encode a batch.

        Args:
            pixels: as for `preprocess`.
            sizes: as for `preprocess`.
            features: which of `FEATURES`.

        Returns:
            For each feature asked for, float32 (B, *feature_shape) on the encoder's device.

        Raises:
            OptionError: for an unknown feature.
        """
        for name in features:
            feature_shape(name, self.architecture)
        images = self.preprocess(pixels, sizes)
        with self._numerics():
            if self.device.type == "cpu" and len(images) > 1:
                parts = [self._forward(image, tuple(features)) for image in images.split(1)]
                return {name: torch.cat([part[name] for part in parts]) for name in features}
            return self._forward(images, tuple(features))

    def _run(self, images: Tensor, features: Sequence[str]) -> dict[str, Tensor]:
        encoder, found = self._encoder, {}
        grid = encoder.patch_embed(images) + encoder.pos_embed  # (B, g, g, width)
        tokens = self._tokens.expand(len(images), -1, -1) if "tokens" in features else None
        for index, block in enumerate(self._blocks):
            projected = block.project(grid)
            if tokens is not None:
                tokens = block.forward_tokens(tokens, projected)
            grid = block.forward(grid, projected)
            if index == early_block(self.architecture) and "early" in features:
                found["early"] = grid.permute(0, 3, 1, 2)
                if set(features) == {"early"}:
                    break
        if tokens is not None:
            found["tokens"] = tokens[:, TOKEN_READ]
        if "embedding" in features:
            found["embedding"] = normalise_in_float(encoder.neck, grid.permute(0, 3, 1, 2))
        return {name: found[name].float().contiguous() for name in features}

    @contextmanager
    def _numerics(self) -> Iterator[None]:
        kind = self.device.type
        if self.precision == "bf16":
            with torch.autocast(kind, dtype=torch.bfloat16):
                yield
            return
        matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, convolution.allow_tf32
        matmul.allow_tf32 = convolution.allow_tf32 = False  # TF32 keeps ten bits of the mantissa: not float32
        try:
            with torch.autocast(kind, enabled=False):
                yield
        finally:
            matmul.allow_tf32, convolution.allow_tf32 = before
