"""Prompts on one image, as often as wanted: the image is encoded once, or not at all where a store holds it.

The arithmetic is that of evaluation, with the embedding rounded as in a store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.bench.encoded_image import (
    check_backbone,
    check_preprocessing,
    encode_pixels,
    input_of,
    pixels_of,
)
from casam_cache.bench.opened_run import OpenedRun, open_run
from casam_cache.bench.prompt_arrays import part_of, prompts_of
from casam_cache.datasets.contact_sheet import overlay
from casam_cache.datasets.sample import Mask
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head, with_tokens
from casam_cache.heads.files import build_head
from casam_cache.notebook import html_picture
from casam_cache.routers.routing import Decision
from casam_cache.store import EmbeddingStore
from casam_cache.training.items import VALID
from casam_cache.training.pixels import PIXELS, pixel_features, pixel_reader

PROMPTS_AT_ONCE = 16  # in one pass of the decoder; bounds its memory


@dataclass(frozen=True)
class Prediction:
    """The masks of P prompts on one image, m for each.

    Attributes:
        masks: bool (P, m, H, W), at the image's size; m is 3 with `multimask`, else 1.
        scores: float32 (P, m), the decoder's own estimate of each mask's IoU, not clipped.
        low_res: float32 (P, m, 4g, 4g), logits: one of each prompt's may be the `mask_input` of the next round.
        head: `identity` for the frozen SAM, else the fitted head's name.
        task: the task the head was fitted to; empty for the frozen SAM.
        decision: how a routed model chose the head, or the frozen SAM; None where there was nothing to choose.
        image: uint8 (H, W, 3), as the encoder's preprocessing read it; None for an item of a store.
    """

    masks: np.ndarray
    scores: np.ndarray
    low_res: np.ndarray
    head: str
    task: str
    decision: Decision | None = None
    image: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def _repr_html_(self) -> str:
        """For a notebook: the objects over the image, or alone where the image is not at hand."""
        height, width = self.masks.shape[-2:]
        pixels = np.full((height, width, 3), 40, np.uint8) if self.image is None else self.image
        found = [Mask(bitmap, 1, number) for number, bitmap in enumerate(self.objects, 1) if bitmap.any()]
        by = (
            f"{self.head} of {self.task}"
            if self.task
            else "the frozen SAM"
            if self.head == "identity"
            else self.head
        )
        scores = ", ".join(f"{100 * float(score):.1f}" for score in self.object_scores)
        empty = len(self) - len(found)
        told = f"{by}; expected IoU {scores}" + (f"; {empty} of {len(self)} masks are empty" if empty else "")
        return html_picture(overlay(pixels, found), told)

    @cached_property
    def best(self) -> np.ndarray:
        """int64 (P,): which mask of each prompt has the highest score."""
        best: np.ndarray = self.scores.argmax(axis=1)
        return best

    @property
    def objects(self) -> np.ndarray:
        """Bool (P, H, W): the best mask of each prompt."""
        objects: np.ndarray = self.masks[np.arange(len(self)), self.best]
        return objects

    @property
    def object_scores(self) -> np.ndarray:
        """float32 (P,): the scores of `objects`."""
        scores: np.ndarray = self.scores[np.arange(len(self)), self.best]
        return scores

    @property
    def logits(self) -> np.ndarray:
        """float32 (P, 1, 4g, 4g): the low-res logits of `objects`, in the shape of a `mask_input`."""
        logits: np.ndarray = self.low_res[np.arange(len(self)), self.best][:, None]
        return logits

    @property
    def mask(self) -> np.ndarray:
        """Bool (H, W): the best mask of the only prompt.

        Raises:
            ValueError: there were several prompts.
        """
        mask: np.ndarray = self._only(self.objects)
        return mask

    @property
    def predicted_iou(self) -> float:
        """The score of `mask`."""
        return float(self._only(self.object_scores))

    def _only(self, values: np.ndarray) -> Any:
        if len(values) != 1:
            raise ValueError(f"a prediction of {len(values)} prompts has no single mask: read `objects`")
        return values[0]


@dataclass(frozen=True)
class _Shown:
    """The image that prompts are about, taken through its head once."""

    geometry: Geometry
    features: dict[str, Tensor]
    head: Head
    task: str
    decision: Decision | None
    aligned: Tensor
    added: Tensor | None
    image: np.ndarray | None


class Predictor:
    """A backbone and a head, ready for images and prompts.

        predictor = Predictor("casam_runs/fit/KEY").set_image("new.png")
        first = predictor.predict(points=[(120, 80)])
        better = predictor.predict(points=[(120, 80), (40, 30)], labels=[1, 0], mask_input=first.logits)

    Args:
        run: folder of a fit or of a bench's result, as `casam fit` or `casam bench --json` printed it; None is the
            frozen SAM.
        model: backbone of the frozen SAM where neither a run nor a store names one.
        checkpoint: where the checkpoint is now, if not where it was when the store was encoded.
        store: a store or the folder of stores: where those of the run are now, or whose frozen SAM it is.
        device: `auto`, `cpu`, `cuda`, ...
        trust: run the Python files that a run brings; else only those that this user has run before.
        dtype: what the embedding of `set_image` is rounded to: as in the store that the run was fitted on by default
            (float16 for the frozen SAM), so that predictions equal evaluation; `float32` leaves it as the encoder
            gave it, which is what segment_anything's SamPredictor does.

    Raises:
        CasamError: the run, its backbone or the device cannot be used.
    """

    def __init__(
        self,
        run: Path | str | None = None,
        *,
        model: str | None = None,
        checkpoint: Path | None = None,
        store: Path | str | None = None,
        device: str = "auto",
        trust: bool = False,
        dtype: str | None = None,
    ) -> None:
        if dtype not in (None, "float16", "float32", "int8"):
            raise OptionError(f"unknown dtype '{dtype}'", "available: float16, float32, int8")
        stores = None if store is None else Path(store)
        self._opened: OpenedRun = open_run(
            run, model=model, checkpoint=checkpoint, stores=stores, device=device, trust=trust,
            encoder=checkpoint is not None, pixels=True,
        )  # fmt: skip
        self._dtype = dtype or str(self._opened.identity["embedding"]["dtype"])
        self._encoder: FrozenEncoder | None = None
        self._shown: _Shown | None = None

    @property
    def task(self) -> str:
        """The task that the head was fitted to; empty for the frozen SAM and a routed model."""
        return self._opened.task

    @property
    def head(self) -> str:
        """The fitted head's name, `identity` for the frozen SAM; of a routed model that of what it falls back to."""
        return self._opened.head.name

    @property
    def routed(self) -> bool:
        """Whether each image is sent to the head of a task, or to none."""
        return self._opened.routed is not None

    @property
    def stand_in(self) -> str:
        """What is said of a model that is not one to publish with; else empty."""
        return self._opened.backbone.stand_in

    @property
    def low_res(self) -> int:
        """Side 4g of the logits that `predict` gives and takes."""
        return self._opened.backbone.low_res

    @property
    def geometry(self) -> Geometry:
        """How the image that prompts are about lies in the encoder's input.

        Raises:
            OptionError: there is none yet.
        """
        return self._current().geometry

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of that image, pixels."""
        return self.geometry.height, self.geometry.width

    @property
    def intensity(self) -> str:
        """How files of other bit depths become 8 bit, see `casam_cache.datasets.load_image`."""
        return str(self._opened.identity["preprocessing"]["intensity"])

    def set_image(self, image: Path | str | np.ndarray) -> Predictor:
        """Encodes an image, which prompts are about from now on; returns the predictor itself.

        Args:
            image: a file, or uint8 (H, W, 3).

        Raises:
            ImageError: the file cannot be read.
            OptionError: an array of another shape or dtype.
            CheckpointError: the encoder cannot be had.
        """
        pixels = pixels_of(image, self.intensity)
        if PIXELS in self._arrays:
            self._show(*input_of(pixels, self._opened.backbone, self._opened.identity), pixels)
            return self
        if self._encoder is None:
            self._opened = self._opened.with_encoder()
            self._encoder = FrozenEncoder.of(self._opened.backbone, self._opened.identity)
        features, geometry = encode_pixels(
            pixels, self._opened.backbone, self._opened.identity, self._encoder, self._arrays, self._dtype
        )
        self._show(features, geometry, pixels)
        return self

    def set_item(self, store: EmbeddingStore | Path | str, name: str) -> Predictor:
        """Takes an image's features from a store; the encoder is neither loaded nor run. Returns the predictor itself.

        What was trained through the image reads the image of the item from its dataset instead, and runs all of it.

        Args:
            store: DIR/TASK/BACKBONE.zarr.
            name: the item's id.

        Raises:
            StoreError: the store is of another backbone, or lacks the item or what the head reads of it.
        """
        opened = store if isinstance(store, EmbeddingStore) else EmbeddingStore.open(store)
        self.check_store(opened)
        index = opened.index(name)
        geometry = opened.geometry(index)
        if PIXELS in self._arrays:
            features = pixel_features(pixel_reader(opened)(index), geometry)
        else:
            features = {array: opened.read(index, array) for array in self._arrays}
        self._show(features, geometry, None)
        return self

    @torch.no_grad()
    def predict(
        self,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        mask_input: Any = None,
        multimask: bool | None = None,
        *,
        frozen: bool = False,
    ) -> Prediction:
        """The masks of one prompt or of several, each for an object of its own.

        Coordinates are pixels of the image after EXIF rotation. P prompts of one form are one call: P boxes, n points
        for each of P objects, or both.

        Args:
            points: x, y: (n, 2) of one object, or (P, n, 2).
            labels: 1 for the object, 0 for what is not: (n,) or (P, n); by default all 1.
            boxes: x0, y0, x1, y1: (4,) or (P, 4).
            mask_input: low-res logits of an earlier prediction: (4g, 4g), (1, 4g, 4g) or (P, 1, 4g, 4g).
            multimask: SAM's three masks for an ambiguous prompt instead of the single one; by default for one point
                without anything else.
            frozen: what the frozen SAM gives instead, from the same features: nothing is encoded or read again.

        Raises:
            OptionError: no image or no prompt, prompts that do not go together, or one that is not inside the image.
        """
        shown = self._frozen() if frozen else self._current()
        prompts = prompts_of(shown.geometry, self.low_res, points, labels, boxes, mask_input)
        if multimask is None:
            alone = prompts.boxes is None and prompts.masks is None
            multimask = alone and prompts.points is not None and prompts.points.shape[1] == 1
        masks, scores, low_res = [], [], []
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            logits, estimates = self._decode(shown, part_of(prompts, start, PROMPTS_AT_ONCE), multimask)
            count, each = estimates.shape
            full = np.empty((count * each, shown.geometry.height, shown.geometry.width), dtype=bool)
            for own, low in zip(
                full, logits.flatten(0, 1), strict=True
            ):  # logits at full size take four times that
                own[:] = (upscale(low[None], shown.geometry)[0] > 0).cpu().numpy()
            masks.append(full.reshape(count, each, *full.shape[1:]))
            scores.append(estimates.cpu().numpy())
            low_res.append(logits.cpu().numpy())
        return Prediction(
            masks[0] if len(masks) == 1 else np.concatenate(masks), np.concatenate(scores), np.concatenate(low_res),
            shown.head.name, shown.task, shown.decision, shown.image,
        )  # fmt: skip

    @property
    def _arrays(self) -> list[str]:
        return [name for name in self._opened.needs if name != VALID]

    def _current(self) -> _Shown:
        if self._shown is None:
            raise OptionError("no image to prompt", "call set_image or set_item first")
        return self._shown

    def _frozen(self) -> _Shown:
        """The image as it is without the head."""
        shown, backbone = self._current(), self._opened.backbone
        if shown.head.name == "identity":
            return shown
        head = build_head("identity", None, backbone, seed=0).to(backbone.device).eval()
        aligned = head.align(shown.features)
        return replace(shown, head=head, task="", decision=None, aligned=aligned, added=None)

    def check_store(self, store: EmbeddingStore) -> None:
        """Whether `set_item` may take images from it.

        Raises:
            StoreError: it is of another backbone, or of another preprocessing than the head was fitted on.
        """
        check_backbone(store, self._opened.backbone)
        if self._opened.head.name == "identity":
            return  # the frozen SAM of whatever is stored; the heads of a routed model come from several stores
        check_preprocessing(store, self._opened.identity)

    @torch.no_grad()
    def _show(self, read: dict[str, np.ndarray], geometry: Geometry, image: np.ndarray | None) -> None:
        """Takes the features of an image, as a store gives them, through the head."""
        opened, routed = self._opened, self._opened.routed
        head, task, decision = opened.head, opened.task, None
        if routed is not None:
            decision = routed.choose(read["embedding"], geometry.valid_grid)
            if decision.task is not None:
                head, task = routed.head(decision.task), decision.task
        device = opened.backbone.device
        arrays = {**read, VALID: geometry.valid_cells()}
        features = {
            name: torch.from_numpy(np.array(array))[None].to(device).float() for name, array in arrays.items()
        }
        aligned, added = head.align(features), head.prompt_tokens(features)
        self._shown = _Shown(geometry, features, head, task, decision, aligned, added, image)

    def _decode(self, shown: _Shown, prompts: Prompts, multimask: bool) -> tuple[Tensor, Tensor]:
        backbone = self._opened.backbone
        sparse, dense = shown.head.embed_prompts(backbone, prompts.to(backbone.device), None)
        index = torch.zeros(len(prompts), dtype=torch.long, device=backbone.device)
        sparse = with_tokens(sparse, shown.added, index)
        return shown.head.decode(backbone, shown.features, shown.aligned, index, sparse, dense, multimask)
