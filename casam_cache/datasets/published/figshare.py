"""The brain tumour dataset of figshare: one MATLAB v7.3 file an image, with its mask, kind of tumour and patient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from casam_cache.datasets.base import FilesDone, Reader
from casam_cache.datasets.extras import extra
from casam_cache.datasets.listing import entries, is_folder, walk
from casam_cache.datasets.masks import split_labels
from casam_cache.datasets.published.assemble import Item, assemble
from casam_cache.datasets.sample import Dataset, DatasetOptions, Mask, MaskValues, Problem, Sample
from casam_cache.errors import DatasetError, ImageError

KINDS = {1: "meningioma", 2: "glioma", 3: "pituitary tumour"}
_MAGIC = b"MATLAB 7.3 MAT-file"


class FigshareBrainTumour(Reader):
    """Reads `1.mat`, `2.mat` and so on, in the folder or in those that the archives unpack to."""

    name = "figshare"
    precedence = 2

    def recognises(self, path: Path) -> bool:
        try:
            inside = entries(path)
            folders = [path, *(Path(entry.path) for entry in inside if is_folder(entry))]
            return any(_is_one(Path(entry.path)) for folder in folders for entry in _first(folder))
        except OSError:
            return False

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        """The dataset; the group of an image is its patient.

        Raises:
            DatasetError: no file can be read, or h5py is not installed.
        """
        names = [name for name, _ in walk(path) if PurePosixPath(name).suffix.lower() == ".mat"]
        names = [name for name in names if PurePosixPath(name).stem.isdigit()]
        items, problems = [], []
        for done, name in enumerate(names, 1):
            try:
                patient, _ = _facts(path / name)
                items.append(Item(name[: -len(".mat")], name, patient, (name,)))
            except ImageError as error:
                if "not installed" in error.message:
                    raise DatasetError(error.message, error.hint) from None
                problems.append(
                    Problem(
                        name, error.message.removeprefix(f"{path / name}: "), error.hint, sample=name[:-4]
                    )
                )
            if progress:
                progress(done, len(names))
        asked = options.masks
        by_kind = asked == "classes"
        reason = "as asked" if asked else "one tumour a mask; --masks classes takes the kind of tumour"
        return assemble(
            path, task, options, items, problems,
            mode=(asked or "binary", reason), values=MaskValues((0, *KINDS) if by_kind else (0, 1)),
        )  # fmt: skip

    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        return _array(root / source, "image", max_pixels)

    def masks(self, dataset: Dataset, sample: Sample, size: tuple[int, int] | None) -> Iterator[Mask]:
        path = dataset.root / sample.source
        labels = (_array(path, "tumorMask", dataset.options.max_pixels) != 0).astype(np.uint8)
        if dataset.mask_mode == "classes":
            labels *= np.uint8(_facts(path)[1])
        yield from split_labels(labels, dataset.mask_mode, dataset.values)

    def file_of(self, source: str) -> str:
        return source


def _first(folder: Path) -> list[Any]:
    """The first numbered .mat file of a folder, if it has one: all are alike."""
    found = [entry for entry in entries(folder) if PurePosixPath(entry.name).suffix.lower() == ".mat"]
    return [entry for entry in found if PurePosixPath(entry.name).stem.isdigit()][:1]


def _is_one(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _facts(path: Path) -> tuple[str, int]:
    """The patient, and the number of the kind of tumour.

    Raises:
        ImageError: they cannot be read.
    """
    with _opened(path) as data:
        patient = "".join(chr(int(code)) for code in np.asarray(data["PID"]).ravel()).strip("\0 ")
        kind = int(np.asarray(data["label"]).ravel()[0])
        if data["image"].shape != data["tumorMask"].shape:
            raise ValueError(
                f"image {data['image'].shape} and mask {data['tumorMask'].shape} differ in shape"
            )
    if kind not in KINDS:
        raise ImageError(f"{path}: the kind of tumour is {kind}", f"known are {KINDS}")
    if not patient:
        raise ImageError(f"{path}: no patient (PID)", "restore the file, or remove it")
    return patient, kind


def _array(path: Path, name: str, max_pixels: int) -> np.ndarray:
    """An array (H, W) as MATLAB has it; HDF5 holds its axes the other way round."""
    with _opened(path) as data:
        stored = data[name]
        if stored.ndim != 2 or stored.size > max_pixels:
            raise ValueError(f"'{name}' has the shape {stored.shape}, of at most {max_pixels:,} pixels")
        return np.ascontiguousarray(np.asarray(stored).T)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The group `cjdata` of a file; whatever fails inside is an `ImageError` of that file."""
    h5py = extra("h5py", path, "MATLAB v7.3")
    try:
        with h5py.File(path, "r") as file:
            yield file["cjdata"]
    except ImageError:
        raise
    except Exception as error:  # HDF5 meets damaged files in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ImageError(
            f"{path}: no brain tumour file of figshare, or damaged: {reason}",
            "copy it again from its source, or remove it from the dataset",
        ) from error
