"""One image, one prompt, one mask: through the same code as evaluation, with the embedding rounded as in a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import stack_inputs
from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.bench.opened_run import open_run
from casam_cache.datasets import load_image
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.heads.base import predict_low_res
from casam_cache.routers.routing import Decision
from casam_cache.store.quantise import as_read
from casam_cache.training.items import VALID


@dataclass(frozen=True)
class Prediction:
    """A mask for one prompt.

    Attributes:
        mask: bool (H, W), at the image's size.
        image: uint8 (H, W, 3), as the encoder's preprocessing read it.
        predicted_iou: the decoder's own estimate.
        head: `identity` for the frozen SAM, else the fitted head's name.
        task: the task the head was fitted to; empty for the frozen SAM.
        decision: how a routed model chose the head, or the frozen SAM; None where there was nothing to choose.
    """

    mask: np.ndarray
    image: np.ndarray
    predicted_iou: float
    head: str
    task: str
    decision: Decision | None = None


class Predictor:
    """A backbone and a head, ready for images.

    Args:
        run: folder of a fit or of a bench's result, as `casam fit` or `casam bench --json` printed it; None is the
            frozen SAM.
        model: backbone of the frozen SAM where no run names one.
        checkpoint: where the checkpoint is now, if not where it was when the run's store was encoded.
        device: `auto`, `cpu`, `cuda`, ...
        trust: run the Python files that a run brings; else only those that this user has run before.

    Raises:
        CasamError: the run, its checkpoint or the device cannot be used.
    """

    def __init__(
        self,
        run: Path | str | None = None,
        *,
        model: str | None = None,
        checkpoint: Path | None = None,
        store: Path | None = None,
        device: str = "auto",
        trust: bool = False,
    ) -> None:
        opened = open_run(run, model=model, checkpoint=checkpoint, stores=store, device=device, trust=trust)
        identity = opened.identity
        self.task = opened.task
        self._resize = identity["preprocessing"]["resize"]
        self._intensity = identity["preprocessing"]["intensity"]
        self._dtype = identity["embedding"]["dtype"]
        self._model, self._backbone, self._head = opened.routed, opened.backbone, opened.head
        self._encoder = FrozenEncoder.of(self._backbone, identity)

    def predict(
        self,
        image: Path | str | np.ndarray,
        *,
        box: tuple[float, float, float, float] | None = None,
        points: list[tuple[float, float]] | None = None,
    ) -> Prediction:
        """The mask of one prompt; with a single point and no box, the best of SAM's three.

        Args:
            image: a file, or uint8 (H, W, 3).
            box: x0, y0, x1, y1 in the image's pixels.
            points: x, y foreground points in the image's pixels.

        Raises:
            OptionError: no prompt, or one outside the image.
            ImageError: the file cannot be read.
        """
        pixels = image if isinstance(image, np.ndarray) else load_image(Path(image), self._intensity)
        height, width = pixels.shape[:2]
        _check_prompt(height, width, box, points)
        own = self._backbone
        geometry = Geometry.fit(height, width, own.image_size, own.patch_size, self._resize)
        batch, sizes = stack_inputs([own.prepare(pixels, geometry)], own.image_size)
        needs = self._head.needs if self._model is None else self._model.needs
        names = [name for name in needs if name != VALID]
        encoded = self._encoder(torch.from_numpy(batch), torch.from_numpy(sizes), names)
        stored = {
            name: torch.from_numpy(as_read(feature[0].float().cpu().numpy(), self._dtype))[None]
            for name, feature in encoded.items()
        }
        head, task, decision = self._head, self.task, None
        if self._model is not None:
            decision = self._model.choose(stored["embedding"][0].numpy(), geometry.valid_grid)
            if decision.task is not None:
                head, task = self._model.head(decision.task), decision.task
        stored[VALID] = torch.from_numpy(geometry.valid_cells())[None]
        multimask = box is None and points is not None and len(points) == 1
        low_res, estimates = predict_low_res(
            head, self._backbone, stored, _prompts(geometry, box, points), multimask=multimask
        )
        best = int(estimates[0].argmax())
        logits = upscale(low_res[:, best], geometry)[0]
        return Prediction(
            (logits > 0).cpu().numpy(), pixels, float(estimates[0, best]), head.name, task, decision
        )


def _prompts(
    geometry: Geometry,
    box: tuple[float, float, float, float] | None,
    points: list[tuple[float, float]] | None,
) -> Prompts:
    boxes = None if box is None else torch.from_numpy(geometry.boxes_to_input(np.array([box])))
    if not points:
        return Prompts(boxes=boxes)
    coordinates = torch.from_numpy(geometry.to_input(np.array([points])))
    return Prompts(boxes=boxes, points=coordinates, labels=torch.ones((1, len(points)), dtype=torch.long))


def _check_prompt(
    height: int,
    width: int,
    box: tuple[float, float, float, float] | None,
    points: list[tuple[float, float]] | None,
) -> None:
    if box is None and not points:
        raise OptionError("no prompt", "give --box x0,y0,x1,y1 or --point x,y in pixels of the image")
    if box is not None and not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise OptionError(
            f"the box {','.join(f'{edge:g}' for edge in box)} is not inside the image of {width} x {height} pixels",
            "give --box x0,y0,x1,y1 with 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height",
        )
    for x, y in points or []:
        if not (0 <= x <= width and 0 <= y <= height):
            raise OptionError(f"the point {x:g},{y:g} is outside the image of {width} x {height} pixels")
