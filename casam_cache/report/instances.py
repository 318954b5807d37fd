"""What `casam predict` writes for a run that finds objects.

NAME.png            a 16 bit label map: 0 background, i the object with the i-th highest score
NAME_overlay.png    the objects over the image, with the boxes that prompted them
NAME.json           class, score, box, area and mask (COCO's run lengths) of each object, and by what
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from casam_cache.bench.found_objects import FoundObjects
from casam_cache.bench.prompt_file import Box, ObjectPrompt
from casam_cache.cutout import Cutout
from casam_cache.report.pictures import draw_objects, png
from casam_cache.report.prediction_files import PredictionFiles
from casam_cache.segmenters.instances import Instance
from casam_cache.store.files import disk_errors, write_all


@dataclass(frozen=True)
class InstanceJob(PredictionFiles):
    """One image and where its objects go.

    Attributes:
        predict: finds the objects.
    """

    predict: Callable[[], FoundObjects]

    def files(self) -> list[Path]:
        """Every file that it writes."""
        return [self.out, *([self.overlay] if self.overlay else []), self.report]


def run_lengths(cutout: Cutout) -> dict[str, Any]:
    """A mask as COCO's uncompressed run lengths: pixels by columns, the first run of what is not the object."""
    flat = cutout.bitmap.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes.tolist(), len(flat)]).tolist()
    return {"size": list(cutout.size), "counts": [0, *counts] if flat[0] else counts}


def box_of(one: Instance) -> Box:
    """The corners of an object's box as plain numbers, to a hundredth of a pixel."""
    x0, y0, x1, y1 = (round(float(side), 2) for side in one.box)
    return x0, y0, x1, y1


def write_instances(job: InstanceJob) -> dict[str, Any]:
    """Predicts one image and writes its files; returns what the JSON file holds.

    Raises:
        CasamError: the image cannot be read, or the files not be written.
    """
    found = job.predict()
    labels = found.labels
    files = [(job.out, png(Image.fromarray(labels)))]
    if found.image is not None and job.overlay is not None:
        boxes = [ObjectPrompt("", box_of(one)) for one in found.instances]
        files.append((job.overlay, png(draw_objects(found.image, labels, boxes))))
    report: dict[str, Any] = {
        "image": job.name,
        "instances": str(job.out),
        "overlay": None if job.overlay is None else str(job.overlay),
        "head": found.head,
        "task": found.task,
        "height": found.height,
        "width": found.width,
        "threshold": found.threshold,
        "area": int(np.count_nonzero(labels)),
        "objects": [
            {
                "object": number,
                "class": one.class_id,
                "name": found.class_names.get(one.class_id),
                "score": round(one.score, 6),
                "box": list(box_of(one)),
                "area": one.cutout.area,
                "segmentation": run_lengths(one.cutout),
            }
            for number, one in enumerate(found.instances, start=1)
        ],
    }
    files.append((job.report, (json.dumps(report) + "\n").encode()))
    with disk_errors(job.out.parent, "cannot create the folder"):
        job.out.parent.mkdir(parents=True, exist_ok=True)
    write_all([(path, [content]) for path, content in files])
    return report
