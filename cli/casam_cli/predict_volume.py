"""`casam predict` of a volume: its slices one after another -> a label map in the volume's own space."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casam_cache.errors import OptionError
from casam_cli import console

if TYPE_CHECKING:
    from casam_cache.bench.predict import Predictor
    from casam_cache.bench.prompt_file import ObjectPrompt
    from casam_cache.datasets.volumes import Volume


@dataclass(frozen=True)
class VolumeOptions:
    """What is asked of volumes alone: as on the command line.

    Attributes:
        axis: that slices are cut along.
        slices: first and last, `3-20`, or one.
        channels: which of several volumes in one file, from 1.
        series: which DICOM series of a folder.
        window: for the frozen SAM, which values become black and white.
    """

    axis: str | None
    slices: str | None
    channels: int | None
    series: str | None
    window: str | None = None

    @property
    def given(self) -> list[str]:
        return [f"--{name}" for name, value in vars(self).items() if value is not None]


def volume_at(image: Path | None, options: VolumeOptions) -> Volume | None:
    """The volume that an argument names, or None; options of volumes are refused where it is none.

    Raises:
        OptionError: `--slices` or the like beside an image, or a folder of several volumes.
        CasamError: it cannot be read.
    """
    from casam_cache.datasets.label_volumes.sources import volume_source
    from casam_cache.datasets.listing import walk
    from casam_cache.datasets.volumes import is_volume
    from casam_cache.datasets.volumes.places import holds_volumes

    found = None
    if image is not None:
        channel = None if options.channels is None else options.channels - 1
        found = volume_source(image, channel=channel, series=options.series)
    if found is None and image is not None and image.is_dir() and holds_volumes(image):
        first = next((name for name, entry in walk(image) if is_volume(Path(entry.path))), "NAME")
        raise OptionError(
            f"{image} holds volumes, which are predicted one at a time",
            f"casam predict {shlex.quote(str(image / first))}; a file of prompts may be about many, "
            "those of others are left out",
        )
    if found is None and options.given:
        raise OptionError(
            f"{', '.join(options.given)}: {image or 'a stored item'} is no volume", "leave it out"
        )
    return found


def predict_volume(
    volume: Volume,
    asked: dict[str, list[ObjectPrompt]],
    options: VolumeOptions,
    out: Path | None,
    predictor: Callable[[], Predictor],
    *,
    each: bool,
    overwrite: bool,
    json_: bool,
) -> None:
    """Predicts, writes and reports; arguments as of `casam predict`."""
    from casam_cache.bench.prompt_file import slice_range
    from casam_cache.datasets.label_volumes import default_suffix
    from casam_cache.report import volume_predictions as wanted
    from casam_cache.report.predictions import check_overwriting, prompts_of

    name = volume.path.name
    prompts, notes = prompts_of(name, {"", name, str(volume.path), _stem(volume)}, asked)
    slices = None if options.slices is None else slice_range("--slices", options.slices)
    target = out or Path(f"mask{default_suffix(volume)}")
    if not target.parent.is_dir():
        raise OptionError(f"--out {target}: the folder {target.parent} does not exist")
    job = wanted.plan_volume(volume, prompts, target, axis=options.axis, slices=slices, each=each)
    check_overwriting(job.files, overwrite)
    for note in (*volume.notes, *notes):
        console.show_line(f"{name}: {note}" if note in volume.notes else note)
    console.show_line(f"{name}: {said_shape(volume)}; {_cut(job)}")
    made = predictor()
    if made.stand_in:
        console.show_line(made.stand_in)
    with console.bar(f"predict {name}", unit="slices") as bar:
        report = wanted.predict_volume(job, made, bar.update, options.window)
    if json_:
        console.print_json(report)
    else:
        _show(report)


def _stem(volume: Volume) -> str:
    from casam_cache.datasets.volumes import volume_stem

    return (
        Path(volume_stem(volume.path.name)).stem if volume.kind == "tiff" else volume_stem(volume.path.name)
    )


def said_shape(volume: Volume) -> str:
    """Voxels and spacing, for people."""
    sizes = " x ".join(map(str, volume.shape))
    spaces = " x ".join(f"{value:.3g}" for value in volume.spacing)
    known = f" of {spaces} mm" if volume.units == "mm" else ", spacing unknown"
    return f"{sizes} voxels{known}" + (f", {volume.codes}" if volume.codes else "")


def _cut(job: Any) -> str:
    slices: Sequence[int] = job.slices
    plane = job.layout.plane or f"axis {job.layout.axis}"
    return f"{len(slices)} of {job.count} {plane} slices ({slices[0]} to {slices[-1]})"


def _show(report: dict[str, Any]) -> None:
    by = f"{report['head']} of {report['task']}" if report["task"] else "the frozen SAM"
    if report["head"] != "identity" and not report["task"]:
        by = report["head"]
    for note in report["notes"]:
        console.show_line(note)
    if "routing" in report:
        chosen = ", ".join(f"{task}: {count}" for task, count in report["routing"].items())
        console.show_line(f"routed slice by slice: {chosen}")
    for entry in report["objects"]:
        size = "" if entry["ml"] is None else f", {entry['ml']:.4g} ml"
        where = entry.get("mask", report["mask"]) or "not written"
        console.show_line(
            f"{where}: object {entry['object']}, {entry['voxels']} voxels{size} in {entry['slices']} slices, "
            f"predicted IoU {entry['score']:.2f}, by {by}"
        )
    console.show_line(f"{report['overlay']}: objects and prompts over the slices")
