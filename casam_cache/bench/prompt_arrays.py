"""Prompts as a program has them, in arrays of any of the shapes people use, as the decoder takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casam_cache.backbones.prompts import Prompts
from casam_cache.bench.prompt_check import check_box, check_mask_prompt, check_points
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry


def prompts_of(
    geometry: Geometry, low_res: int, points: Any, labels: Any, boxes: Any, mask_input: Any
) -> Prompts:
    """Prompts in pixels of the input, each checked to lie in the image; see `Predictor.predict`.

    Args:
        geometry: how the image lies in the input.
        low_res: side 4g of a mask prompt.
        points: (n, 2) or (P, n, 2), or None.
        labels: (n,) or (P, n), or None.
        boxes: (4,) or (P, 4), or None.
        mask_input: (4g, 4g), (1, 4g, 4g) or (P, 1, 4g, 4g), or None.

    Raises:
        OptionError: no prompt, shapes that do not go together, or a prompt that is not inside the image.
    """
    height, width = geometry.height, geometry.width
    box = _numbers("boxes", boxes, (4,))
    point, label = _points(points, labels)
    mask = None
    if mask_input is not None:
        mask = _numbers("mask_input", mask_input, (low_res, low_res), leading=(1,))
    given = [len(part) for part in (box, point, mask) if part is not None]
    if not given:
        raise OptionError("no prompt", "give points, boxes or mask_input")
    if len(set(given)) > 1:
        raise OptionError(
            f"prompts of {' and '.join(map(str, given))} objects do not go together",
            "boxes, points and mask_input are as many; predict objects of other forms in another call",
        )
    for number in range(given[0]):
        which = "" if given[0] == 1 else f" {number + 1} of {given[0]}"
        if box is not None:
            check_box(box[number], height, width, f"box{which}")
        if point is not None and label is not None:
            check_points(point[number], label[number].tolist(), height, width, f"point{which}")
        if mask is not None:
            check_mask_prompt(mask[number, 0], low_res, f"mask_input{which}")
    return Prompts(
        boxes=None if box is None else torch.from_numpy(geometry.boxes_to_input(box)),
        points=None if point is None else torch.from_numpy(geometry.to_input(point)),
        labels=None if label is None else torch.from_numpy(label),
        masks=None if mask is None else torch.from_numpy(mask.astype(np.float32)),
    )


def _points(points: Any, labels: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(P, n, 2) and (P, n), both or neither."""
    if points is None or len(points) == 0:
        if labels is not None and len(labels):
            raise OptionError("labels without points", "each label belongs to a point")
        return None, None
    found = np.asarray(points, dtype=np.float64)
    if found.ndim == 2:
        found = found[None]
    if found.ndim != 3 or found.shape[2] != 2 or not found.size:
        raise OptionError(
            f"points have the shape {found.shape}", "points are (n, 2) of one object, or (P, n, 2)"
        )
    if labels is None:
        return found, np.ones(found.shape[:2], dtype=np.int64)
    label = np.asarray(labels)
    label = label[None] if label.ndim == 1 else label
    if label.shape != found.shape[:2]:
        raise OptionError(
            f"{found.shape[:2]} points have {label.shape} labels", "each point has one label: (n,) or (P, n)"
        )
    if not np.equal(label, label.astype(np.int64)).all():
        raise OptionError("labels are whole numbers", "1 for the object, 0 for what is not the object")
    return found, label.astype(np.int64)


def _numbers(name: str, value: Any, shape: Sequence[int], leading: Sequence[int] = ()) -> np.ndarray | None:
    """`value` as float64 (P, *leading, *shape); one alone may lack the leading axes."""
    if value is None:
        return None
    found = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    whole = (*leading, *shape)
    if found.shape == tuple(shape):
        found = found.reshape(whole)
    if found.shape == whole:
        found = found[None]
    if found.shape[1:] != whole or not len(found):
        expected = " x ".join(map(str, shape))
        raise OptionError(
            f"{name} have the shape {' x '.join(map(str, found.shape))}",
            f"expected {expected} of one object, or P x {' x '.join(map(str, whole))}",
        )
    return found.astype(np.float64)


def part_of(prompts: Prompts, start: int, count: int) -> Prompts:
    """`count` of the prompts, or as many as there are, from `start` on."""
    cut = slice(start, start + count)
    boxes, points, labels, masks = (
        None if tensor is None else tensor[cut]
        for tensor in (prompts.boxes, prompts.points, prompts.labels, prompts.masks)
    )
    return Prompts(boxes=boxes, points=points, labels=labels, masks=masks)
