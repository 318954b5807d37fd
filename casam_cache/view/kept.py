"""Masks that were kept: a PNG each, and all of a task as COCO JSON.

OUT/TASK/ITEM_1.png      0 and 255, of the image's size; numbers go on, and no file is ever replaced
OUT/TASK/masks.json      COCO: images, annotations with runs (RLE) and boxes, and under `casam` the prompt of each
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from casam_cache.cutout import Cutout
from casam_cache.datasets.base import check_inside
from casam_cache.errors import CasamError, OptionError
from casam_cache.fingerprint import finite_json
from casam_cache.locks import Lock
from casam_cache.report.pictures import png
from casam_cache.store.files import disk_errors, make_directory, write_all

LIST = "masks.json"
MADE_BY = "casam view"


class Kept:
    """The folder that masks are kept in; what an earlier session kept is gone on with.

    Args:
        folder: OUT, made when the first mask is kept.

    Raises:
        OptionError: it is a file.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"--out {folder} is a file", "masks are kept in a folder")
        self.folder = folder
        self._lists: dict[str, dict[str, Any]] = {}
        self._lock: Lock | None = None

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def count(self, task: str, item: str) -> int:
        """How many masks of an image are kept.

        Raises:
            CasamError: the task's list cannot be read.
        """
        return len(self._of(task, item))

    def keep(
        self, task: str, item: str, file: str, mask: np.ndarray, name: str, told: dict[str, Any]
    ) -> Path:
        """Writes a mask and the list anew, both or neither torn; returns the mask's file.

        Args:
            task: of the image.
            item: its id.
            file: its path in the dataset, for COCO's `file_name`.
            mask: bool (H, W).
            name: what it is of: a category.
            told: prompt, score and so on, kept beside it.

        Raises:
            OptionError: the mask is empty.
            CasamError: the list cannot be read, another process keeps masks there, or the disk refuses.
        """
        if not mask.any():
            raise OptionError("the mask is empty", "click on what it should hold")
        check_inside(item)
        self._hold()
        coco = self._list(task)
        number = self.count(task, item) + 1
        while (path := self.folder / task / f"{item}_{number}.png").exists():
            number += 1
        image = _image(coco, file, mask.shape)
        cutout = Cutout.of(mask).tight()
        height, width = cutout.pixels.shape
        added = {
            "id": 1 + max((entry["id"] for entry in coco["annotations"]), default=0),
            "image_id": image["id"],
            "category_id": _category(coco, name),
            "segmentation": {"size": list(mask.shape), "counts": runs_of(mask)},
            "area": cutout.area,
            "bbox": [cutout.left, cutout.top, width, height],
            "iscrowd": 0,
            "casam": {"item": item, "mask": path.name, **told},
        }
        content = {**coco, "annotations": [*coco["annotations"], added]}
        make_directory(path.parent)
        picture = png(Image.fromarray(mask.astype(np.uint8) * 255))
        write_all([(path, [picture]), (self.folder / task / LIST, [_bytes(content)])])
        self._lists[task] = content
        return path

    def drop_last(self, task: str, item: str) -> Path:
        """Takes the last mask of an image out of the list and removes its file.

        Raises:
            OptionError: there is none.
            CasamError: as of `keep`.
        """
        own = self._of(task, item)
        if not own:
            raise OptionError(f"no mask of {item} is kept")
        self._hold()
        coco = self._list(task)
        content = {**coco, "annotations": [entry for entry in coco["annotations"] if entry is not own[-1]]}
        check_inside(item)
        path = (self.folder / task / item).with_name(Path(str(own[-1]["casam"]["mask"])).name)
        write_all([(self.folder / task / LIST, [_bytes(content)])])
        with disk_errors(path, "cannot remove"):
            path.unlink(missing_ok=True)
        self._lists[task] = content
        return path

    def _of(self, task: str, item: str) -> list[dict[str, Any]]:
        return [entry for entry in self._list(task)["annotations"] if entry["casam"]["item"] == item]

    def _hold(self) -> None:
        """One process at a time keeps masks in a folder."""
        if self._lock is None:
            make_directory(self.folder)
            with disk_errors(self.folder):
                self._lock = Lock(self.folder / ".lock", f"keeps masks in {self.folder}")
            self._lists.clear()  # what another process kept until now

    def _list(self, task: str) -> dict[str, Any]:
        if task not in self._lists:
            path = self.folder / task / LIST
            self._lists[task] = _read(path) if path.exists() else _empty()
        return self._lists[task]


def runs_of(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed runs: lengths of zeros and ones in turn, down the columns, zeros first.

    Args:
        mask: bool (H, W).
    """
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def _empty() -> dict[str, Any]:
    return {"info": {"description": MADE_BY}, "images": [], "categories": [], "annotations": []}


def _read(path: Path) -> dict[str, Any]:
    """A list that was written here, whole.

    Raises:
        CasamError: it is another file, or is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        known = found["info"]["description"] == MADE_BY
        for part in ("images", "categories", "annotations"):
            known = known and all(type(entry["id"]) is int for entry in found[part])
        known = known and all(isinstance(entry["casam"]["item"], str) for entry in found["annotations"])
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise CasamError(f"{path} is not a list of {MADE_BY}", "choose another folder with --out")
    return found


def _image(coco: dict[str, Any], file: str, size: tuple[int, ...]) -> dict[str, Any]:
    for entry in coco["images"]:
        if entry["file_name"] == file:
            return dict(entry)
    number = 1 + max((entry["id"] for entry in coco["images"]), default=0)
    made = {"id": number, "file_name": file, "width": size[1], "height": size[0]}
    coco["images"].append(made)
    return made


def _category(coco: dict[str, Any], name: str) -> int:
    for entry in coco["categories"]:
        if entry["name"] == name:
            return int(entry["id"])
    number = 1 + max((entry["id"] for entry in coco["categories"]), default=0)
    coco["categories"].append({"id": number, "name": name})
    return number


def _bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(finite_json(content)) + "\n").encode()
