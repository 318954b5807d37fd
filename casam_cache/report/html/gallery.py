"""The page of every test mask: an image once, a thumbnail a mask, outlines in files that are read as one scrolls."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from casam_cache.cutout import Cutout
from casam_cache.encode.source_images import SourceImages
from casam_cache.errors import CasamError, ImageError
from casam_cache.fingerprint import finite_json
from casam_cache.metrics.columns import facts_of
from casam_cache.report.html.masks import MaskCase, Owner, ScoredMasks, overlap
from casam_cache.report.html.outlines import outline
from casam_cache.report.html.scored import Scored
from casam_cache.report.tiles import square_around
from casam_cache.store.files import disk_errors, make_directory
from casam_cache.training.outcomes import score

CHUNK = 200  # masks a file of outlines
ROWS = 5000  # masks a file of scores
THUMB = 168  # pixels, side of a thumbnail
SIDES = ((1_000, 768), (6_000, 448), (10**9, 288))  # longer side of an image by how many masks there are
CLOSE = 1e-3  # of IoU: what is predicted again may differ so much from what was scored


@dataclass
class Gallery:
    """What was written of masks.

    Attributes:
        count: masks, a method's each.
        files: data files by name below the report, in the order they are loaded.
        scripts: those that the page loads at once.
        warnings: what they are about, and a line.
    """

    count: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)


class _Pictures:
    """Writes images and thumbnails under numbers, each once."""

    def __init__(self, out: Path, side: int) -> None:
        self._out, self._side = out, side
        self._images: dict[tuple[str, int], int] = {}
        self._thumbs: dict[tuple[Any, ...], int] = {}
        self._current: tuple[tuple[str, int], np.ndarray] | None = None
        self.unread: dict[str, str] = {}

    def scale(self, height: int, width: int) -> float:
        """Displayed pixels a pixel of an image."""
        return min(1.0, self._side / max(height, width))

    def add(
        self, source: SourceImages | None, store: str, case: MaskCase, crop: tuple[float, float, float]
    ) -> tuple[int, int]:
        """Numbers of the image and thumbnail of a case; -1 without an image."""
        owner = (store, case.place)
        if source is None or f"{owner}" in self.unread:
            return -1, -1
        mask = (*owner, *crop)
        if owner not in self._images or mask not in self._thumbs:
            try:
                image = self._read(source, owner)
            except ImageError as error:
                self.unread[f"{owner}"] = error.message
                return -1, -1
            scale = self.scale(*image.shape[:2])
            if owner not in self._images:
                self._images[owner] = len(self._images)
                size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
                shown = Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.LANCZOS)
                self._write("images", self._images[owner], shown, 82)
            if mask not in self._thumbs:
                self._thumbs[mask] = len(self._thumbs)
                x, y, side = (value / scale for value in crop)
                box = (x, y, x + side, y + side)
                corners = tuple(round(value) for value in box)
                cut = Image.fromarray(image).crop((corners[0], corners[1], corners[2], corners[3]))
                self._write(
                    "thumbs", self._thumbs[mask], cut.resize((THUMB, THUMB), Image.Resampling.LANCZOS), 78
                )
        return self._images[owner], self._thumbs[mask]

    def _read(self, source: SourceImages, owner: tuple[str, int]) -> np.ndarray:
        if self._current is None or self._current[0] != owner:
            self._current = owner, source.read(owner[1])
        return self._current[1]

    def _write(self, kind: str, number: int, picture: Image.Image, quality: int) -> None:
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=quality, optimize=True)
        path = self._out / "masks" / kind / f"{number // 1000}" / f"{number}.jpg"
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.getvalue())


def crop_of(case: MaskCase, scale: float) -> tuple[float, float, float]:
    """The square around the true mask that a thumbnail shows: left, top, side, in displayed pixels."""
    left, top, side = square_around(case.truth)
    return round(scale * left, 1), round(scale * top, 1), round(scale * side, 1)


def write_gallery(
    scored: Sequence[Scored],
    out: Path,
    *,
    data: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Gallery:
    """Predicts every mask again and writes pictures; what else is needed is in `Gallery.files`.

    Args:
        scored: whose masks; those of one split beside each other have the frozen SAM's predicted once.
        out: folder of the report.
        data: folder of datasets, or of the only one; None: where each was when it was encoded.
        device: `auto`, `cpu`, `cuda`, ...
        progress: called with (masks done, masks).

    Raises:
        StoreError: pictures cannot be written.
    """
    total = sum(len(each.fitted) for each in scored)
    side = next(side for most, side in SIDES if total <= most)
    pictures, gallery = _Pictures(out, side), Gallery()
    make_directory(out)
    described: list[dict[str, Any]] = []
    done = 0
    sources: dict[str, SourceImages | None] = {}
    if progress:
        progress(0, total)
    frozen: dict[Owner, Cutout] = {}
    split: tuple[Any, ...] = ()
    for each in scored:
        about = f"{each.task}, {each.label}"
        if split != (split := (each.store, each.items, each.prompt)):
            frozen = {}
        try:
            masks = ScoredMasks(each, device, frozen)
        except CasamError as error:
            gallery.warnings.append((about, f"its masks are not shown: {error.message}"))
            continue
        path = str(masks.store.path)
        if path not in sources:
            try:
                sources[path] = SourceImages(masks.store, data)
            except CasamError as error:
                sources[path] = None
                hint = f" ({error.hint})" if error.hint else ""
                gallery.warnings.append((each.task, f"outlines are shown alone: {error.message}{hint}"))
        number, rows, outlines, furthest = len(described), [], [], 0.0
        for case in masks.cases():
            scale = pictures.scale(*case.truth.size)
            crop = crop_of(case, scale)
            image, thumb = pictures.add(sources[path], path, case, crop)
            rows.append(_row(each, masks, case, scale, crop, image, thumb))
            outlines.append(_outlines(case, scale))
            again = (overlap(case.frozen, case.truth), overlap(case.fitted, case.truth))
            for found, side_ in zip(again, (each.frozen, each.fitted), strict=True):
                told = side_.scores["iou"][case.row]
                if math.isfinite(told) and math.isfinite(found):
                    furthest = max(furthest, abs(found - told))
            done += 1
            if progress:
                progress(done, total)
        if furthest > CLOSE:
            gallery.warnings.append(
                (
                    about,
                    f"masks predicted again differ from the scored ones, by {100 * furthest:.1f} IoU at most",
                )
            )
        for start in range(0, len(rows), ROWS):
            name = f"masks/rows-{number}-{start // ROWS}.js"
            gallery.files[name] = _script("rows", number, rows[start : start + ROWS])
            gallery.scripts.append(name)
        for start in range(0, len(outlines), CHUNK):
            chunk = start // CHUNK
            gallery.files[f"masks/outlines-{number}-{chunk}.js"] = _script(
                "outlines", f"{number}-{chunk}", outlines[start : start + CHUNK]
            )
        metrics = facts_of(score(each.fitted).metrics)
        described.append(
            {
                "from": each.bench,
                "task": each.task,
                "method": each.label,
                "split": each.items.split,
                "prompt": each.prompt,
                "metrics": [[metric.label, metric.percent] for metric in metrics],
                "count": len(rows),
            }
        )
        gallery.count += len(rows)
    if pictures.unread:
        lines = sorted(pictures.unread.values())
        more = f", and {len(lines) - 1} more" if len(lines) > 1 else ""
        gallery.warnings.append(("masks", f"outlines are shown alone where {lines[0]}{more}"))
    gallery.files["masks/fits.js"] = _script("fits", CHUNK, described)
    gallery.scripts.insert(0, "masks/fits.js")
    return gallery


def _row(
    scored: Scored,
    masks: ScoredMasks,
    case: MaskCase,
    scale: float,
    crop: Sequence[float],
    image: int,
    thumb: int,
) -> list[Any]:
    """As `masks.js` reads it."""
    height, width = case.truth.size
    row, prompt = case.row, case.box or case.point or ()
    scores = [
        [round(side.scores[name][row], 4) for side in (scored.frozen, scored.fitted)]
        for name in scored.fitted.scores
    ]
    estimates = [round(side.predicted_iou[row], 4) for side in (scored.frozen, scored.fitted)]
    return [
        case.item.id, masks.store.paths[case.place], case.item.group, scored.fitted.class_id[row],
        scored.fitted.instance[row], scored.fitted.area[row], width, height, round(scale, 6), image, thumb,
        list(crop), [round(value, 1) for value in prompt], scores, estimates,
    ]  # fmt: skip


def _outlines(case: MaskCase, scale: float) -> list[str]:
    return [outline(mask, scale) for mask in (case.truth, case.frozen, case.fitted)]


def _script(kind: str, key: Any, value: Any) -> bytes:
    """Data as a script, since pages from disk may load nothing else; every character that could end it is escaped."""
    text = json.dumps(finite_json([kind, key, value]), separators=(",", ":")).replace("<", "\\u003c")
    return f"casamData(...{text});\n".encode()
