"""Where a plain folder keeps its images and its masks: which folders, whether they share one, and for which split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.listing import SPLIT_CSV, entries, facts, is_folder, walk
from casam_cache.datasets.pairing import split_marked
from casam_cache.datasets.sample import SPLITS, SplitName
from casam_cache.datasets.splits import SPLIT_FOLDERS
from casam_cache.errors import DatasetError

EXPECTED = (
    "a dataset is a folder with images/ and masks/ (same file names, or x_mask beside x), or with train/ and test/ "
    "that each hold both, volumes (NIfTI, DICOM), COCO, YOLO, Pascal VOC, LabelMe, Label Studio, QuPath, or "
    "anything with a table dataset.csv (image,mask); docs/layouts.md"
)
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "original", "originals", "original images")
MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "gt", "gts", "groundtruth", "groundtruths",
    "ground truth", "ground truths", "segmentation", "segmentations", "seg", "segs", "manual", "1st manual",
    "2nd manual", "manual1", "manual2",
)  # fmt: skip
_LOOKED_AT = 2000  # files of a folder that are looked at to see whether it holds any image


@dataclass(frozen=True)
class Place:
    """One pair of folders.

    Attributes:
        images: the folder of the images, relative to the dataset folder, with a slash behind it unless it is empty.
        masks: likewise; the same folder where the two share it.
        prefix: what ids of these images carry in front, as `train/`.
        split: what the name of a folder says.
        deep: folders inside count too; not where the two share the dataset's own folder, or that of a split.
        skip: how the stems of files end that are neither images nor masks.
    """

    images: str
    masks: str
    prefix: str = ""
    split: SplitName | None = None
    deep: bool = True
    skip: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        return self.images == self.masks

    @property
    def roots(self) -> tuple[str, ...]:
        """The folders whose files decide what is read."""
        return (self.images,) if self.shared else (self.images, self.masks)


@dataclass(frozen=True)
class _Named:
    """A folder whose name says what it holds; `kind` is empty for one that names a split only."""

    name: str
    kind: str
    split: SplitName | None


def find_places(root: Path) -> list[Place]:
    """The pairs of folders of images and masks that a plain dataset consists of; empty where there is none.

    Raises:
        DatasetError: two readings are possible, e.g. masks in `labels/` as well as in `gt/`.
    """
    named = _named(root)
    plain = _pair_of(root, "", [one for one in named if one.split is None])
    folders = [*_split_pairs(root, named), *_split_folders(root, named)]
    folders.sort(key=lambda place: SPLITS.index(place.split or "train"))
    if plain and folders:
        raise DatasetError(
            f"{root}: holds both {plain.images} and {folders[0].images}",
            "keep one of the two layouts: " + EXPECTED,
        )
    splits = [place.split for place in folders]
    twice = next((place for place in folders if splits.count(place.split) > 1), None)
    if twice is not None:
        both = " and ".join(place.images for place in folders if place.split == twice.split)
        raise DatasetError(f"{root}: holds {twice.split} images twice: {both}", "keep one of the two")
    if folders and (root / SPLIT_CSV).is_file():
        raise DatasetError(
            f"{root}: holds both {SPLIT_CSV} and {folders[0].prefix}",
            f"keep one of the two: remove {SPLIT_CSV}, or put all images into images/",
        )
    if plain:
        return [plain]
    if folders:
        return folders
    return [Place("", "", deep=False)] if not named and _shares(root, "", deep=False) else []


def has_mask_files(root: Path) -> bool:
    """Whether a dataset folder holds masks as image files where `find_places` looks for them; never raises."""
    try:
        return any(place.shared or _holds_images(root / place.masks) for place in find_places(root))
    except DatasetError:
        return True
    except OSError:
        return False


def listing(root: Path | str) -> list[tuple[str, int, int]]:
    """Relative path, size in bytes and modification time in ns of all that images and masks consist of, sorted.

    Two equal listings mean that nothing changed. Nothing is opened: 10,000 files take a fraction of a second.
    A link to a missing file is listed with size -1.

    Raises:
        DatasetError: as `find_places`.
    """
    root = Path(root)
    found: dict[str, tuple[str, int, int]] = {}
    for place in find_places(root):
        for folder in place.roots:
            if not (root / folder).is_dir():
                continue
            below = walk(root / folder, folder) if place.deep else _direct(root / folder, folder)
            found.update((name, facts(name, entry)) for name, entry in below)
    table = root / SPLIT_CSV
    if table.is_file():
        status = table.stat()
        found[SPLIT_CSV] = (SPLIT_CSV, status.st_size, status.st_mtime_ns)
    return sorted(found.values())


def _direct(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    for entry in entries(folder):
        if not is_folder(entry):
            yield f"{prefix}{entry.name}", entry


def image_files(folder: Path, *, deep: bool = True) -> Iterator[str]:
    """Relative paths of the files in a folder that are images by their suffix."""
    if not folder.is_dir():
        return
    for name, _ in walk(folder) if deep else _direct(folder, ""):
        if PurePosixPath(name).suffix.lower() in image_suffixes():
            yield name


def _named(root: Path) -> list[_Named]:
    found = []
    for entry in entries(root):
        if not is_folder(entry):
            continue
        words = re.sub(r"[ _.-]+", " ", entry.name).strip().casefold()
        split: SplitName | None = None
        first, _, rest = words.partition(" ")
        before, _, last = words.rpartition(" ")
        if first in SPLIT_FOLDERS:
            split, words = SPLIT_FOLDERS[first], rest
        elif last in SPLIT_FOLDERS and before:
            split, words = SPLIT_FOLDERS[last], before
        kind = "images" if words in IMAGE_FOLDERS else "masks" if words in MASK_FOLDERS else ""
        if kind or (split and not words):
            found.append(_Named(entry.name, kind, split))
    return found


def _pair_of(
    root: Path, prefix: str, named: Sequence[_Named], split: SplitName | None = None
) -> Place | None:
    """The one pair among folders directly in `root / prefix`; a folder `images` is one without masks too."""
    images = _one(root, prefix, [one.name for one in named if one.kind == "images"], "images")
    if images is None:
        return None
    masks = _one(root, prefix, [one.name for one in named if one.kind == "masks"], "masks")
    front = prefix if split else ""
    if masks is not None:
        return Place(f"{prefix}{images}/", f"{prefix}{masks}/", front, split)
    if _shares(root, f"{prefix}{images}/", deep=True):
        return Place(f"{prefix}{images}/", f"{prefix}{images}/", front, split)
    # Without a mask it is a dataset by the name that the documentation gives it.
    return Place(f"{prefix}{images}/", f"{prefix}masks/", front, split) if images == "images" else None


def _one(root: Path, prefix: str, names: Sequence[str], wanted: str) -> str | None:
    """The one folder of a kind: that of the documented name, or the only one that holds images.

    Raises:
        DatasetError: there are several.
    """
    if wanted in names:
        return wanted
    found = [name for name in names if _holds_images(root / prefix / name)]
    if len(found) > 1:
        shown = " and ".join(f"{prefix}{name}/" for name in found)
        raise DatasetError(
            f"{root}: the {wanted} may be those of {shown}",
            f"rename the one that is meant to {prefix}{wanted}/, or list images and masks in a table dataset.csv",
        )
    return found[0] if found else None


def _split_pairs(root: Path, named: Sequence[_Named]) -> list[Place]:
    """Folders such as `train_images/` and `train_masks/`, or `train/` beside `train_masks/`."""
    found = []
    for split in SPLITS:
        own = [one for one in named if one.split == split]
        masks = _one(root, "", [one.name for one in own if one.kind == "masks"], "masks")
        if masks is None:
            continue
        images = _one(root, "", [one.name for one in own if one.kind == "images"], "images") or next(
            (one.name for one in own if not one.kind and any(image_files(root / one.name, deep=False))), None
        )
        if images is not None:
            found.append(Place(f"{images}/", f"{masks}/", f"{split}/", split))
    return found


def _split_folders(root: Path, named: Sequence[_Named]) -> list[Place]:
    """Folders such as `train/` that hold a pair, or images and masks together."""
    found = []
    for one in named:
        if one.kind or one.split is None:
            continue
        prefix = f"{one.name}/"
        inside = [below for below in _named(root / one.name) if below.split is None]
        place = _pair_of(root, prefix, inside, one.split)
        if place is None and _shares(root, prefix, deep=False):
            place = Place(prefix, prefix, prefix, one.split, deep=False)
        if place is not None:
            found.append(place)
    return found


def _shares(root: Path, folder: str, *, deep: bool) -> bool:
    """Whether the files of a folder are images and masks, told apart by their names."""
    stems = (os.path.splitext(name)[0] for name in image_files(root / folder, deep=deep))
    images, masks = split_marked(stems)
    return bool(images and masks)


def _holds_images(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = islice((name for name, _ in walk(folder)), _LOOKED_AT)
    return any(PurePosixPath(name).suffix.lower() in image_suffixes() for name in names)
