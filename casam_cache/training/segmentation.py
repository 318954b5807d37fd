"""The loop that fits a segmenter: one training item is one image with the map of all its classes.

Loss: cross entropy over the counted cells of a batch, plus one minus the mean over the classes, background left out, of

    Dice_c = (2 sum p_c y_c + s) / (sum p_c + sum y_c + s)

where p are the softmax's probabilities, y the map, and the sums go over the counted cells of the whole batch, so that a
class that one image lacks is not lost in it.

Results on a CPU are the same bit for bit for the same number of threads, resumed or not, as of `training.loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_precision
from casam_cache.fingerprint import digest, digest_arrays
from casam_cache.segmenters.base import Segmenter
from casam_cache.training.class_maps import UNCOUNTED, ClassMaps
from casam_cache.training.held_out import hold_out
from casam_cache.training.image_loop import LOOP, ImageFit, fit_images
from casam_cache.training.items import Items, add_views
from casam_cache.training.loop import FitProgress
from casam_cache.training.options import VIEW_SEPARATOR
from casam_cache.training.segmentation_options import SegmentationOptions
from casam_cache.training.segmentation_scores import class_scores, score_segmenter
from casam_cache.views import parse_views


class _Maps:
    """What a segmenter is taught: the map of each image."""

    measure = "dice"

    def __init__(
        self,
        segmenter: Segmenter,
        backbone: Backbone,
        maps: ClassMaps,
        apart: Items | None,
        options: SegmentationOptions,
    ) -> None:
        self._segmenter, self._backbone, self._apart, self._options = segmenter, backbone, apart, options
        self._targets = torch.from_numpy(maps.targets).to(backbone.device)

    def predict(self, embedding: torch.Tensor) -> torch.Tensor:
        return self._segmenter.logits(self._backbone, embedding)

    def loss(self, predicted: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        return segmentation_loss(predicted, self._targets[list(places)], self._options)

    def score(self) -> float:
        """The mean Dice of the classes' means over images, at the images' own size."""
        assert self._apart is not None
        outcomes = score_segmenter(self._segmenter, self._backbone, self._apart, metrics=("dice",))
        return class_scores(outcomes)[0]["dice"].mean


def segmentation_loss(
    logits: torch.Tensor, target: torch.Tensor, options: SegmentationOptions
) -> torch.Tensor:
    """The loss of a batch, 0-d, in fp32.

    Args:
        logits: (B, 1 + K, s, s).
        target: uint8 (B, s, s), labels or `UNCOUNTED`.
        options: weights of the terms.
    """
    logits = logits.float()
    counted = target != UNCOUNTED
    labels = torch.where(counted, target, torch.zeros_like(target)).long()
    entropy = F.cross_entropy(logits, labels, reduction="none")
    ce = (entropy * counted).sum() / counted.sum().clamp(min=1)
    share = logits.softmax(dim=1)[:, 1:] * counted[:, None]
    truth = (F.one_hot(labels, logits.shape[1]).movedim(3, 1)[:, 1:] * counted[:, None]).float()
    both, total = ((one).sum(dim=(0, 2, 3)) for one in (share * truth, share + truth))
    dice = (2 * both + options.dice_smooth) / (total + options.dice_smooth)
    return options.ce_weight * ce + options.dice_weight * (1 - dice.mean())


def fit_segmenter(
    segmenter: Segmenter,
    backbone: Backbone,
    items: Items,
    options: SegmentationOptions,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint_dir: Path | None = None,
    on_step: Callable[[FitProgress], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> ImageFit:
    """Trains a segmenter on the stored embeddings of some items, with the backbone frozen.

    With `held_out` some groups are set apart, and the segmenter is given the best of its states on them.

    Args:
        segmenter: trained in place and moved to the device.
        backbone: moved to the device, never changed.
        items: for training; those without masks are trained on as background.
        options: the recipe.
        seed: of order and views.
        device: by default where the backbone is.
        checkpoint_dir: an existing folder; a checkpoint found there is continued, and every epoch replaces it.
        on_step: called every `REPORT_EVERY` steps and at the end of an epoch.
        warn: called with a line where a damaged checkpoint was found, so that the fit begins anew.

    Raises:
        CasamError: no image has a mask, a checkpoint of another fit, or a loss that is no longer finite.
    """
    where = backbone.device if device is None else torch.device(device)
    backbone = backbone.to(where)
    segmenter.to(where)
    precision = choose_precision(options.precision, where)
    items, apart = hold_out(items, options.held_out)
    shown = len(items)
    if views := parse_views(options.views, VIEW_SEPARATOR):
        items = add_views(items, views)
    maps = ClassMaps.prepare(items, segmenter.classes, segmenter.side(backbone))
    key = digest(
        {
            "loop": LOOP,
            "segmenter": [segmenter.name, segmenter.options.model_dump(mode="json"), segmenter.classes],
            "options": options.model_dump(mode="json"),
            "items": [[item.task, item.id, item.view] for item in items],
            "targets": digest_arrays([("targets", maps.targets)]),
            "seed": seed,
            "precision": precision,
        }
    )
    return fit_images(
        segmenter, backbone, items, apart, _Maps(segmenter, backbone, maps, apart, options), options, precision,
        shown=shown, key=key, seed=seed, checkpoint_dir=checkpoint_dir, on_step=on_step, warn=warn,
    )  # fmt: skip
