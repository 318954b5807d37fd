"""The pages of a TIFF as `tifffile` finds them, decoded one at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casam_cache.datasets.tiff_regions import check_end, read_region
from casam_cache.errors import ImageError

if TYPE_CHECKING:
    from tifffile import TiffPageSeries

_VALUES_A_PIXEL = 4  # of the pixel limit: that many values may be decoded at once


class Planes:
    """One series of pages of one size: its axes other than rows, columns and channels are pages, in their order."""

    def __init__(self, path: Path, series: TiffPageSeries) -> None:
        self.path, self.series = path, series
        self.file: Any = series.parent
        axes, shape = series.get_axes(False), series.get_shape(False)
        sides = {"Y", "X"}
        dims = [
            (axis, length) for axis, length in zip(axes, shape, strict=True) if length != 1 or axis in sides
        ]
        page: Any = series.keyframe
        own = [
            (axis, length)
            for axis, length in zip(page.axes, page.shape, strict=True)
            if length != 1 or axis in sides
        ]
        self.axes, self.shape = [axis for axis, _ in dims], [length for _, length in dims]
        self.whole = dims[len(dims) - len(own) :] != own  # pages are no slices of the series, as in a mosaic
        self.inner = 0 if self.whole else len(own)
        if not sides <= set(self.axes):
            raise ImageError(f"{path}: a TIFF without rows and columns (axes {axes})", "export it again")
        length_of = dict(zip(self.axes, self.shape, strict=True))
        self.height, self.width = length_of["Y"], length_of["X"]
        self.channels = length_of.get("S", 1) * length_of.get("C", 1)
        self.lead = [length for axis, length in dims if axis not in "YXSC"]
        self.pages = math.prod(self.lead)

    def read(self, index: int, max_pixels: int) -> np.ndarray:
        """One page: (H, W), or (H, W, C) of several channels.

        Raises:
            ImageError: too much at once, cut short, or a codec is missing.
        """
        at = iter(np.unravel_index(index, self.lead) if self.lead else ())
        where = {axis: int(next(at)) for axis in self.axes if axis not in "YXSC"}
        outer = self.axes[: len(self.axes) - self.inner]
        channels = range(self.shape[self.axes.index("C")]) if "C" in outer else [0]
        found = []
        for channel in channels:
            chosen = [channel if axis == "C" else where.get(axis, slice(None)) for axis in outer]
            found.append(self._inner(chosen, where, max_pixels))
        array = np.concatenate(found, axis=2) if "C" in outer else found[0]
        return np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array)

    def read_tile(self, index: int, tile: tuple[int, int, int, int], max_pixels: int) -> np.ndarray | None:
        """A tile of one page, (h, w) or (h, w, C), from the parts of the file that it meets; None where that cannot be.

        Raises:
            ImageError: one part alone has more than `max_pixels`, is cut short, or a codec is missing.
        """
        series = self.series
        inner = set(self.axes[len(self.axes) - self.inner :])
        outer = self.axes[: len(self.axes) - self.inner]
        pages: Any = series.pages
        if self.whole or not {"Y", "X"} <= inner or inner - set("YXS") or "C" in outer:
            return None
        if len(pages) != self.pages or any(page is None for page in pages):
            return None
        page = pages[index]
        array = self._decoded(lambda: read_region(self.path, page, tile, max_pixels))
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        return np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array)

    def _inner(self, chosen: list[Any], where: dict[str, int], max_pixels: int) -> np.ndarray:
        """Rows, columns and channels at one place of the outer axes, as (H, W, C)."""
        axes = self.axes[len(chosen) :]
        array = self._stored(chosen, max_pixels)
        array = array[tuple(where.get(axis, slice(None)) for axis in axes)]
        left = [axis for axis in axes if axis not in where]
        order = sorted(range(len(left)), key=lambda place: "YXCS".index(left[place]))
        array = np.transpose(array, order)
        array = array.reshape(self.height, self.width, -1)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _stored(self, chosen: list[Any], max_pixels: int) -> np.ndarray:
        """What is stored at one place of the outer axes, without axes of length 1."""
        series = self.series
        lengths = self.shape[: len(chosen)]
        count = math.prod(lengths)
        pages: Any = series.pages
        inner = self.shape[len(chosen) :]
        if self.whole or len(pages) != count or any(page is None for page in pages):
            if series.dataoffset is not None and not self.whole:
                stored = np.memmap(
                    self.path, series.dtype.newbyteorder(self.file.byteorder), "r", series.dataoffset,
                    tuple(self.shape),
                )  # fmt: skip
                return np.array(stored[tuple(chosen)])
            self._check_values(self.shape, max_pixels)
            whole = self._decoded(lambda: series.asarray(maxworkers=1)).reshape(self.shape)
            return whole[tuple(chosen)]
        self._check_values(inner, max_pixels)
        flat = int(np.ravel_multi_index(chosen, lengths)) if chosen else 0
        page = pages[flat]
        self._check_complete(page)
        return self._decoded(lambda: page.asarray(maxworkers=1)).reshape(inner)

    def _check_values(self, shape: list[int], max_pixels: int) -> None:
        if math.prod(shape) > _VALUES_A_PIXEL * max_pixels:
            raise ImageError(
                f"{self.path}: {' x '.join(map(str, shape))} values to decode at once are more than the pixel limit "
                f"of {max_pixels:,} allows",
                "raise the limit with --max-pixels, or save each page as a file",
            )
        page: Any = self.series.keyframe
        tile = page.tilewidth * page.tilelength if page.is_tiled else 0
        if tile > _VALUES_A_PIXEL * max_pixels:
            raise ImageError(
                f"{self.path}: its tiles of {page.tilewidth} x {page.tilelength} pixels are damaged or too large",
                "export it again",
            )

    def _check_complete(self, page: Any) -> None:
        """What lies beyond the end of a file, tifffile fills by zeros."""
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            check_end(self.path, start + count, self.file.filehandle.size)

    def _decoded(self, decode: Any) -> np.ndarray:
        try:
            found: np.ndarray = decode()
        except (ImportError, ValueError) as error:
            if "imagecodecs" not in str(error):
                raise
            page: Any = self.series.keyframe
            raise ImageError(
                f"{self.path}: a TIFF compressed by {getattr(page.compression, 'name', page.compression)}, which needs "
                "the package imagecodecs",
                "pip install 'casam-cache[medical]'",
            ) from error
        return found
