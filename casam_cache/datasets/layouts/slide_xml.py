"""XML of programs for slides: ASAP (`ASAP_Annotations`) and Aperio ImageScope (`Annotations` with `Regions`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from casam_cache.datasets.layouts.annotated import Parsed
from casam_cache.datasets.layouts.outlines import UNNAMED, Outlined, OutlineReader, Outlines
from casam_cache.datasets.layouts.polygon import circle
from casam_cache.errors import ImageError

_HEAD = 4096
_NO_AREA = ("dot", "pointset", "measurement")  # of ASAP
_ELLIPSE, _OTHERS = "2", ("3", "4", "5")  # of ImageScope: arrows, rulers, texts


class SlideXml(OutlineReader):
    """Reads `x.xml` beside `x.tif`, outlines in pixels of the whole image.

    ASAP's class is the group of an annotation, ImageScope's the name of a layer; where it says none, `object`.
    ImageScope's negative regions are holes of the outlines that they lie in.
    """

    name = "slide-xml"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    program: ClassVar[str] = "ASAP or ImageScope"

    def is_one(self, path: Path) -> bool:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        return b"<ASAP_Annotations" in head or (b"<Annotations" in head and b"MicronsPerPixel" in head)

    def parse(self, path: Path) -> Outlines:
        found: Outlines = _parsed(path)
        return found


def _parse(path: Path) -> Outlines:
    try:
        root = ElementTree.fromstring(path.read_bytes())
        return _asap(root) if root.tag == "ASAP_Annotations" else _image_scope(root)
    except (OSError, ElementTree.ParseError, ValueError, TypeError) as error:
        raise ImageError(f"{path}: damaged XML: {error}", "save it again") from None


_parsed = Parsed(_parse)


def _asap(root: Element) -> Outlines:
    found = Outlines()
    for one in root.iter("Annotation"):
        kind = one.get("Type", "Polygon")
        corners = _corners(sorted(one.iter("Coordinate"), key=lambda point: float(point.get("Order", 0))))
        if kind.lower() in _NO_AREA or len(corners) < 3:
            found.left_out[f"{kind}, without an area"] += 1
            continue
        group = one.get("PartOfGroup", "None")
        found.objects.append(Outlined(UNNAMED if group in ("None", "") else group, ((corners,),)))
    return found


def _image_scope(root: Element) -> Outlines:
    found = Outlines()
    for layer in root.iter("Annotation"):
        label = _layer_name(layer)
        holes = []
        outlines: list[list[tuple[float, float]]] = []
        for region in layer.iter("Region"):
            corners = _corners(region.iter("Vertex"))
            if region.get("Type") == _ELLIPSE and len(corners) == 2:  # those of the rectangle around it
                (x0, y0), (x1, y1) = corners
                corners = list(circle((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2, abs(y1 - y0) / 2))
            if region.get("Type") in _OTHERS or len(corners) < 3:
                found.left_out["regions without an area"] += 1
            elif region.get("NegativeROA") == "1":
                holes.append(corners)
            else:
                outlines.append(corners)
        inside = [[hole for hole in holes if _meet(outline, hole)] for outline in outlines]
        found.objects += [
            Outlined(label, ((outline, *own),)) for outline, own in zip(outlines, inside, strict=True)
        ]
    return found


def _layer_name(layer: Element) -> str:
    """What a layer is called, else its description among its attributes."""
    name = layer.get("Name") or ""
    if not name:
        names = [one.get("Value", "") for one in layer.iter("Attribute") if one.get("Name") == "Description"]
        name = next(filter(None, names), "")
    return name or UNNAMED


def _corners(points: Iterable[Element]) -> list[tuple[float, float]]:
    corners = [(float(point.get("X", "nan")), float(point.get("Y", "nan"))) for point in points]
    if not all(math.isfinite(x) and math.isfinite(y) for x, y in corners):
        raise ValueError("a corner is no number")
    return corners


def _meet(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> bool:
    """Whether the rectangles around two outlines share anything."""
    return all(
        min(point[axis] for point in first) <= max(point[axis] for point in second)
        and min(point[axis] for point in second) <= max(point[axis] for point in first)
        for axis in (0, 1)
    )
