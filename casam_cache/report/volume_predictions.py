"""What `casam predict` does with a volume: its slices predicted one after another, and the files that come of it.

NAME.nii.gz         the label map on the voxels of the volume, in the format of its source or of the name
NAME_3.nii.gz       with `each`, instead: the mask (0 and 1) of object 3
NAME_overlay.png    slices with objects and prompts over them
NAME.json           scores, voxels, millilitres, prompts, the head and how it was chosen
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.bench.objects import Objects, check_prompts, segment
from casam_cache.bench.predict import Predictor
from casam_cache.bench.prompt_file import ObjectPrompt, joined
from casam_cache.datasets.images import to_rgb
from casam_cache.datasets.intensity import parse_intensity
from casam_cache.datasets.label_volumes import check_format, label_files
from casam_cache.datasets.volumes import Layout, Volume, layout_of
from casam_cache.datasets.volumes.layout import picture
from casam_cache.datasets.volumes.windows import volume_window
from casam_cache.errors import OptionError
from casam_cache.fingerprint import finite_json
from casam_cache.report.pictures import png
from casam_cache.report.volume_overlay import volume_overlay
from casam_cache.store.files import write_all

SliceDone = Callable[[int, int], None]


@dataclass(frozen=True)
class VolumeJob:
    """A volume with its prompts and the files that come of it.

    Attributes:
        volume: whose slices.
        layout: how they are cut and shown.
        prompts: each of its own slices; those of one number are one object.
        out: NAME.nii.gz or the like.
        each: a file an object instead of a label map.
    """

    volume: Volume
    layout: Layout
    prompts: Sequence[ObjectPrompt]
    out: Path
    each: bool = False

    @property
    def count(self) -> int:
        """Slices of the volume."""
        return self.volume.shape[self.layout.axis]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a slice, pixels."""
        return self.volume.shape[self.layout.rows], self.volume.shape[self.layout.columns]

    @property
    def numbers(self) -> list[int]:
        """Of the objects."""
        return sorted({prompt.number for prompt in self.prompts})

    @property
    def slices(self) -> list[int]:
        """Those that a prompt is about."""
        return [
            index for index in range(self.count) if any(_covers(prompt, index) for prompt in self.prompts)
        ]

    def prompts_on(self, index: int) -> list[ObjectPrompt]:
        """The prompts of a slice, one an object.

        Raises:
            OptionError: two boxes or masks of one object.
        """
        return joined([replace(prompt, slices=None) for prompt in self.prompts if _covers(prompt, index)])

    @property
    def suffix(self) -> str:
        return check_format(self.volume, self.out)

    def beside(self, ending: str) -> Path:
        """NAME with another ending."""
        return self.out.with_name(self.out.name[: -len(self.suffix)] + ending)

    def mask_of(self, number: int) -> Path:
        return self.beside(f"_{number}{self.suffix}") if self.each else self.out

    @property
    def files(self) -> list[Path]:
        """Every file that it writes."""
        masks = list(dict.fromkeys(self.mask_of(number) for number in self.numbers)) or [self.out]
        pixels = [path.with_suffix(".raw") for path in masks if self.suffix == ".mhd"]
        return [*masks, *pixels, self.beside("_overlay.png"), self.beside(".json")]


def plan_volume(
    volume: Volume,
    prompts: Sequence[ObjectPrompt],
    out: Path,
    *,
    axis: str | None = None,
    slices: tuple[int, int] | None = None,
    each: bool = False,
) -> VolumeJob:
    """What is to be predicted on a volume, checked before anything is decoded.

    Args:
        volume: the volume.
        prompts: of its objects, in pixels of its slices as they are shown.
        out: the file to write; its suffix says how.
        axis: that slices are cut along, see `layout_of`.
        slices: first and last slice that prompts are about which do not say it themselves.
        each: a file an object.

    Raises:
        OptionError: a slice or prompt that is not inside the volume, a point that says no slice, or a format that the
            volume cannot be written in.
        ImageError: a DICOM series that no DICOM-SEG can be made for.
    """
    layout = layout_of(volume, axis)
    count = volume.shape[layout.axis]
    if slices is not None and slices[1] >= count:
        raise OptionError(f"--slices {slices[0]}-{slices[1]}: {_counted(volume, layout)}")
    for prompt in prompts:
        where = prompt.slices or slices
        if prompt.slices is not None and prompt.slices[1] >= count:
            raise OptionError(
                f"{prompt.name_of('box')}: slices {prompt.slices[0]} to {prompt.slices[1]} are not all there: "
                f"{_counted(volume, layout)}"
            )
        if where is None and (prompt.points or prompt.mask is not None):
            raise OptionError(
                f"{prompt.name_of('point' if prompt.points else 'mask')} says no slice of {volume.path}",
                "--slices 12, or 12-15, or a column slice in the file of prompts",
            )
    job = VolumeJob(volume, layout, [replace(one, slices=one.slices or slices) for one in prompts], out, each)
    check_format(volume, out)
    for index in job.slices:
        check_prompts(job.prompts_on(index), *job.size)
    if job.suffix == ".dcm":
        _check_segmentation(job)
    return job


def _check_segmentation(job: VolumeJob) -> None:
    """Whether a DICOM-SEG of the series can be made, before hours are spent: one with a voxel in each frame is."""
    marked = np.zeros(job.volume.shape, np.uint8)
    marked[0, 0] = 1
    label_files(job.volume, marked, job.out)


def _covers(prompt: ObjectPrompt, index: int) -> bool:
    return prompt.slices is None or prompt.slices[0] <= index <= prompt.slices[1]


def _counted(volume: Volume, layout: Layout) -> str:
    plane = f"{layout.plane} " if layout.plane else ""
    count = volume.shape[layout.axis]
    return f"{volume.path} has {count} {plane}slices, 0 to {count - 1}"


@dataclass
class _Found:
    """What was predicted so far.

    Attributes:
        labels: (I, J, K), object numbers.
        alone: with `each`, the mask of each object, those under others included.
        scores: of each object, a slice each.
        voxels: of each object, those under others included.
        tasks: slices that each task's head was used for; of the frozen SAM under the empty name.
        objects: of the last slice.
        notes: about what was not written.
    """

    labels: np.ndarray
    alone: dict[int, np.ndarray] = field(default_factory=dict)
    scores: dict[int, list[float]] = field(default_factory=dict)
    voxels: dict[int, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    objects: Objects | None = None
    notes: list[str] = field(default_factory=list)


def predict_volume(
    job: VolumeJob, predictor: Predictor, progress: SliceDone | None = None, intensity: str | None = None
) -> dict[str, Any]:
    """Predicts each slice that a prompt is about, encoding it once, and writes the files; returns what NAME.json says.

    Where objects overlap in a slice, the one with the higher score there has the voxels, as in images.

    Args:
        job: of `plan_volume`.
        predictor: its head and backbone.
        progress: called with (slices done, slices).
        intensity: which values become black and white, see `parse_intensity`; by default the predictor's.

    Raises:
        OptionError: a malformed `intensity`.
        CasamError: the volume cannot be read, the encoder cannot be had, or the files cannot be written.
    """
    volume, layout = job.volume, job.layout
    window = slice_window(volume, intensity or predictor.intensity)
    found = _Found(np.zeros(volume.shape, np.uint16))
    if job.each:
        found.alone = {number: np.zeros(volume.shape, np.uint8) for number in job.numbers}
    wanted = job.slices
    for done, index in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted))
        predictor.set_image(slice_image(volume, layout, index, window))
        prompts = job.prompts_on(index)

        def keep(prompt: ObjectPrompt, mask: np.ndarray, index: int = index) -> None:
            layout.place(found.alone[prompt.number], index, mask.astype(np.uint8))

        objects = segment(predictor, prompts, keep if job.each else None)
        layout.place(found.labels, index, objects.labels)
        for prompt, score, area in zip(prompts, objects.scores, objects.areas, strict=True):
            found.scores.setdefault(prompt.number, []).append(score)
            found.voxels[prompt.number] = found.voxels.get(prompt.number, 0) + area
        found.tasks[objects.task] = found.tasks.get(objects.task, 0) + 1
        found.objects = objects
    if progress is not None:
        progress(len(wanted), len(wanted))
    files = _label_files(job, found)
    report = _report(job, found, {path for path, _ in files}, window)
    files.append((job.beside("_overlay.png"), png(volume_overlay(job, found.labels, window))))
    files.append((job.beside(".json"), (json.dumps(finite_json(report), indent=1) + "\n").encode()))
    write_all([(path, [content]) for path, content in files])
    return report


def slice_window(volume: Volume, intensity: str) -> tuple[float, float] | None:
    """One window for all slices, as for encoding; pages of a TIFF stack have their own, as images have."""
    return parse_intensity(intensity) if volume.kind == "tiff" else volume_window(volume, intensity)


def slice_image(volume: Volume, layout: Layout, index: int, window: tuple[float, float] | None) -> np.ndarray:
    """A slice as the encoder gets it, uint8 (H, W, 3).

    Raises:
        ImageError: the volume cannot be read, or the slice holds values that are not finite.
    """
    return to_rgb(picture(volume, layout, index), volume.path, window)


def _label_files(job: VolumeJob, found: _Found) -> list[tuple[Path, bytes]]:
    wanted = [(job.out, found.labels, {number: f"object {number}" for number in job.numbers})]
    if job.each:
        wanted = [
            (job.mask_of(number), mask, {1: f"object {number}"}) for number, mask in found.alone.items()
        ]
    files = []
    for path, labels, names in wanted:
        if job.suffix == ".dcm" and not labels.any():
            found.notes.append(
                f"{path} is not written: no voxel was predicted, and a DICOM-SEG without any is not valid"
            )
            continue
        files += label_files(job.volume, labels, path, names)
    return files


def _report(
    job: VolumeJob, found: _Found, written: set[Path], window: tuple[float, float] | None
) -> dict[str, Any]:
    volume, layout, objects = job.volume, job.layout, found.objects
    assert objects is not None  # a plan has a prompt, and each prompt a slice
    millilitres = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000 if volume.units == "mm" else None
    report: dict[str, Any] = {
        "image": str(volume.path),
        "mask": str(job.out) if job.out in written else None,
        "overlay": str(job.beside("_overlay.png")),
        "head": objects.head,
        "task": objects.task if len(found.tasks) == 1 else "",
        "predicted_iou": float(np.mean([score for scores in found.scores.values() for score in scores])),
        "shape": list(volume.shape),
        "spacing": list(volume.spacing),
        "units": volume.units,
        "axis": layout.axis,
        "plane": layout.plane,
        "slices": job.slices,
        "window": None if window is None else list(window),
        "voxels": int(np.count_nonzero(found.labels)),
        "objects": [_object(job, found, written, number, millilitres) for number in job.numbers],
        "notes": found.notes,
    }
    if objects.decision is not None:
        report["routing"] = {name or "frozen": count for name, count in sorted(found.tasks.items())}
    return report


def _object(
    job: VolumeJob, found: _Found, written: set[Path], number: int, millilitres: float | None
) -> dict[str, Any]:
    voxels = found.voxels[number]
    entry: Mapping[str, Any] = {
        "object": number,
        "score": float(np.mean(found.scores[number])),
        "slices": len(found.scores[number]),
        "voxels": voxels,
        "ml": None if millilitres is None else voxels * millilitres,
        "prompts": [prompt.to_json() for prompt in job.prompts if prompt.number == number],
    }
    mask = job.mask_of(number)
    return {**entry, **({"mask": str(mask) if mask in written else None} if job.each else {})}
