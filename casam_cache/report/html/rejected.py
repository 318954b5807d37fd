"""The images that routers rejected, small and large, in the section of a bench."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from casam_cache.encode.source_images import SourceImages
from casam_cache.errors import CasamError
from casam_cache.report.routing import Rejected, Routing
from casam_cache.store import EmbeddingStore, store_path

THUMB, LARGE = 168, 768  # pixels, the longer side


@dataclass(frozen=True)
class RejectedImage:
    """One of them.

    Attributes:
        what: the image, its set, score and threshold.
        thumb, large: files below the report; empty where the image cannot be read.
    """

    what: Rejected
    thumb: str
    large: str

    @property
    def scores(self) -> str:
        return f"nearest {self.what.nearest}: {self.what.score:.4g}, threshold {self.what.threshold:.4g}"


class RejectedImages:
    """Reads and writes each image once, however many routers rejected it.

    Args:
        stores: folder of the bench's stores.
        model: the backbone's name.
        anchor: folder of the files, below the report.
        data: folder of the datasets; None: where each was when it was encoded.

    Attributes:
        files: content by name below the report.
        said: why some images are missing, by set.
    """

    def __init__(self, stores: Path, model: str, anchor: str, data: Path | None) -> None:
        self._stores, self._model, self._anchor, self._data = stores, model, anchor, data
        self._sets: dict[str, tuple[EmbeddingStore, SourceImages] | None] = {}
        self._written: dict[tuple[str, str], tuple[str, str]] = {}
        self.files: dict[str, bytes] = {}
        self.said: dict[str, str] = {}

    def of(self, routing: Routing) -> list[RejectedImage]:
        return [RejectedImage(one, *self._add(one.set, one.image)) for one in routing.rejected]

    def _add(self, name: str, item: str) -> tuple[str, str]:
        if (name, item) not in self._written:
            self._written[name, item] = self._write(name, item)
        return self._written[name, item]

    def _write(self, name: str, item: str) -> tuple[str, str]:
        try:
            if name not in self._sets:
                self._sets[name] = None
                store = EmbeddingStore.open(store_path(self._stores, name, self._model))
                self._sets[name] = store, SourceImages(store, self._data)
            opened = self._sets[name]
            if opened is None:
                return "", ""
            store, source = opened
            image = Image.fromarray(source.read(store.index(item)))
        except CasamError as error:
            self.said[name] = error.message
            return "", ""
        number = len(self.files) // 2
        names = (f"{self._anchor}/rejected/{number}_small.jpg", f"{self._anchor}/rejected/{number}.jpg")
        for file, side in zip(names, (THUMB, LARGE), strict=True):
            shown, data = image.copy(), io.BytesIO()
            shown.thumbnail((side, side), Image.Resampling.LANCZOS)
            shown.save(data, "JPEG", quality=82)
            self.files[file] = data.getvalue()
        return names
