"""COCO: a JSON file that lists images, categories and objects drawn as polygons or runs (RLE)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.datasets.extras import extra
from casam_cache.datasets.layouts.annotated import AnnotatedReader, Annotations, ImageFiles, Parsed
from casam_cache.datasets.layouts.placed import Shape
from casam_cache.datasets.layouts.polygon import lies_outside
from casam_cache.datasets.layouts.runs import cutout_of_runs, decode_counts
from casam_cache.datasets.listing import entries
from casam_cache.datasets.sample import Dataset, DatasetOptions, Problem, Sample, SplitName
from casam_cache.datasets.splits import SPLIT_FOLDERS
from casam_cache.errors import CasamError, DatasetError, ImageError

_HEAD = 1 << 20
_SPLIT = re.compile(
    r"(?<![a-z])(train|training|val|valid|validation|test|testing)(?=\d|[^a-z]|$)", re.IGNORECASE
)
_COUNTED = 1 << 32  # pixels
_BEHIND = 2  # pixels of a canvas behind what is drawn on it
_THIN = 2  # pixels; a thinner outline may hold none
_OTHER_TASKS = ("captions", "person_keypoints", "stuff", "panoptic")


@dataclass(frozen=True)
class _File:
    """One parsed file.

    Attributes:
        images: as listed.
        classes: name of each class by its number.
        class_of: the number of each category's id.
        objects: annotations by the image's id, as text.
    """

    images: list[dict[str, Any]]
    classes: dict[int, str]
    class_of: dict[Any, int]
    objects: dict[str, list[dict[str, Any]]]


class Coco(AnnotatedReader):
    """Reads `annotations/*.json`, `*.json` or Roboflow's `train/_annotations.coco.json`.

    Pixels are those of pycocotools. A category's id is its class, unless one is 0: then all are numbered from 1.
    """

    name = "coco"
    splits_are = "the annotation files"

    def recognises(self, path: Path) -> bool:
        try:
            return bool(_files(path))
        except OSError:
            return False

    def load(self, path: Path, options: DatasetOptions) -> Annotations:
        told, images = Annotations(), ImageFiles(path)
        splits = {file: _split_of(file) for file in _files(path)}
        if len(splits) > 1 and (None in splits.values() or len(set(splits.values())) < len(splits)):
            raise DatasetError(
                f"{path}: two readings: {' and '.join(splits)} may be splits, or annotate the same images",
                "keep one, or one a split with train, val or test in its name",
            )
        owners: dict[str, str] = {}
        for file, split in splits.items():
            try:
                parsed: _File = _parsed(path / file)
            except ImageError as error:
                raise DatasetError(error.message, error.hint) from None
            if told.classes and told.classes != parsed.classes:
                raise DatasetError(
                    f"{path}: {' and '.join(splits)} number their categories in two ways",
                    "give all of them the same categories",
                )
            told.classes = parsed.classes
            _add(told, path, file, parsed, split, images, owners)
        told.example = f"COCO in {', '.join(splits)}"
        missing = sorted(set(images.all) - owners.keys())
        if missing:
            message = f"{len(missing)} images are in no annotation file, for example {missing[0]}; left out"
            told.problems.append(Problem(".", message, "list them, also without objects", "warning"))
        return told

    def shapes(self, dataset: Dataset, sample: Sample, size: tuple[int, int]) -> Iterable[Shape]:
        file, _, number = sample.masks[0].rpartition("#")
        path = dataset.root / file
        parsed: _File = _parsed(path)
        objects = parsed.objects.get(number, [])
        return [shape for one in objects if (shape := _shape(path, one, parsed)) is not None]


def _add(
    told: Annotations,
    root: Path,
    file: str,
    parsed: _File,
    split: SplitName | None,
    images: ImageFiles,
    owners: dict[str, str],
) -> None:
    """The images of one file, and what is wrong with them."""
    crowds = 0
    for image in parsed.images:
        name, number = str(image.get("file_name", "")), str(image.get("id"))
        source, wrong = images.find(name, _folders(file, split))
        if source is None:
            told.problems.append(Problem(file, wrong, "put it beside the others, or correct its file_name"))
            continue
        if source in owners:
            told.problems.append(
                Problem(
                    source, f"annotated twice, in {owners[source]} and {file}; the first is read", "keep one"
                )
            )
            continue
        owners[source] = file
        objects = parsed.objects.get(number, [])
        size = _stated_size(image)
        if size is not None:
            told.sizes[source] = size
        shapes = []
        for one in objects:
            wrong = _what_is_wrong(one, parsed) or _why_without_pixels(root / file, one, size)
            if wrong:
                where = f"{file}, object {one.get('id')} of {name}"
                told.problems.append(Problem(where, wrong, "correct it, or remove it", "warning"))
            elif (shape := _shape(root / file, one, parsed)) is not None:
                shapes.append(shape)
        crowds += any(shape.crowd for shape in shapes)
        told.add(source, f"{file}#{number}", shapes, split)
    if crowds:
        message = (
            f"{crowds} image{'s hold' if crowds > 1 else ' holds'} crowds (iscrowd is 1, as CVAT also writes what is "
            "painted): they count in binary, classes and components, and are no single object in instances"
        )
        told.problems.append(Problem(file, message, "set iscrowd to 0 where it is one object", "warning"))
    listed = {str(image.get("id")) for image in parsed.images}
    lost = sorted(parsed.objects.keys() - listed)
    if lost:
        count = sum(len(parsed.objects[number]) for number in lost)
        message = (
            f"{count} object{'s are' if count > 1 else ' is'} of images that are not listed, for example of the id "
            f"{lost[0]}; left out"
        )
        told.problems.append(Problem(file, message, "list the image, or export again", "warning"))


def _stated_size(image: dict[str, Any]) -> tuple[int, int] | None:
    try:
        return int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError):
        return None


def _why_without_pixels(path: Path, one: dict[str, Any], size: tuple[int, int] | None) -> str:
    """Why an object would be lost in silence; only outlines that may be so are drawn for it."""
    drawn = one["segmentation"]
    if size is None or isinstance(drawn, dict):
        return ""
    corners = [np.asarray(part, np.float64).reshape(-1, 2) for part in drawn]
    if all(lies_outside(part, size[1], size[0]) for part in corners):
        return "it lies outside its image, left out"
    if all((np.ptp(part.clip(0, size[::-1]), axis=0) < _THIN).any() for part in corners):
        try:
            return "" if _draw(path, one, size) else "its outline holds no pixel, left out"
        except ImageError:  # drawing it says what is wrong
            return ""
    return ""


def _what_is_wrong(one: dict[str, Any], parsed: _File) -> str:
    if one.get("category_id") not in parsed.class_of:
        return f"its category {one.get('category_id')} is not listed"
    drawn = one.get("segmentation")
    if not drawn:
        return "a box without a mask, left out" if one.get("bbox") else "no mask"
    if isinstance(drawn, dict):
        return "" if {"counts", "size"} <= drawn.keys() else "a damaged run-length code, left out"
    whole = isinstance(drawn, list) and all(
        isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 and _finite(part) for part in drawn
    )
    return "" if whole else "a damaged polygon, left out"


def _finite(numbers: list[Any]) -> bool:
    try:
        return bool(np.isfinite(np.asarray(numbers, np.float64)).all())
    except (TypeError, ValueError):
        return False


def _shape(path: Path, one: dict[str, Any], parsed: _File) -> Shape | None:
    if _what_is_wrong(one, parsed):
        return None
    crowd = bool(one.get("iscrowd"))
    return Shape(parsed.class_of[one["category_id"]], partial(_draw, path, one), crowd)


def _draw(path: Path, one: dict[str, Any], size: tuple[int, int]) -> Cutout | None:
    """The pixels of an object as pycocotools draws them.

    Raises:
        ImageError: it cannot be drawn, or is of another size.
    """
    drawn = one["segmentation"]
    where = f"{path}: object {one.get('id')}"
    try:
        if isinstance(drawn, dict):
            counts = drawn["counts"]
            stated = tuple(int(length) for length in drawn["size"])
            if stated != size:
                raise ImageError(
                    f"{where} is drawn on {stated[1]} x {stated[0]} pixels, its image has {size[1]} x {size[0]}",
                    "export the annotations again",
                )
            if isinstance(counts, list):
                if sum(counts) != size[0] * size[1]:
                    raise ImageError(f"{where}: its runs do not fill the image", "export it again")
                return cutout_of_runs(counts, size)
        else:
            return _polygons(extra("pycocotools.mask", path, "COCO annotations"), drawn, size)
        return cutout_of_runs(decode_counts(counts.encode() if isinstance(counts, str) else counts), size)
    except (ImageError, CasamError):
        raise
    except Exception as error:
        raise ImageError(f"{where} cannot be drawn: {error}", "export the annotations again") from error


def _polygons(coco: Any, drawn: list[list[float]], size: tuple[int, int]) -> Cutout | None:
    """Polygons of one object, as pycocotools draws them, without the memory of the image.

    It counts pixels in 32 bits. In a larger image an object is drawn on a canvas of its own, which begins a whole
    number of pixels further: rounding may then go the other way where an edge passes exactly through a tenth of one.
    """
    if size[0] * size[1] < _COUNTED:
        return cutout_of_runs(decode_counts(coco.merge(coco.frPyObjects(drawn, *size))["counts"]), size)
    parts = [np.asarray(part, np.float64).reshape(-1, 2) for part in drawn]
    corners = np.concatenate(parts)
    left, top = np.floor(corners.min(axis=0)).clip(0).astype(int).tolist()
    right, bottom = (np.ceil(corners.max(axis=0)) + _BEHIND).clip(0, size[::-1]).astype(int).tolist()
    if right <= left or bottom <= top:
        return None
    canvas = (bottom - top, right - left)
    shifted = [(part - (left, top)).ravel().tolist() for part in parts]
    runs = coco.merge(coco.frPyObjects(shifted, *canvas))["counts"]
    found = cutout_of_runs(decode_counts(runs), canvas)
    return None if found is None else Cutout(found.pixels, found.top + top, found.left + left, size)


def _files(root: Path) -> list[str]:
    """The annotation files of objects, relative to the dataset folder, sorted."""
    folders = [
        "",
        *(
            f"{entry.name}/"
            for entry in entries(root)
            if entry.is_dir()
            and entry.name.casefold() in {"annotations", "annotation", "labels", *SPLIT_FOLDERS}
        ),
    ]
    names = [
        f"{folder}{entry.name}"
        for folder in folders
        for entry in entries(root / folder)
        if entry.name.lower().endswith(".json") and entry.is_file() and _is_coco(Path(entry.path))
    ]
    objects = [name for name in names if not PurePosixPath(name).name.lower().startswith(_OTHER_TASKS)]
    return objects or names


def _is_coco(path: Path) -> bool:
    with path.open("rb") as file:
        head, size = file.read(_HEAD), path.stat().st_size
        file.seek(max(0, size - _HEAD))
        ends = head + file.read(_HEAD)
    return (
        head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{")
        and b'"images"' in ends
        and b'"file_name"' in ends
        and (b'"annotations"' in ends or b'"image_id"' in ends)
    )


def _split_of(file: str) -> SplitName | None:
    """What the name of a file says, else that of its folder."""
    for name in reversed(PurePosixPath(file).parts):
        found = {SPLIT_FOLDERS[word.lower()] for word in _SPLIT.findall(name)}
        if len(found) == 1:
            return found.pop()
    return None


def _folders(file: str, split: SplitName | None) -> list[str]:
    """Where the images of an annotation file may lie."""
    own = PurePosixPath(file).parent.as_posix()
    named = [word for word, meant in SPLIT_FOLDERS.items() if meant == split]
    years = [f"{word}{year}" for word in named for year in ("", "2017", "2014")]
    below = [f"{folder}{word}" for folder in ("images/", "") for word in years]
    return [own, *below, *(f"{word}/images" for word in named), "images", "JPEGImages"]


def _parse(path: Path) -> _File:
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        images, objects = list(told["images"]), list(told.get("annotations", ()))
        named = {one["id"]: str(one.get("name", one["id"])) for one in told.get("categories", ())}
        by_image: dict[str, list[dict[str, Any]]] = {}
        for one in objects:
            by_image.setdefault(str(one["image_id"]), []).append(one)
        used = Counter(one.get("category_id") for one in objects)
        if not named:
            named = {number: str(number) for number in sorted(used) if number is not None}
        counted = min(named, default=1) >= 1
        class_of = {id: (id if counted else place) for place, id in enumerate(sorted(named), 1)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageError(f"{path}: damaged COCO annotations: {error!r}", "export them again") from None
    return _File(images, {class_of[id]: name for id, name in named.items()}, class_of, by_image)


_parsed = Parsed(_parse)
