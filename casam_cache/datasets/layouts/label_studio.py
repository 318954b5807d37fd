"""Label Studio: its JSON export, with polygons in per cent of the image and brush strokes as run-length codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.datasets.layouts.annotated import (
    AnnotatedReader,
    Annotations,
    ImageFiles,
    Parsed,
    names_of,
    numbered,
)
from casam_cache.datasets.layouts.placed import Draw, Shape
from casam_cache.datasets.layouts.polygon import circle, fill, lies_outside
from casam_cache.datasets.listing import entries
from casam_cache.datasets.sample import Dataset, DatasetOptions, Problem, Sample
from casam_cache.errors import DatasetError, ImageError

_HEAD = 1 << 18
_UPLOADED = re.compile(r"^[0-9a-f]{6,10}-")
_BRUSH = ("brushlabels", "brush")


class LabelStudio(AnnotatedReader):
    """Reads an export `*.json` beside its images; each region is an object, and its label the class."""

    name = "label-studio"

    def recognises(self, path: Path) -> bool:
        try:
            return bool(_exports(path))
        except OSError:
            return False

    def load(self, path: Path, options: DatasetOptions) -> Annotations:
        exports = _exports(path)
        if len(exports) > 1:
            raise DatasetError(
                f"{path}: two readings: {' and '.join(exports)} are both exports of Label Studio", "keep one"
            )
        file = exports[0]
        told, images = Annotations(example="Label Studio"), ImageFiles(path)
        try:
            tasks: dict[str, dict[str, Any]] = _parsed(path / file)
        except ImageError as error:
            raise DatasetError(error.message, error.hint) from None
        classes = numbered(label for task in tasks.values() for label in _labels(_results(task)))
        told.classes = names_of(classes)
        owners: dict[str, str] = {}
        for number, task in tasks.items():
            where = f"{file}, task {number}"
            source, wrong = _image_of(task, images)
            annotations = _annotations(task)
            if source is None:
                told.problems.append(Problem(where, wrong, "put it below the dataset folder"))
            elif source in owners:
                message = f"annotates {source}, as {owners[source]} does, which is read"
                told.problems.append(Problem(where, message, "keep one"))
            elif len(annotations) > 1:
                message = f"{len(annotations)} annotations of {source}: any of them may be meant, left out"
                told.problems.append(Problem(where, message, "keep one, or mark one as ground truth"))
            elif not annotations:
                told.bare(source, f"no annotation in task {number}", "submit one", options)
            else:
                owners[source] = where
                shapes, said = _shapes(_results(task), classes)
                told.problems += [
                    Problem(where, what, "draw a polygon or with the brush", "warning") for what in said
                ]
                told.add(source, f"{file}#{number}", shapes)
                stated = {_size(one) for one in _results(task)} - {None}
                if len(stated) == 1 and (size := stated.pop()) is not None:
                    told.sizes[source] = size
        return told

    def shapes(self, dataset: Dataset, sample: Sample, size: tuple[int, int]) -> Iterable[Shape]:
        file, _, number = sample.masks[0].rpartition("#")
        tasks: dict[str, dict[str, Any]] = _parsed(dataset.root / file)
        if number not in tasks:
            raise ImageError(f"{dataset.root / file}: no longer holds task {number}", "run it again")
        classes = {name: number for number, name in dataset.class_names.items()}
        return _shapes(_results(tasks[number]), classes)[0]


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    """What people submitted; one that is marked as ground truth alone."""
    there = [one for one in task.get("annotations", ()) if not one.get("was_cancelled")]
    truth = [one for one in there if one.get("ground_truth")]
    return truth if len(truth) == 1 else there


def _results(task: dict[str, Any]) -> list[dict[str, Any]]:
    annotations = _annotations(task)
    return list(annotations[0].get("result", ())) if len(annotations) == 1 else []


def _image_of(task: dict[str, Any], images: ImageFiles) -> tuple[str | None, str]:
    """The image of a task: uploaded, served from local files, or named by a path or an address."""
    texts = [value for value in task.get("data", {}).values() if isinstance(value, str)]
    wrong = "it names no image"
    for text in texts:
        address = urlparse(text)
        asked = parse_qs(address.query).get("d")
        name = unquote(asked[0] if asked else address.path).lstrip("/")
        base = PurePosixPath(name).name
        for candidate in (name, base, _UPLOADED.sub("", base)):
            source, wrong = images.find(candidate)
            if source is not None:
                return source, ""
    return None, wrong


def _labels(results: Sequence[dict[str, Any]]) -> Iterable[str]:
    return (label for one in results if _draw_of(one) and (label := _label(one)))


def _label(one: dict[str, Any]) -> str:
    value = one.get("value", {})
    named = next((value[key] for key in value if key.endswith("labels") and value[key]), None)
    return str(named[0]) if named else "object"


def _shapes(results: Sequence[dict[str, Any]], classes: dict[str, int]) -> tuple[list[Shape], list[str]]:
    shapes, wrong = [], []
    for one in results:
        draw = _draw_of(one)
        corners = one.get("value", {}).get("points")
        if draw is not None and corners and lies_outside(corners, 100, 100):
            wrong.append(f"region {one.get('id')} lies outside the image, left out")
        elif draw is not None:
            shapes.append(Shape(classes[_label(one)], draw))
        elif one.get("type") not in ("choices", "textarea", "rating", "number", "taxonomy", "relation"):
            wrong.append(f"region {one.get('id')} ({one.get('type')}) has no area, left out")
    return shapes, wrong


def _draw_of(one: dict[str, Any]) -> Draw | None:
    """How a region is drawn; None for what is no area."""
    try:
        value = one["value"]
        if "points" in value and len(value["points"]) >= 3:
            return partial(_polygon, [(float(x), float(y)) for x, y in value["points"]])
        if value.get("format") == "rle" and value.get("rle"):
            return partial(_brush, value["rle"], _size(one))
        if "radiusX" in value and not value.get("rotation"):
            oval = circle(
                float(value["x"]), float(value["y"]), float(value["radiusX"]), float(value["radiusY"])
            )
            return partial(_polygon, oval)
        if "width" in value and one.get("type", "").startswith("rectangle") and not value.get("rotation"):
            x, y, wide, tall = (float(value[key]) for key in ("x", "y", "width", "height"))
            return partial(_polygon, [(x, y), (x + wide, y), (x + wide, y + tall), (x, y + tall)])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return None


def _polygon(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> Cutout | None:
    return fill([(x * size[1] / 100, y * size[0] / 100) for x, y in points], size)


def _brush(rle: Sequence[int], stated: tuple[int, int] | None, size: tuple[int, int]) -> Cutout | None:
    if stated is not None and stated != size:
        raise ImageError(
            f"a brush region of {stated[1]} x {stated[0]} pixels in an image of {size[1]} x {size[0]}",
            "export the annotations again",
        )
    try:
        values = decode_brush(bytes(rle))
    except (ValueError, IndexError) as error:
        raise ImageError(f"a brush region is damaged: {error}", "export the annotations again") from None
    if len(values) != 4 * size[0] * size[1]:
        raise ImageError("a brush region does not fill its image", "export the annotations again")
    pixels = values.reshape(*size, 4)[..., 3] > 127
    return Cutout.of(pixels).tight() if pixels.any() else None


def decode_brush(code: bytes) -> np.ndarray:
    """The values (uint8) of thi-ng's run-length code, which Label Studio stores brush strokes in: RGBA, row by row.

    Raises:
        ValueError: it breaks off.
    """
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > len(bits):
            raise ValueError("it breaks off")
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    if total > 1 << 31:
        raise ValueError(f"{total:,} values")
    values = np.zeros(total, np.uint8)
    place = 0
    while place < total:
        run = take(1)
        end = min(place + 1 + take(lengths[take(2)]), total)
        if run:
            values[place:end] = take(word)
        else:
            for index in range(place, end):
                values[index] = take(word)
        place = end
    return values


def _size(one: dict[str, Any]) -> tuple[int, int] | None:
    try:
        return int(one["original_height"]), int(one["original_width"])
    except (KeyError, TypeError, ValueError):
        return None


def _exports(root: Path) -> list[str]:
    return [
        entry.name
        for entry in entries(root)
        if entry.name.lower().endswith(".json") and entry.is_file() and _is_export(Path(entry.path))
    ]


def _is_export(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD).lstrip(b"\xef\xbb\xbf \r\n\t")
    return head.startswith(b"[") and b'"annotations"' in head and b'"result"' in head


def _parse(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {
            str(task["id"]): task for task in json.loads(path.read_text(encoding="utf-8-sig")) if task["data"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(
            f"{path}: damaged export of Label Studio: {error!r}", "export it again as JSON"
        ) from None


_parsed = Parsed(_parse)
