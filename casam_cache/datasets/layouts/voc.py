"""Pascal VOC: `JPEGImages/`, `SegmentationClass/` and `SegmentationObject/`, with `ImageSets/Segmentation/*.txt`."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from casam_cache.datasets.assign import FOLDERS
from casam_cache.datasets.folder import FilesReader
from casam_cache.datasets.labels import MaskScan
from casam_cache.datasets.parts import Found
from casam_cache.datasets.places import image_files
from casam_cache.datasets.sample import SPLITS, DatasetOptions, Problem, Sample, SplitName
from casam_cache.errors import DatasetError

_IMAGES, _CLASSES, _OBJECTS = "JPEGImages", "SegmentationClass", "SegmentationObject"
_LISTS = "ImageSets/Segmentation"
_RIM, _RIM_COLOUR = 255, "#e0e0c0"


class Voc(FilesReader):
    """Reads a number a class, or with `--masks instances` a number an object; their rim (255) counts nowhere."""

    name = "voc"

    def recognises(self, path: Path) -> bool:
        try:
            return (path / _IMAGES).is_dir() and any((path / name).is_dir() for name in (_CLASSES, _OBJECTS))
        except OSError:
            return False

    def find(self, path: Path, options: DatasetOptions) -> tuple[list[Found], list[Problem], str]:
        wanted = _OBJECTS if options.masks == "instances" else _CLASSES
        folder = wanted if (path / wanted).is_dir() else _OBJECTS if wanted == _CLASSES else _CLASSES
        images, masks = _by_stem(path, _IMAGES), _by_stem(path, folder)
        lists = _read_lists(path)
        listed = {name: split for split, names in lists.items() for name in names}
        problems = [
            Problem(f"{_LISTS}/{split}.txt", f"there is no image '{name}'", "copy it again", sample=name)
            for split, names in lists.items()
            for name in names
            if name not in images
        ]
        chosen = [name for name in (listed or masks) if name in images]
        found: list[Found] = []
        bare = []
        for name in chosen:
            split = listed.get(name) if any(split != "trainval" for split in lists) else None
            told: SplitName | None = next((one for one in SPLITS if one == split), None)
            if name in masks:
                found.append(Found(name, name, images[name], told, (masks[name],)))
            elif options.unlabelled:
                found.append(Found(name, name, images[name], told, (), labelled=False))
            else:
                bare.append(name)
        if bare:
            message = f"{len(bare)} listed images have no mask in {folder}/, for example {bare[0]}; left out"
            problems.append(Problem(_LISTS, message, "--unlabelled keeps them", "warning"))
        unused = sorted(masks.keys() - set(listed)) if listed else sorted(masks.keys() - images.keys())
        if unused:
            why = f"in no list of {_LISTS}" if listed else f"without an image in {_IMAGES}/"
            message = f"{len(unused)} masks are {why}, for example {masks[unused[0]]}; left out"
            problems.append(Problem(folder, message, "list them, or remove them", "warning"))
        if not found:
            raise DatasetError(f"{path}: no image of {_IMAGES}/ has a mask in {folder}/", "copy them again")
        shown = next((one for one in found if one.masks), found[0])
        return found, problems, f"Pascal VOC: {' + '.join((shown.image, *shown.masks))}"

    def ignores(self, scans: Sequence[MaskScan]) -> str | None:
        """255, unless it is all that there is; or its colour in VOC's palette."""
        values = {value for scan in scans for value in scan.values}
        if any(scan.coloured for scan in scans):
            return _RIM_COLOUR if int(_RIM_COLOUR[1:], 16) in values else None
        return str(_RIM) if _RIM in values and values - {0, _RIM} else None

    def assign(
        self, path: Path, found: list[Found], options: DatasetOptions, problems: list[Problem]
    ) -> tuple[list[Sample], str]:
        samples, source = super().assign(path, found, options, problems)
        return samples, source.replace(FOLDERS, _LISTS)


def _by_stem(root: Path, folder: str) -> dict[str, str]:
    return {
        unicodedata.normalize("NFC", PurePosixPath(name).with_suffix("").as_posix()): f"{folder}/{name}"
        for name in image_files(root / folder)
    }


def _read_lists(root: Path) -> dict[str, list[str]]:
    """The ids of each list by its name: of train, val and test, or of trainval where there is neither of the first two.

    Raises:
        DatasetError: one cannot be read, or two lists hold the same image.
    """
    lists: dict[str, list[str]] = {}
    for split in (*SPLITS, "trainval"):
        file = root / _LISTS / f"{split}.txt"
        if file.is_file() and (split != "trainval" or not lists.keys() & {"train", "val"}):
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DatasetError(f"{file}: cannot be read: {error}", "save it as UTF-8 text") from None
            names = [unicodedata.normalize("NFC", line.strip()) for line in lines if line.strip()]
            lists[split] = list(dict.fromkeys(names))
    owners: dict[str, str] = {}
    for split, names in lists.items():
        for name in names:
            if owners.setdefault(name, split) != split:
                raise DatasetError(
                    f"{root}: '{name}' is in {owners[name]}.txt and in {split}.txt", "keep one"
                )
    return lists
