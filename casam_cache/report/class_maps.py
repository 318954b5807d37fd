"""What `casam predict` writes for a run that takes no prompts.

NAME.png            the map: 0 background, else ids of classes, 8 bit up to 255 and 16 bit above; 0 and 255 where the
                    run knows one class alone
NAME_2.png          with `each`, instead: the mask (0 and 255) of class 2
NAME_overlay.png    classes over the image
NAME.json           the area of each class, and by what
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from casam_cache.bench.class_maps import ClassMap
from casam_cache.datasets.base import check_inside
from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.listing import walk
from casam_cache.errors import OptionError
from casam_cache.report.pictures import draw_objects, png
from casam_cache.report.prediction_files import PredictionFiles
from casam_cache.store.files import disk_errors, write_all


@dataclass(frozen=True)
class MapJob(PredictionFiles):
    """One image and where its map goes.

    Attributes:
        predict: gives the map.
    """

    predict: Callable[[], ClassMap]

    def files(self, classes: tuple[int, ...], each: bool) -> list[Path]:
        """Every file that it writes."""
        masks = [self.mask_of(number) for number in classes] if each else [self.out]
        return [*masks, *([self.overlay] if self.overlay else []), self.report]

    def mask_of(self, number: int) -> Path:
        return self.out.with_name(f"{self.out.stem}_{number}.png")


def folder_images(folder: Path, out: Path) -> list[tuple[Path, Path]]:
    """Every image of a folder and NAME.png for it.

    Raises:
        OptionError: there is none, or two would be written to the same file.
    """
    found: dict[Path, Path] = {}
    for name, _ in walk(folder):
        if Path(name).suffix.lower() not in image_suffixes():
            continue
        target = str(Path(name).with_suffix(""))
        check_inside(target)
        place = out / f"{target}.png"
        if place in found:
            raise OptionError(
                f"{name} and {found[place].name} would both be written to {place}",
                "predict images of one name with other suffixes in two runs",
            )
        found[place] = folder / name
    if not found:
        raise OptionError(f"{folder} holds no image", "name an image or a folder of images")
    return [(image, place) for place, image in found.items()]


def write_map(job: MapJob, each: bool) -> dict[str, Any]:
    """Predicts one image and writes its files; returns what is said of it.

    Raises:
        CasamError: the image cannot be read, or the files not be written.
    """
    found = job.predict()
    labels, single = found.labels, len(found.classes) == 1
    masks = {number: png(_binary(labels == number)) for number in found.classes} if each else {}
    files = [(job.mask_of(number), content) for number, content in masks.items()]
    if not each:
        small = labels if max(found.classes) > 255 else labels.astype(np.uint8)
        files.append((job.out, png(_binary(labels > 0) if single else Image.fromarray(small))))
    if found.image is not None and job.overlay is not None:
        files.append((job.overlay, png(draw_objects(found.image, labels, []))))
    report: dict[str, Any] = {
        "image": job.name,
        "mask": None if each else str(job.out),
        "overlay": None if job.overlay is None else str(job.overlay),
        "head": found.head,
        "task": found.task,
        "height": labels.shape[0],
        "width": labels.shape[1],
        "area": int(np.count_nonzero(labels)),
        "classes": [
            {
                "class": number,
                "name": found.class_names.get(number),
                "area": int(np.count_nonzero(labels == number)),
                **({"mask": str(job.mask_of(number))} if each else {}),
            }
            for number in found.classes
        ],
    }
    files.append((job.report, (json.dumps(report, indent=1) + "\n").encode()))
    with disk_errors(job.out.parent, "cannot create the folder"):
        job.out.parent.mkdir(parents=True, exist_ok=True)
    write_all([(path, [content]) for path, content in files])
    return report


def _binary(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)
