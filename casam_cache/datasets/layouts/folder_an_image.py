"""A folder an image, as in the 2018 Data Science Bowl: `ID/images/ID.png` and `ID/masks/*.png`, one file an object."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from casam_cache.datasets.folder import FilesReader
from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.listing import entries, is_folder
from casam_cache.datasets.pairing import IMAGE_MARKS, MASK_MARKS
from casam_cache.datasets.parts import Found
from casam_cache.datasets.places import IMAGE_FOLDERS, MASK_FOLDERS
from casam_cache.datasets.sample import DatasetOptions, Problem
from casam_cache.errors import DatasetError

_LOOKED_AT = 8  # folders, to see whether each holds one image


class FolderAnImage(FilesReader):
    """Reads `ID/images/` with one image and `ID/masks/` with a file an object, or `ID/image.png` and `ID/mask.png`."""

    name = "folder-an-image"

    def recognises(self, path: Path) -> bool:
        try:
            folders = list(islice((entry.name for entry in entries(path) if is_folder(entry)), _LOOKED_AT))
            looks = [_look(path, name) for name in folders]
        except OSError:
            return False
        of_its_name = all(
            PurePosixPath(image).stem == name
            for name, (images, _) in zip(folders, looks, strict=True)
            for image in images
        )
        single = [bool(masks) for images, masks in looks if len(images) == 1]
        # Two folders of one image each may as well be two datasets, unless the image is called as its folder.
        return len(single) == len(looks) > (0 if of_its_name else 2) and any(single)

    def find(self, path: Path, options: DatasetOptions) -> tuple[list[Found], list[Problem], str]:
        found: list[Found] = []
        problems: list[Problem] = []
        for entry in entries(path):
            if not is_folder(entry):
                continue
            images, masks = _look(path, entry.name)
            id = unicodedata.normalize("NFC", entry.name)
            if not id.isprintable():
                shown = id.encode("utf-8", "backslashreplace").decode()
                problems.append(Problem(shown, "a folder name that is not printable text", "rename it"))
            elif len(images) != 1:
                what = (
                    f"holds {len(images)} images: {' and '.join(images[:3])}" if images else "holds no image"
                )
                problems.append(Problem(entry.name, what, "one folder holds one image", sample=id))
            elif masks is None and not options.unlabelled:
                hint = f"add {entry.name}/masks/ (empty if there is no object), or use --unlabelled"
                problems.append(Problem(images[0], "no mask", hint, sample=id))
            else:
                one = PurePosixPath(masks[0]).parent if masks else None
                several = masks is not None and one != PurePosixPath(entry.name)
                found.append(Found(id, id, images[0], None, tuple(masks or ()), masks is not None, several))
        if not found:
            raise DatasetError(
                f"{path}: no usable image, for example {problems[0]}",
                "each folder holds images/ with one image and masks/ with a file an object",
            )
        return found, problems, _describe(found)


def _look(root: Path, name: str) -> tuple[list[str], list[str] | None]:
    """The images and the masks of one folder; None for masks where there is neither a file nor a folder of them."""
    inside = entries(root / name)
    folders = [entry.name for entry in inside if is_folder(entry)]
    files = [entry.name for entry in inside if not is_folder(entry) and _is_image(entry.name)]
    image_folders = [one for one in folders if one.casefold() in IMAGE_FOLDERS]
    mask_folders = [one for one in folders if one.casefold() in MASK_FOLDERS]
    if image_folders:
        images = [path for one in image_folders for path in _files(root, f"{name}/{one}")]
    else:
        called = {*IMAGE_MARKS, "images", name.casefold()}
        images = [f"{name}/{one}" for one in files if PurePosixPath(one).stem.casefold() in called]
    if mask_folders:
        return images, [path for one in mask_folders for path in _files(root, f"{name}/{one}")]
    masks = [f"{name}/{one}" for one in files if PurePosixPath(one).stem.casefold() in MASK_MARKS]
    return images, masks or None


def _files(root: Path, folder: str) -> list[str]:
    return [
        f"{folder}/{entry.name}"
        for entry in entries(root / folder)
        if not is_folder(entry) and _is_image(entry.name)
    ]


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in image_suffixes()


def _describe(found: Sequence[Found]) -> str:
    shown = max(found, key=lambda one: len(one.masks))
    names = " + ".join((shown.image, *shown.masks[:2])) + (", ..." if len(shown.masks) > 2 else "")
    return f"a folder an image: {names}"
