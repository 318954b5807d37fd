"""Names of single slices, which are what a store records, and which slices of a volume are taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casam_cache.datasets.volumes.layout import Layout, layout_of
from casam_cache.datasets.volumes.read import read_volume
from casam_cache.datasets.volumes.volume import Volume
from casam_cache.errors import ImageError

DEFAULT_SLICES = "nonempty"


@dataclass(frozen=True)
class SliceName:
    """A slice by name, as `Sample.source`: `labels/a.nii.gz#slice=12;axis=2`.

    Attributes:
        path: of the volume, relative to the dataset folder.
        index: of the slice along `axis`.
        axis: voxel axis.
        channel: of a file of several.
        series: instance UID, where a folder holds several.
    """

    path: str
    index: int
    axis: int
    channel: int | None = None
    series: str | None = None

    def __str__(self) -> str:
        rest = f";channel={self.channel}" if self.channel is not None else ""
        rest += f";series={self.series}" if self.series is not None else ""
        return f"{self.path}#slice={self.index};axis={self.axis}{rest}"

    @classmethod
    def parse(cls, text: str) -> SliceName:
        """The inverse of `str`.

        Raises:
            ImageError: it is no such name.
        """
        path, _, rest = text.rpartition("#")
        parts = dict(part.partition("=")[::2] for part in rest.split(";"))
        try:
            channel = int(parts["channel"]) if "channel" in parts else None
            return cls(path, int(parts["slice"]), int(parts["axis"]), channel, parts.get("series"))
        except (KeyError, ValueError):
            raise ImageError(
                f"{text}: not the name of a slice", "it looks like volume.nii.gz#slice=12;axis=2"
            ) from None

    def open(self, root: Path) -> tuple[Volume, Layout]:
        """The volume, below the dataset folder, and the layout of its slices.

        Raises:
            ImageError: it cannot be read, or has no such slice.
        """
        volume = read_volume(root / self.path, channel=self.channel, series=self.series)
        if not (0 <= self.axis < 3 and 0 <= self.index < volume.shape[self.axis]):
            raise ImageError(
                f"{volume.path}: there is no slice {self.index} along axis {self.axis}, its shape is {volume.shape}",
                "the file has changed: read the dataset again",
            )
        return volume, layout_of(volume, str(self.axis))


def taken_slices(text: str | None, count: int, filled: np.ndarray | None) -> list[int]:
    """Which slices of a volume become images.

    Args:
        text: as in `DatasetOptions`: `nonempty` (None: those that hold a label), `all`, or `every:K`, the
            first and each K-th after it.
        count: of slices.
        filled: bool (count,), whether a slice holds a label; None where there are no labels, and all count as filled.
    """
    text = text or DEFAULT_SLICES
    if text.startswith("every:"):
        return list(range(0, count, int(text.removeprefix("every:"))))
    if text == "all" or filled is None:
        return list(range(count))
    return [int(index) for index in np.flatnonzero(filled)]
