"""What a page asks: which images there are, one of them, the masks of a prompt, and to keep a mask."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from casam_cache.bench.predict import Prediction, Predictor
from casam_cache.errors import CasamError, OptionError
from casam_cache.report.html.outlines import outline
from casam_cache.view.kept import Kept
from casam_cache.view.sources import Source, reason_of

SIDE = 1600  # pixels, the longer side of an image as it is sent
MOST_POINTS = 200
LONGEST = 100  # letters of a category


@dataclass(frozen=True)
class Asked:
    """One prompt on one image, in pixels of the image; a pixel's index is its place.

    Attributes:
        source, place: of the image.
        points: x, y.
        labels: 1 for the object, 0 for what is not, of each point.
        box: x0, y0, x1, y1, or None.
    """

    source: int
    place: int
    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]
    box: tuple[float, ...] | None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Asked:
        """What a page sent.

        Raises:
            OptionError: something in it is of another kind.
        """
        points, box = body.get("points", []), body.get("box")
        if not isinstance(points, list) or len(points) > MOST_POINTS:
            raise OptionError(f"points are a list of at most {MOST_POINTS}")
        found = [_numbers(point, 3, "a point is x, y, label") for point in points]
        return cls(
            *place_of(body),
            tuple((x, y) for x, y, _ in found),
            tuple(int(label) for *_, label in found),
            None if box is None else _numbers(box, 4, "a box is x0, y0, x1, y1"),
        )

    @property
    def prompt(self) -> dict[str, Any]:
        """As `Predictor.predict` takes it.

        Raises:
            OptionError: it is empty.
        """
        if not self.points and self.box is None:
            raise OptionError("no prompt", "click on the object, or drag a box around it")
        points = {"points": self.points, "labels": self.labels} if self.points else {}
        return {**points, **({} if self.box is None else {"boxes": self.box})}


def place_of(body: Mapping[str, Any]) -> tuple[int, int]:
    """Source and place of an image that a page names.

    Raises:
        OptionError: they are no numbers.
    """
    source, place = body.get("source"), body.get("place")
    if type(source) is not int or type(place) is not int:
        raise OptionError("an image is named by source and place, two whole numbers")
    return source, place


def _numbers(value: Any, count: int, rule: str) -> tuple[float, ...]:
    if (
        not isinstance(value, list)
        or len(value) != count
        or any(type(one) not in (int, float) for one in value)
    ):
        raise OptionError(rule)
    if not all(math.isfinite(one) for one in value):
        raise OptionError(rule)
    return tuple(float(one) for one in value)


class Session:
    """A predictor over sources; asked from several threads, it answers one at a time.

    Args:
        predictor: of a run, or of the frozen SAM.
        sources: at least one.
        kept: where masks go.
        run: of the predictor; None: the frozen SAM's alone.
    """

    def __init__(
        self, predictor: Predictor, sources: Sequence[Source], kept: Kept, run: Path | None = None
    ) -> None:
        self._predictor, self._sources, self._kept, self._run = predictor, sources, kept, run
        self._lock = Lock()
        self._at: tuple[int, int] | None = None

    def listing(self) -> dict[str, Any]:
        """Every image by its place, and what answers."""
        return {
            "run": None if self._run is None else f"{self._run.parent.name}/{self._run.name}",
            "stand_in": self._predictor.stand_in,
            "out": str(self._kept.folder),
            "sources": [{"name": source.name, "ids": list(source.ids)} for source in self._sources],
        }

    def open(self, source: int, place: int) -> dict[str, Any]:
        """Makes an image the current one: of a folder it is encoded now. Its size, and how many masks are kept.

        Raises:
            CasamError: there is none, or it cannot be used.
        """
        with self._lock:
            own = self._show(source, place)
            height, width = self._predictor.size
            kept = self._kept.count(own.name, own.ids[place])
        return {"width": width, "height": height, "file": own.files[place], "kept": kept}

    def image(self, source: int, place: int) -> bytes:
        """An image as PNG, its longer side `SIDE` at most.

        Raises:
            CasamError: there is none, or it cannot be read.
        """
        own = self._source(source, place)
        with self._lock:
            pixels = own.pixels(self._predictor, place)
        height, width = pixels.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        picture = Image.fromarray(pixels)
        if scale < 1:
            size = (max(1, round(scale * width)), max(1, round(scale * height)))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        data = io.BytesIO()
        picture.save(data, "PNG", compress_level=1)
        return data.getvalue()

    def predict(self, asked: Asked) -> dict[str, Any]:
        """The outlines of both masks of a prompt, as SVG paths in pixels of the image.

        Raises:
            CasamError: the image or the prompt cannot be used.
        """
        found = self._predictions(asked)
        return {
            "masks": {whose: _told(prediction) for whose, prediction in found.items()},
            "routing": _routing(next(reversed(found.values()))),
        }

    def keep(self, asked: Asked, whose: str, name: str) -> dict[str, Any]:
        """Keeps one of the masks of a prompt, as `predict` showed it.

        Args:
            asked: the prompt.
            whose: `frozen` or `fitted`.
            name: what it is of, a category of COCO; empty: `object`.

        Raises:
            CasamError: it cannot be kept.
        """
        name = name.strip() or "object"
        if len(name) > LONGEST or not name.isprintable():
            raise OptionError(f"a name is at most {LONGEST} letters on one line")
        found = self._predictions(asked)
        if whose not in found:
            raise OptionError(f"there is no mask of '{whose}'", f"available: {', '.join(found)}")
        own, prediction = self._source(asked.source, asked.place), found[whose]
        item = own.ids[asked.place]
        told = {
            "by": _by(prediction), "run": None if self._run is None or whose == "frozen" else str(self._run),
            "score": round(prediction.predicted_iou, 4), "points": [list(point) for point in asked.points],
            "labels": list(asked.labels), "box": None if asked.box is None else list(asked.box),
        }  # fmt: skip
        with self._lock:
            path = self._kept.keep(own.name, item, own.files[asked.place], prediction.mask, name, told)
            return {"file": str(path), "kept": self._kept.count(own.name, item)}

    def drop(self, source: int, place: int) -> dict[str, Any]:
        """Removes the mask of an image that was kept last.

        Raises:
            CasamError: there is none.
        """
        own = self._source(source, place)
        with self._lock:
            path = self._kept.drop_last(own.name, own.ids[place])
            return {"file": str(path), "kept": self._kept.count(own.name, own.ids[place])}

    def _predictions(self, asked: Asked) -> dict[str, Prediction]:
        with self._lock:
            self._show(asked.source, asked.place)
            found = {"frozen": self._predictor.predict(**asked.prompt, frozen=True)}
            if self._run is not None:
                found["fitted"] = self._predictor.predict(**asked.prompt)
        return found

    def _show(self, source: int, place: int) -> Source:
        own = self._source(source, place)
        if self._at != (source, place):
            self._at = None  # also where it fails half way
            own.show(self._predictor, place)
            self._at = source, place
        return own

    def _source(self, source: int, place: int) -> Source:
        if not 0 <= source < len(self._sources) or not 0 <= place < len(self._sources[source].ids):
            raise OptionError(f"there is no image {place} of source {source}", "load the page again")
        return self._sources[source]


def _told(prediction: Prediction) -> dict[str, Any]:
    mask: np.ndarray = prediction.mask
    return {
        "outline": outline(mask, 1.0),
        "score": round(prediction.predicted_iou, 4),
        "area": int(np.count_nonzero(mask)),
        "by": _by(prediction),
    }


def _by(prediction: Prediction) -> str:
    if prediction.head == "identity":
        return "the frozen SAM"
    return f"{prediction.head} of {prediction.task}" if prediction.task else prediction.head


def _routing(prediction: Prediction) -> str:
    decision = prediction.decision
    if decision is None:
        return ""
    where = "to no task: the frozen SAM" if decision.fallback else f"to {decision.task}"
    sides = f"score {decision.score:.4g}, threshold {decision.threshold:.4g}"
    return f"routed {where} (nearest task {decision.nearest}, {sides})"


def failure(error: CasamError) -> dict[str, str]:
    """An error as a page shows it."""
    return {"error": reason_of(error)}
