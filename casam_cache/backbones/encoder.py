"""A frozen encoder as the store sees it: uint8 batches in, named float32 features out, in a stated precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from casam_cache.backbones.base import EMBEDDING, Backbone
from casam_cache.backbones.compiling import compile_fixed
from casam_cache.backbones.devices import PRECISIONS
from casam_cache.errors import OptionError


class FrozenEncoder:
    """The encoder of a backbone, on the device where the backbone is.

    On a CPU the items of a batch are encoded one after the other with all threads, or one a core where the backbone
    says so (`Backbone.image_a_core`). So an item's bits depend on no other, and in the second case on no number of
    cores; large inputs gain nothing from batches there. On a GPU libraries
    choose kernels by the batch's size: equal bits need batches of equal size, which the store plans.

    Args:
        backbone: with its encoder loaded; moving its modules later is not followed.
        precision: "fp32" (TF32 off), or "bf16": autocast.
        compiled: run it through `torch.compile`: a minute before the first batch, other last bits.
        settings: of the backbone, as `choose_settings` gives them, e.g. SAM's form of attention.
    """

    def __init__(
        self, backbone: Backbone, precision: str = "fp32", *, compiled: bool = False, **settings: Any
    ) -> None:
        if backbone.encoder is None:
            raise ValueError("this backbone was loaded without its encoder")
        if precision not in PRECISIONS:
            raise OptionError(f"unknown precision '{precision}'", f"available: {', '.join(PRECISIONS)}")
        self.backbone, self.device = backbone, backbone.device
        self.precision, self.compiled, self.settings = precision, compiled, settings
        if unknown := set(settings) - set(backbone.settings):
            raise ValueError(f"{backbone.name} has no settings {sorted(unknown)}")
        forward = backbone.encoding(settings)
        self._forward = compile_fixed(forward) if compiled else forward
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def of(cls, backbone: Backbone, identity: Mapping[str, Any]) -> FrozenEncoder:
        """The encoder that computes as a store of this identity was computed."""
        compiled = identity.get("compiled", False)
        return cls(backbone, identity["precision"], compiled=compiled, **backbone.settings_of(identity))

    @torch.inference_mode()
    def __call__(
        self, pixels: Tensor, sizes: Tensor, features: Sequence[str] = (EMBEDDING,)
    ) -> dict[str, Tensor]:
        """Encode a batch.

        Args:
            pixels: uint8 (B, 3, S, S), each image in the top-left corner (`preprocess.stack_inputs`).
            sizes: int64 (B, 2), (h, w) of each image.
            features: which of the backbone's.

        Returns:
            For each feature asked for, float32 (B, *shape) on the encoder's device.

        Raises:
            OptionError: for an unknown feature.
        """
        for name in features:
            self.backbone.feature_shape(name)
        side = self.backbone.image_size
        if pixels.shape[1:] != (3, side, side) or pixels.dtype != torch.uint8:
            raise ValueError(
                f"expected uint8 (B, 3, {side}, {side}), got {pixels.dtype} {tuple(pixels.shape)}"
            )
        pixels = pixels.to(self.device, non_blocking=True)
        images = self.backbone.normalise(pixels, sizes.to(self.device, non_blocking=True))
        with self._numerics():
            if self.device.type == "cpu":
                parts = self._each(images, tuple(features))
                found = {name: torch.cat([part[name] for part in parts]) for name in features}
            else:
                found = self._forward(images, tuple(features))
        return {name: found[name].float().contiguous() for name in features}

    def _each(self, images: Tensor, features: tuple[str, ...]) -> list[dict[str, Tensor]]:
        """The features of each image for itself."""
        threads = torch.get_num_threads()
        if not self.backbone.image_a_core or threads == 1 or self.compiled:
            return [self._forward(image, features) for image in images.split(1)]

        def alone(image: Tensor) -> dict[str, Tensor]:
            torch.set_num_threads(1)  # of this thread, but MKL's of all: so it is said for each image
            with torch.inference_mode(), self._numerics():  # both belong to the thread
                return self._forward(image, features)

        try:
            if len(images) == 1:
                return [alone(images)]
            if self._pool is None:
                self._pool = ThreadPoolExecutor(threads)
            return list(self._pool.map(alone, images.split(1)))
        finally:
            torch.set_num_threads(threads)

    @contextmanager
    def _numerics(self) -> Iterator[None]:
        kind = self.device.type
        if self.precision == "bf16":
            with torch.autocast(kind, dtype=torch.bfloat16):
                yield
            return
        if kind == "cpu":
            with torch.autocast(kind, enabled=False):
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


def inside(sizes: Tensor, side: int) -> Tensor:
    """Which pixels of each S x S input hold image: bool (B, S, S) from int64 (B, 2), (h, w) of each image."""
    along = torch.arange(side, device=sizes.device)
    return (along[:, None] < sizes[:, 0, None, None]) & (along < sizes[:, 1, None, None])
