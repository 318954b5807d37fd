"""Several objects of one image, each by its own prompt of any form, as one label map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from casam_cache.bench.predict import PROMPTS_AT_ONCE, Prediction, Predictor
from casam_cache.bench.prompt_check import check_box, check_mask_prompt, check_points
from casam_cache.bench.prompt_file import ObjectPrompt
from casam_cache.datasets.images import load_array
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.routers.routing import Decision

CERTAIN = 0.999  # a mask prompt's probability inside the object: SAM was trained on logits, which are finite


@dataclass(frozen=True)
class Objects:
    """The objects that prompts of one image gave.

    Attributes:
        labels: uint16 (H, W): 0 background, else the object's number. Where objects overlap, the higher score wins.
        scores: of each, the decoder's own estimate of its IoU, in the order of the prompts.
        areas: of each, pixels, those under other objects included.
        head, task, decision: as in `Prediction`.
    """

    labels: np.ndarray
    scores: tuple[float, ...]
    areas: tuple[int, ...]
    head: str
    task: str
    decision: Decision | None


def segment(
    predictor: Predictor,
    prompts: Sequence[ObjectPrompt],
    on_object: Callable[[ObjectPrompt, np.ndarray], None] | None = None,
) -> Objects:
    """One mask for each prompt on the predictor's image: with a single point alone, the best of SAM's three.

    Args:
        predictor: with an image set.
        prompts: at least one, with numbers that differ.
        on_object: called with each prompt and its bool mask (H, W), in no certain order.

    Raises:
        OptionError: a prompt is wrong for this image; the message names it.
        ImageError: the file of a mask prompt cannot be read.
    """
    height, width = predictor.size
    check_prompts(prompts, height, width)
    labels = np.zeros((height, width), np.uint16)
    winning = np.full((height, width), -np.inf, np.float32)
    scores, areas = [0.0] * len(prompts), [0] * len(prompts)
    found: Prediction | None = None
    for part, found in answered(predictor, prompts):
        for index, mask, score in zip(part, found.objects, found.object_scores, strict=True):
            scores[index], areas[index] = float(score), int(mask.sum())
            wins = mask & (score > winning)
            labels[wins], winning[wins] = prompts[index].number, score
            if on_object is not None:
                on_object(prompts[index], mask)
    if found is None:
        raise OptionError("no prompt", "an image needs at least one")
    return Objects(labels, tuple(scores), tuple(areas), found.head, found.task, found.decision)


def answered(predictor: Predictor, prompts: Sequence[ObjectPrompt]) -> Iterator[tuple[list[int], Prediction]]:
    """Prompts of one form at a time, by their numbers in the sequence, and what is predicted for them."""
    groups: dict[tuple[bool, int, bool], list[int]] = {}
    for index, prompt in enumerate(prompts):
        form = (prompt.box is not None, len(prompt.points), prompt.mask is not None)
        groups.setdefault(form, []).append(index)
    for members in groups.values():
        for start in range(0, len(members), PROMPTS_AT_ONCE):
            part = members[start : start + PROMPTS_AT_ONCE]
            yield part, _predict(predictor, [prompts[index] for index in part])


def check_prompts(prompts: Sequence[ObjectPrompt], height: int, width: int) -> None:
    """Whether boxes and points may be prompts of an image of that size.

    Raises:
        OptionError: one may not; the message names it.
    """
    for prompt in prompts:
        if prompt.box is not None:
            check_box(prompt.box, height, width, prompt.name_of("box"))
        check_points(prompt.points, prompt.labels, height, width, prompt.name_of("point"))


def _predict(predictor: Predictor, prompts: Sequence[ObjectPrompt]) -> Prediction:
    """Prompts of one form."""
    first = prompts[0]
    masks = None
    if first.mask is not None:
        masks = np.stack([mask_prompt(prompt, predictor) for prompt in prompts])[:, None]
    return predictor.predict(
        points=np.array([prompt.points for prompt in prompts]) if first.points else None,
        labels=np.array([prompt.labels for prompt in prompts]) if first.points else None,
        boxes=None if first.box is None else np.array([prompt.box for prompt in prompts]),
        mask_input=masks,
    )


def mask_prompt(prompt: ObjectPrompt, predictor: Predictor) -> np.ndarray:
    """The logits that a mask prompt's file means, float32 (4g, 4g).

    A .npy file holds them as they are. In an image of the size of the prompted one, everything but black is the object:
    its share of each low-res pixel is the probability whose logit is taken, between 0.001 and 0.999.

    Raises:
        OptionError: of another shape or size, or more than one object.
        ImageError: the file cannot be read.
    """
    path, side = prompt.mask, predictor.low_res
    assert path is not None
    name = f"{prompt.name_of('mask')} {path}"
    if path.suffix.lower() == ".npy":
        logits = _logits_of(path, name)
        check_mask_prompt(logits, side, name)
        return logits.astype(np.float32)
    array = load_array(path)
    bitmap = array if array.ndim == 2 else array.any(axis=2)
    if bitmap.shape != predictor.size:
        height, width = predictor.size
        raise OptionError(
            f"{name} has {bitmap.shape[1]} x {bitmap.shape[0]} pixels, the image {width} x {height}",
            "a mask prompt is as large as the image, or a .npy file of low-res logits",
        )
    values = np.unique(array.reshape(bitmap.size, -1), axis=0)
    if len(values) > 2 or (len(values) == 2 and values[0].any()):
        raise OptionError(
            f"{name} holds {len(values)} values", "a mask prompt is one object: black, and one other value"
        )
    if not bitmap.any():
        raise OptionError(f"{name} is black", "everything but black is the object")
    return logits_of_mask(bitmap.astype(bool), predictor.geometry, side)


def logits_of_mask(bitmap: np.ndarray, geometry: Geometry, side: int) -> np.ndarray:
    """A mask bool (H, W) of an image as the float32 (side, side) logits that a low-res output of it would be."""
    inside = Image.fromarray(bitmap.astype(np.float32)).resize(
        (geometry.input_width, geometry.input_height), Image.Resampling.BOX
    )
    square = np.zeros((geometry.image_size, geometry.image_size), np.float32)
    square[: geometry.input_height, : geometry.input_width] = np.asarray(inside)
    share = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BOX), np.float64)
    probability = np.clip(share, 1 - CERTAIN, CERTAIN)
    logits: np.ndarray = np.log(probability / (1 - probability)).astype(np.float32)
    return logits


def _logits_of(path: Path, name: str) -> np.ndarray:
    try:
        logits = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise OptionError(f"{name} cannot be read: {error}") from None
    if not isinstance(logits, np.ndarray) or logits.dtype.kind not in "fiu":
        raise OptionError(f"{name} holds no numbers")
    while logits.ndim > 2 and len(logits) == 1:
        logits = logits[0]
    return logits
