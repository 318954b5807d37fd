"""DDTI, thyroid ultrasound: an XML file a case, with polygons as JSON inside, beside its images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from casam_cache.datasets.base import FilesDone, Reader
from casam_cache.datasets.images import image_size, image_suffixes, load_array
from casam_cache.datasets.listing import entries, walk
from casam_cache.datasets.masks import regions
from casam_cache.datasets.published.assemble import Item, assemble
from casam_cache.datasets.sample import Dataset, DatasetOptions, Mask, MaskValues, Problem, Sample
from casam_cache.errors import CasamError, ImageError

Polygon = tuple[tuple[float, float], ...]
"""(x, y) of its corners, in pixels of the image."""

_MOST_BYTES = 10_000_000  # of an XML file; the largest of the dataset has some 30 kB
_CORNERS = re.compile(r'"points"\s*:\s*(\[[^\[\]]*\])')


@dataclass(frozen=True)
class Case:
    """One XML file.

    Attributes:
        polygons: of each image by its number.
        broken: what is wrong with the annotation of an image, by its number; whole polygons of it are kept.
    """

    polygons: dict[str, tuple[Polygon, ...]]
    broken: dict[str, str]


class Ddti(Reader):
    """Reads `7.xml` beside `7_1.jpg`, `7_2.jpg`; each polygon is a nodule."""

    name = "ddti"
    precedence = 2

    def recognises(self, path: Path) -> bool:
        try:
            names = {entry.name for entry in entries(path)}
            cases = sorted(name for name in names if re.fullmatch(r"\d+\.xml", name.lower()))
            stems = {PurePosixPath(name).stem for name in names}
            return any(f"{name[:-4]}_1" in stems for name in cases) and b"<svg" in _head(path / cases[0])
        except OSError:
            return False

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        """The dataset; the group of an image is its case.

        Raises:
            DatasetError: nothing can be used.
        """
        images = [name for name, _ in walk(path) if PurePosixPath(name).suffix.lower() in image_suffixes()]
        cases: dict[str, Case | None] = {}
        items: list[Item] = []
        problems: list[Problem] = []
        for done, name in enumerate(images, 1):
            match = re.fullmatch(r"(.*?(\d+))_(\d+)", str(PurePosixPath(name).with_suffix("")))
            if match is None:
                problems.append(Problem(name, "no image of a case by its name, e.g. 7_1.jpg", "rename it"))
                continue
            stem, number = match[1], match[3]
            file = f"{stem}.xml"
            if file not in cases:
                cases[file] = _case(path, file, problems)
            case = cases[file]
            id = f"{stem}_{number}"
            drawn = _kept(path, name, id, case, number, options, problems)
            items.append(Item(id, name, stem, (file,), labelled=bool(drawn)))
            if progress:
                progress(done, len(images))
        _report_unused(cases, items, problems)
        asked = options.masks
        reason = "as asked" if asked else "each polygon is a nodule"
        return assemble(
            path, task, options, items, problems,
            mode=(asked or "instances", reason), values=MaskValues((0, 1)),
        )  # fmt: skip

    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        return load_array(root / source, max_pixels)

    def masks(self, dataset: Dataset, sample: Sample, size: tuple[int, int] | None) -> Iterator[Mask]:
        if not sample.labelled:
            return
        limit = dataset.options.max_pixels
        height, width = size or image_size(dataset.root / sample.source, limit)
        number = sample.id.rpartition("_")[2]
        drawn = read_case(dataset.root / sample.masks[0]).polygons.get(number, ())
        bitmaps = [bitmap for bitmap in (fill(one, (height, width)) for one in drawn) if bitmap.any()]
        if dataset.mask_mode == "instances":
            yield from (Mask(bitmap, 1, place) for place, bitmap in enumerate(bitmaps, 1))
        elif bitmaps:
            union = np.logical_or.reduce(bitmaps)
            parts = regions(union) if dataset.mask_mode == "components" else [union]
            yield from (Mask(part, 1, place) for place, part in enumerate(parts, 1))

    def file_of(self, source: str) -> str:
        return source


def read_case(path: Path) -> Case:
    """The polygons of a case.

    Raises:
        ImageError: the file is no XML.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ImageError(
                f"{path}: {path.stat().st_size:,} bytes are too many for a case of DDTI", "look at it"
            )
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise ImageError(f"{path}: damaged XML: {error}", "copy it again from its source") from None
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}", "restore it") from None
    polygons: dict[str, tuple[Polygon, ...]] = {}
    broken: dict[str, str] = {}
    for mark in root.iter("mark"):
        number, text = (mark.findtext("image") or "").strip(), (mark.findtext("svg") or "").strip()
        if not text:
            continue
        found, wrong = _polygons(text)
        polygons[number] = (*polygons.get(number, ()), *found)
        if wrong:
            broken[number] = wrong
    return Case(polygons, broken)


def fill(polygon: Polygon, size: tuple[int, int]) -> np.ndarray:
    """A polygon with its outline as a bool bitmap (H, W); what lies outside is cut off."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(canvas).polygon(list(polygon), fill=1, outline=1)
    return np.array(canvas, np.bool_)


def _polygons(text: str) -> tuple[list[Polygon], str]:
    """The whole polygons in the JSON of a mark, and what is wrong with it."""
    try:
        listed = [region["points"] for region in json.loads(text)]
    except (ValueError, TypeError, KeyError):
        whole = _CORNERS.findall(text)
        try:
            listed = [json.loads(corners) for corners in whole]
        except ValueError:
            return [], "its annotation is damaged"
        if not listed:
            return [], "its annotation is damaged"
        lost = len(re.findall(r'"points"', text)) - len(listed)
        wrong = "its annotation breaks off" + (
            f", {lost} polygon is lost" if lost else " behind the last polygon"
        )
    else:
        wrong = ""
    found = []
    for corners in listed:
        try:
            polygon = tuple((float(corner["x"]), float(corner["y"])) for corner in corners)
        except (TypeError, KeyError, ValueError):
            wrong = wrong or "a polygon of its annotation is damaged"
            continue
        if len(polygon) >= 3 and np.isfinite(polygon).all():
            found.append(polygon)
        elif polygon:
            wrong = wrong or f"a polygon of its annotation has {len(polygon)} corners"
    return found, wrong


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100_000)


def _case(root: Path, name: str, problems: list[Problem]) -> Case | None:
    if not (root / name).is_file():
        return None
    try:
        return read_case(root / name)
    except ImageError as error:
        problems.append(Problem(name, error.message.removeprefix(f"{root / name}: "), error.hint))
        return Case({}, {})


def _kept(
    root: Path,
    name: str,
    id: str,
    case: Case | None,
    number: str,
    options: DatasetOptions,
    problems: list[Problem],
) -> list[Polygon]:
    """The polygons of an image that touch it; what is lost becomes a problem."""
    if case is None:
        problems.append(Problem(name, "no XML file of its case", "copy it again", "warning", id))
        return []
    drawn = case.polygons.get(number, ())
    if number in case.broken:
        kept = f"; {len(drawn)} whole polygons are kept" if drawn else ""
        problems.append(Problem(name, case.broken[number] + kept, "look at its mask", "warning", id))
    if not drawn:
        return []
    try:
        height, width = image_size(root / name, options.max_pixels)
    except CasamError:
        return list(drawn)  # decoding it says what is wrong
    inside = [
        polygon
        for polygon in drawn
        if max(x for x, _ in polygon) >= 0
        and max(y for _, y in polygon) >= 0
        and min(x for x, _ in polygon) < width
        and min(y for _, y in polygon) < height
    ]
    if len(inside) < len(drawn):
        lost = len(drawn) - len(inside)
        problems.append(Problem(name, f"{lost} polygons lie outside the image", "look at it", "warning", id))
    return inside


def _report_unused(cases: dict[str, Case | None], items: list[Item], problems: list[Problem]) -> None:
    """Polygons of images that are not there."""
    there = {item.id for item in items}
    for file, case in sorted(cases.items()):
        for number, drawn in (case.polygons if case else {}).items():
            if drawn and f"{file[:-4]}_{number}" not in there:
                what = f"the image {number or 'without a number'} of its annotation is not there"
                problems.append(Problem(file, what, "copy it again", "warning"))
