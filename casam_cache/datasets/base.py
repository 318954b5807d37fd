"""What a reader of datasets is: it finds the images of a folder, and supplies their pixels and masks as arrays."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from casam_cache.datasets.intensity import parse_intensity
from casam_cache.datasets.listing import facts_below
from casam_cache.datasets.sample import Dataset, DatasetOptions, Mask, Sample
from casam_cache.errors import DatasetError
from casam_cache.references import file_sha256, load_class

FilesDone = Callable[[int, int], None]
"""Called with (files read, files in all)."""


class Reader(ABC):
    """Reads one kind of dataset folder. Constructed without arguments, and used from several threads and processes.

    Attributes:
        name: what `--reader` takes and stores record.
        revision: raise it when other pixels or masks are read from the same files.
        precedence: of several readers that recognise a folder the highest is taken, and two of one height are
            refused: 2 for the layout of one published data set, 1 for a format, 0 for folders of images without
            masks; below 0 for one that is used by name alone.
        cuts_tiles: whether it heeds `DatasetOptions.tile`.
    """

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    precedence: ClassVar[int] = 1
    cuts_tiles: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether the folder is a dataset of this reader's kind; quick, and never raises."""

    @abstractmethod
    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        """The samples of a dataset folder, sorted by id, and how its masks are to be read.

        A bad file becomes a `Problem` of the dataset and never stops the rest.

        Raises:
            DatasetError: nothing in the folder can be used.
        """

    @abstractmethod
    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        """The pixels of the image that `Sample.source` names: (H, W) or (H, W, 3) of any number type.

        uint8 is taken as it is. Deeper values become 8 bit by the window that `--intensity` asks for.

        Raises:
            ImageError: it cannot be read, or has more than `max_pixels`. Any other error is taken for one too.
        """

    @abstractmethod
    def masks(self, dataset: Dataset, sample: Sample, size: tuple[int, int] | None) -> Iterable[Mask]:
        """The masks of one sample, sorted by class, then instance, in the sense of `dataset.mask_mode`.

        Args:
            dataset: what `read` gave.
            sample: one of its samples.
            size: height and width of the image, which every mask must have; None where nobody knows.

        Raises:
            ImageError: they cannot be read. Any other error is taken for one too.
        """

    def ignored(self, dataset: Dataset, sample: Sample) -> np.ndarray | None:
        """Bool (H, W): pixels of one sample that count nowhere, of no mask's; None (the default) where all count.

        A reader that heeds `DatasetOptions.ignore` sets `MaskValues.ignore`, and one that heeds `background` that.

        Raises:
            ImageError: as `masks`.
        """
        return None

    def window(self, root: Path, source: str, intensity: str) -> tuple[float, float] | None:
        """The window that brings the values of an image deeper than 8 bits to 8 bits.

        By default it is what `parse_intensity` gives: None takes the percentiles of each image alone. A reader whose
        images belong together, as the slices of a volume do, gives all of them one.

        Raises:
            ImageError: it is of the pixels, and they cannot be read.
            OptionError: for a malformed `intensity`.
        """
        return parse_intensity(intensity)

    def files(self, path: Path) -> list[tuple[str, int, int]]:
        """Relative path, size in bytes and modification time in ns of every file that decides what is read, sorted.

        While these are the same, `casam encode` has nothing to do. By default they are all files below the folder,
        except for hidden ones and system litter.
        """
        return facts_below(path)

    def file_of(self, source: str) -> str | None:
        """The file, relative to the dataset folder, that alone makes an image, where every image has one of its own.

        The store then holds the SHA-256 of its bytes, else (None, the default) that of the pixels. With it a change is
        seen without decoding.
        """
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        cls = type(self)
        sha256 = file_sha256(cls)
        if sha256 is None:
            return cls, ()
        return _from_file, (f"{sys.modules[cls.__module__].__file__}:{cls.__qualname__}", sha256)


def _from_file(reference: str, sha256: str) -> Reader:
    """In another process: the reader of a user's file, as long as the file still holds the same text."""
    cls = load_class(reference, Reader)
    if file_sha256(cls) != sha256:
        raise DatasetError(f"{reference} was changed while it was used", "run the same command again")
    found: Reader = cls()
    return found


def check_inside(source: str) -> None:
    """Refuse the name of an image that would lead out of the dataset folder.

    Raises:
        DatasetError: it is absolute, or holds `..`.
    """
    if not source or os.path.isabs(source) or ".." in PurePosixPath(source).parts:
        raise DatasetError(
            f"the image '{source}' would be read from outside the dataset folder",
            "such a name is in no store and no dataset that was made here; do not use it",
        )
