"""GeoJSON of QuPath: a file of features an image, with outlines in pixels of the whole image."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

from casam_cache.datasets.layouts.annotated import Parsed
from casam_cache.datasets.layouts.outlines import UNNAMED, Outlined, OutlineReader, Outlines, Polygon
from casam_cache.errors import ImageError

_HEAD = 4096
_FOUND = ("detection", "cell", "tile")  # what QuPath's programs find, in what people draw


class GeoJson(OutlineReader):
    """Reads `x.geojson`, or `x.json` with features, beside `x.tif`: polygons with their holes, in several parts or one.

    The class of an object is its classification; without one it is `object`. In a file that has detections or cells,
    what people drew without a classification is where they were looked for, and no object.
    """

    name = "geojson"
    suffixes: ClassVar[tuple[str, ...]] = (".geojson", ".json")
    program: ClassVar[str] = "QuPath"

    def is_one(self, path: Path) -> bool:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        return b'"FeatureCollection"' in head or (b'"Feature"' in head and b'"geometry"' in head)

    def parse(self, path: Path) -> Outlines:
        found: Outlines = _parsed(path)
        return found


def _parse(path: Path) -> Outlines:
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        features = told["features"] if isinstance(told, dict) else list(told)
        kinds = [_kind(one) for one in features]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ImageError(f"{path}: damaged GeoJSON: {error}", "export it again") from None
    found = Outlines()
    detected = any(kind in _FOUND for kind in kinds)
    for one, kind in zip(features, kinds, strict=True):
        label = _label(one)
        if detected and kind not in _FOUND and label is None:
            found.left_out["areas without a class where there are detections"] += 1
            continue
        polygons = _polygons(one.get("geometry"))
        if polygons is None:
            shape = (one.get("geometry") or {}).get("type", "geometry")
            found.left_out[f"{shape}, without an area or damaged"] += 1
        else:
            found.objects.append(Outlined(label or UNNAMED, polygons))
    return found


_parsed = Parsed(_parse)


def _kind(feature: dict[str, Any]) -> str:
    properties = feature.get("properties") or {}
    kind = properties.get("objectType", properties.get("object_type", ""))
    return str(kind or "").lower().removeprefix("pathcellobject").removeprefix("pathdetectionobject")


def _label(feature: dict[str, Any]) -> str | None:
    """The name of the classification; QuPath joins those of a derived one by colons, or lists them."""
    given = (feature.get("properties") or {}).get("classification")
    if isinstance(given, dict):
        names = given.get("names")
        given = ": ".join(map(str, names)) if names else given.get("name")
    return str(given) if given else None


def _polygons(geometry: Any) -> tuple[Polygon, ...] | None:
    """The parts of an area, each an outline and its holes; None of what is none."""
    try:
        kind, given = geometry["type"], geometry["coordinates"]
        parts = {"Polygon": [given], "MultiPolygon": given}.get(kind)
        if not parts:
            return None
        read = tuple(tuple(_ring(ring) for ring in part) for part in parts)
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return read if all(part and all(part) for part in read) else None


def _ring(ring: Any) -> list[tuple[float, float]]:
    """The corners of an outline; none where it is no area."""
    corners = [(float(point[0]), float(point[1])) for point in ring]
    whole = all(math.isfinite(x) and math.isfinite(y) for x, y in corners)
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners = corners[:-1]
    return corners if whole and len(corners) >= 3 else []
