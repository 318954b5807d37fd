"""One image, one prompt, one mask: through the same code as evaluation, with the embedding rounded as in a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from casam_cache.backbones.defaults import DEFAULT_MODEL
from casam_cache.backbones.devices import choose_device, choose_precision
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import stack_inputs
from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.backbones.registry import load_backbone
from casam_cache.bench.routed_model import RoutedModel
from casam_cache.datasets import load_image
from casam_cache.encode.preprocessing import as_in_store
from casam_cache.encode.sources import whole_backbone
from casam_cache.engine.runs import RECORD, read_record
from casam_cache.errors import CasamError, OptionError
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head, predict_low_res
from casam_cache.heads.files import build_head, load_head
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
        model: str = DEFAULT_MODEL,
        checkpoint: Path | None = None,
        device: str = "auto",
        trust: bool = False,
    ) -> None:
        where = choose_device(device)
        self.task = ""
        self._resize, self._intensity = "longest", "auto"
        self._dtype = "float16"
        self._model: RoutedModel | None = None
        if run is None:
            self._backbone = load_backbone(model, checkpoint, device=where)
            self._head: Head = build_head("identity", None, self._backbone, seed=0)
            identity = {"precision": choose_precision("auto", where)}
        else:
            folder = Path(run)
            named = "name the folder that `casam fit` printed as its run, or a run of `casam bench --json`"
            if not (folder / RECORD).is_file():
                raise CasamError(f"{folder} is not the folder of a finished run: {RECORD} is missing", named)
            record = read_record(folder.absolute())
            if record.kind not in ("fit", "joint", "learn", "model"):
                raise CasamError(f"{folder} holds no head: it is a stage of kind '{record.kind}'", named)
            try:
                identity, stores = record.recorded["identity"], Path(record.recorded["store"]).parent.parent
                weights, self.task = identity["backbone"]["weights"], str(record.recorded["task"])
                self._resize = identity["preprocessing"]["resize"]
                self._intensity = identity["preprocessing"]["intensity"]
                self._dtype = identity["embedding"]["dtype"]
            except (KeyError, TypeError) as error:
                raise CasamError(
                    f"{folder} does not say on which store it was fitted: {error}",
                    "run the command that made it again",
                ) from None
            self._backbone = whole_backbone(stores, weights, checkpoint, where, trust=trust)
            if record.kind == "model":
                self.task = ""
                self._model = RoutedModel(folder.absolute(), self._backbone, trust=trust)
                self._head = build_head("identity", None, self._backbone, seed=0)
            else:
                self._head = load_head(folder, self._backbone, trust=trust)
        self._head.to(where).eval()
        self._backbone = as_in_store(self._backbone, identity) if run is not None else self._backbone
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
