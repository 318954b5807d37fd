"""LabelMe: a JSON file an image, with polygons, rectangles, circles and small masks."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.datasets.layouts.annotated import (
    AnnotatedReader,
    Annotations,
    ImageFiles,
    names_of,
    numbered,
    united,
)
from casam_cache.datasets.layouts.placed import Draw, Shape
from casam_cache.datasets.layouts.polygon import circle, fill, lies_outside
from casam_cache.datasets.listing import walk
from casam_cache.datasets.sample import Dataset, DatasetOptions, Problem, Sample
from casam_cache.errors import ImageError

_HEAD = 4096
_LOOKED_AT = 200


class LabelMe(AnnotatedReader):
    """Reads `x.json` with `shapes` and `imagePath`. Shapes of one label and `group_id` are one object."""

    name = "labelme"

    def recognises(self, path: Path) -> bool:
        try:
            names = (
                name for name, _ in islice(walk(path), 10 * _LOOKED_AT) if name.lower().endswith(".json")
            )
            return any(_is_labelme(path / name) for name in islice(names, _LOOKED_AT))
        except OSError:
            return False

    def load(self, path: Path, options: DatasetOptions) -> Annotations:
        told, images = Annotations(example="LabelMe"), ImageFiles(path)
        files = [name for name, _ in walk(path) if name.lower().endswith(".json")]
        read: list[tuple[str, str, dict[str, Any]]] = []
        owners: dict[str, str] = {}
        for file in files:
            try:
                parsed = _parse(path / file)
            except ImageError as error:
                told.problems.append(
                    Problem(file, error.message.removeprefix(f"{path / file}: "), error.hint)
                )
                continue
            own = PurePosixPath(file).with_suffix("")
            source, wrong = images.find(str(parsed["imagePath"]), [PurePosixPath(file).parent.as_posix()])
            if source is None:  # renamed since, with its annotation
                source = next(
                    (name for name in images.all if PurePosixPath(name).with_suffix("") == own), None
                )
            if source is None:
                told.problems.append(Problem(file, wrong, "put its image beside it"))
            elif source in owners:
                message = f"annotates {source}, as {owners[source]} does, which is read"
                told.problems.append(Problem(file, message, "keep one"))
            else:
                owners[source] = file
                read.append((source, file, parsed))
        classes = numbered(label for _, _, parsed in read for label in _labels(parsed))
        told.classes = names_of(classes)
        for source, file, parsed in read:
            shapes, wrong_shapes = _shapes(parsed, classes)
            told.problems += [Problem(file, what, "draw it as a polygon", "warning") for what in wrong_shapes]
            told.add(source, file, shapes)
            if (size := _stated_size(parsed)) is not None:
                told.sizes[source] = size
        for source in images.all:
            if source not in owners and PurePosixPath(source).parent in {
                PurePosixPath(one).parent for one in owners
            }:
                told.bare(source, "no annotation", "save one in LabelMe", options)
        return told

    def shapes(self, dataset: Dataset, sample: Sample, size: tuple[int, int]) -> Iterable[Shape]:
        parsed = _parse(dataset.root / sample.masks[0])
        classes = {name: number for number, name in dataset.class_names.items()}
        return _shapes(parsed, classes)[0]


def _parse(path: Path) -> dict[str, Any]:
    """One annotation file.

    Raises:
        ImageError: it is none, or damaged.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: damaged JSON: {error}", "save it again in LabelMe") from None
    if not isinstance(told, dict) or not isinstance(told.get("shapes"), list) or "imagePath" not in told:
        raise ImageError(f"{path}: not an annotation of LabelMe", "move it elsewhere")
    told.pop("imageData", None)
    return told


def _labels(parsed: dict[str, Any]) -> Iterable[str]:
    return (str(one.get("label")) for one in parsed["shapes"] if isinstance(one, dict) and _draw_of(one))


def _shapes(parsed: dict[str, Any], classes: dict[str, int]) -> tuple[list[Shape], list[str]]:
    """The objects of one image, in the order of their first parts, and what is no object."""
    parts: dict[tuple[str, Any], list[Draw]] = {}
    wrong = []
    size = _stated_size(parsed)
    for number, one in enumerate(parsed["shapes"], 1):
        label = str(one.get("label")) if isinstance(one, dict) else ""
        draw = _draw_of(one)
        if draw is None:
            kind = one.get("shape_type", "polygon") if isinstance(one, dict) else "shape"
            wrong.append(f"shape {number} ('{label}', {kind}) has no area, left out")
            continue
        if size is not None and _lies_outside(one, size):
            wrong.append(f"shape {number} ('{label}') lies outside the image, left out")
            continue
        group = one.get("group_id")
        parts.setdefault((label, ("one", number) if group is None else group), []).append(draw)
    return [Shape(classes[label], partial(united, draws)) for (label, _), draws in parts.items()], wrong


def _stated_size(parsed: dict[str, Any]) -> tuple[int, int] | None:
    height, width = parsed.get("imageHeight"), parsed.get("imageWidth")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _lies_outside(one: dict[str, Any], size: tuple[int, int]) -> bool:
    drawn = (one.get("shape_type") or "polygon") in ("polygon", "rectangle")
    return drawn and lies_outside(one["points"], size[1], size[0])


def _draw_of(one: Any) -> Draw | None:
    """How a shape is drawn; None for points and lines, and for damaged ones."""
    try:
        points = [(float(x), float(y)) for x, y in one["points"]]
        kind = one.get("shape_type") or "polygon"
        if not np.isfinite(np.asarray(points)).all():
            return None
        if kind == "polygon" and len(points) >= 3:
            return partial(fill, points)
        if kind == "rectangle" and len(points) == 2:
            (x0, y0), (x1, y1) = points
            return partial(fill, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        if kind == "circle" and len(points) == 2:
            (x, y), rim = points
            return partial(fill, circle(x, y, math.dist((x, y), rim)))
        if kind == "mask" and one.get("mask"):
            return partial(_paste, str(one["mask"]), points[0])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return None


def _paste(text: str, corner: tuple[float, float], size: tuple[int, int]) -> Cutout | None:
    """A small mask, a PNG in base64, at its upper left corner.

    Raises:
        ImageError: it is damaged.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            pixels = np.asarray(picture.convert("L")) > 0
    except Exception as error:
        raise ImageError(f"a mask inside the annotation is damaged: {error}", "draw it again") from error
    left, top = round(corner[0]), round(corner[1])
    kept = pixels[max(-top, 0) : size[0] - top, max(-left, 0) : size[1] - left]
    return Cutout(kept, max(top, 0), max(left, 0), size).tight() if kept.any() else None


def _is_labelme(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if b'"shapes"' not in head:
            return False
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _HEAD))
        return b'"imagePath"' in head + file.read() or b'"imageData"' in head
