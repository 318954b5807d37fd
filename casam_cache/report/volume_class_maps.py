"""What `casam predict` does with a volume and a run that takes no prompts: slice after slice, one label map.

NAME.nii.gz         ids of classes on the voxels of the volume, in the format of its source or of the name
NAME_overlay.png    slices with classes over them
NAME.json           voxels and millilitres of each class, and by what
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.bench.class_maps import ClassMapPredictor
from casam_cache.datasets.label_volumes import label_files
from casam_cache.datasets.volumes import Volume
from casam_cache.errors import OptionError
from casam_cache.report.pictures import png
from casam_cache.report.volume_overlay import volume_overlay
from casam_cache.report.volume_predictions import (
    SliceDone,
    VolumeJob,
    plan_volume,
    slice_image,
    slice_window,
)
from casam_cache.store.files import write_all


def plan_volume_classes(volume: Volume, out: Path, axis: str | None = None) -> VolumeJob:
    """What is to be predicted on a volume, checked before anything is decoded: all of its slices.

    Raises:
        OptionError: an unknown axis, or a format that the volume cannot be written in.
        ImageError: a DICOM series that no DICOM-SEG can be made for.
    """
    return plan_volume(volume, [], out, axis=axis)


def predict_volume_classes(
    job: VolumeJob,
    predictor: ClassMapPredictor,
    slices: tuple[int, int] | None = None,
    progress: SliceDone | None = None,
) -> dict[str, Any]:
    """Predicts slices, encoding each once, and writes the files; returns what NAME.json says.

    Args:
        job: of `plan_volume_classes`.
        predictor: its head and backbone.
        slices: first and last; None: all. The others are background.
        progress: called with (slices done, slices).

    Raises:
        OptionError: slices that are not all there.
        CasamError: the volume cannot be read, the encoder cannot be had, or the files cannot be written.
    """
    volume, layout = job.volume, job.layout
    first, last = slices or (0, job.count - 1)
    if last >= job.count:
        raise OptionError(
            f"--slices {first}-{last}: {volume.path} has {job.count} slices, 0 to {job.count - 1}"
        )
    window = slice_window(volume, predictor.intensity)
    labels = np.zeros(volume.shape, np.uint16)
    wanted = range(first, last + 1)
    for done, index in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted))
        layout.place(labels, index, predictor.predict(slice_image(volume, layout, index, window)).labels)
    if progress is not None:
        progress(len(wanted), len(wanted))
    names = {number: predictor.class_names.get(number, f"class {number}") for number in predictor.classes}
    written = bool(labels.any()) or job.suffix != ".dcm"
    notes = (
        [] if written else [f"{job.out} is not written: no voxel was predicted, and a DICOM-SEG needs one"]
    )
    files = list(label_files(volume, labels, job.out, names)) if written else []
    millilitres = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000 if volume.units == "mm" else None
    counts = {number: int(np.count_nonzero(labels == number)) for number in predictor.classes}
    report: dict[str, Any] = {
        "image": str(volume.path),
        "mask": str(job.out) if written else None,
        "overlay": str(job.beside("_overlay.png")),
        "head": predictor.head,
        "task": predictor.task,
        "shape": list(volume.shape),
        "spacing": list(volume.spacing),
        "units": volume.units,
        "axis": layout.axis,
        "plane": layout.plane,
        "slices": [first, last],
        "window": None if window is None else list(window),
        "voxels": int(np.count_nonzero(labels)),
        "classes": [
            {
                "class": number,
                "name": predictor.class_names.get(number),
                "voxels": count,
                "ml": None if millilitres is None else count * millilitres,
            }
            for number, count in counts.items()
        ],
        "notes": notes,
    }
    files.append((job.beside("_overlay.png"), png(volume_overlay(job, labels, window))))
    files.append((job.beside(".json"), (json.dumps(report, indent=1) + "\n").encode()))
    write_all([(path, [content]) for path, content in files])
    return report
