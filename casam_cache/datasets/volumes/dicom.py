"""DICOM series by pydicom: a folder of files, one file, or an enhanced multi-frame file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.volumes.channels import no_such_channel, one_of
from casam_cache.datasets.volumes.dicom_files import Series, series_in
from casam_cache.datasets.volumes.dicom_frames import Frame, frames_of
from casam_cache.datasets.volumes.dicom_pixels import read_frames
from casam_cache.datasets.volumes.orientation import LPS_TO_RAS, is_sound
from casam_cache.datasets.volumes.volume import Plane, Volume
from casam_cache.errors import ImageError

_PARALLEL = 1e-3  # of a direction cosine
_SAME_PLACE = 1e-2  # mm; nearer slices lie on one another
_UNEVEN = 0.05  # share of the spacing by which distances may differ


def read_dicom(
    path: Path, key: tuple[Any, ...], channel: int | None = None, series: str | None = None
) -> Volume:
    """The headers of a DICOM series, and its voxels when they are asked for.

    Slices are sorted by position along their normal; where no file has a position, by instance number.

    Args:
        path: a folder of files of one series (others, also below it, are found and counted), or one file.
        key: names their content.
        channel: of several pictures at every position (echoes, time points), which; from 0, in the order of time point,
            echo, acquisition and instance numbers.
        series: instance UID, number or description of the series that is meant.

    Raises:
        ImageError: nothing there is a DICOM image, or what is there can be read in several ways.
    """
    found = _one_series(path, series_in(path), series)
    notes = list(found.notes)
    frames = _without_copies([frame for header in found.headers for frame in frames_of(*header)], notes)
    _refuse_unlike(path, frames)
    frames, channel = _sorted(path, frames, channel, notes)
    first = frames[0]
    affine, oriented, units = _affine(frames)
    if not is_sound(affine):
        raise ImageError(f"{path}: its directions collapse an axis: {affine[:3].tolist()}", "export it again")
    if oriented and (degrees := _tilt(affine)) > 1.0:
        notes.append(
            f"its slices are shifted against one another, as by a gantry tilted {degrees:.0f} degrees: kept so, "
            "and distances in mm are those of a straight grid"
        )
    if not oriented:
        notes.append("it does not say how it lies in the patient")
    scales = {(frame.slope, frame.intercept) for frame in frames}
    one_scale = len(scales) == 1

    def load() -> np.ndarray:
        voxels = read_frames([(frame.path, frame.number) for frame in frames])
        if one_scale:
            return voxels
        scaled = np.empty(voxels.shape, np.float32, order="F")
        for k, frame in enumerate(frames):  # as in PET, where each slice has its own
            scaled[:, :, k] = voxels[:, :, k] * frame.slope + frame.intercept
        return scaled

    return Volume(
        path, "dicom", (first.columns, first.rows, len(frames)), affine, (*key, found.uid, channel), load,
        oriented, units,
        slope=first.slope if one_scale else 1.0, intercept=first.intercept if one_scale else 0.0,
        inverted=first.photometric == "MONOCHROME1", channel=channel,
        planes=tuple(Plane(frame.uid, frame.path, frame.number, frame.position) for frame in frames),
        series=found.uid, patient=found.patient,
        padding=_padding(found) if one_scale else None, notes=tuple(notes),
    )  # fmt: skip


def _one_series(path: Path, there: Sequence[Series], wanted: str | None) -> Series:
    images = [one for one in there if one.is_image]
    if wanted is not None:
        chosen = [one for one in images if wanted in (one.uid, one.number, one.description)]
        if len(chosen) == 1:
            return chosen[0]
        shown = "; ".join(one.describe() for one in images) or "none"
        what = "no series" if not chosen else f"{len(chosen)} series"
        raise ImageError(
            f"{path}: {what} '{wanted}'; there are: {shown}", "give the UID of one: --series UID"
        )
    if not images:
        kinds = ", ".join(sorted({one.modality for one in there})) or "none"
        raise ImageError(f"{path}: no DICOM image series (found: {kinds})", "give the folder of one")
    if len(images) > 1:
        shown = "; ".join(one.describe() for one in images)
        raise ImageError(
            f"{path}: {len(images)} DICOM series in one folder: {shown}",
            f"say which one is meant: --series {images[0].uid}",
        )
    return images[0]


def _tilt(affine: np.ndarray) -> float:
    """Degrees between the way from slice to slice and the normal of the slices."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    cosine = abs(normal @ affine[:3, 2]) / (np.linalg.norm(normal) * np.linalg.norm(affine[:3, 2]))
    return float(np.degrees(np.arccos(min(1.0, cosine))))


def _padding(series: Series) -> tuple[float, float] | None:
    """The stored numbers of padding that the first file of a series names."""
    _, header = series.headers[0]
    ends = [header.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    known = [float(end) for end in ends if isinstance(end, int)]
    return (min(known), max(known)) if known else None


def _without_copies(frames: list[Frame], notes: list[str]) -> list[Frame]:
    """A file that lies there twice has the UID of the other."""
    seen: dict[tuple[str, int], Frame] = {}
    for frame in frames:
        other = seen.setdefault((frame.uid, frame.number), frame)
        if other is not frame and frame.number == 0:
            notes.append(f"{frame.path.name} has the instance UID of {other.path.name} and is left out")
    return list(seen.values())


def _refuse_unlike(path: Path, frames: Sequence[Frame]) -> None:
    """One grid: every frame of one size, one direction and one meaning of its numbers."""
    for what, values in (
        ("sizes", [f"{frame.columns} x {frame.rows}" for frame in frames]),
        ("photometric interpretations", [frame.photometric for frame in frames]),
    ):
        if len(set(values)) > 1:
            raise _unlike(path, what, frames, values)
    known = [frame for frame in frames if frame.position is not None]
    if known and len(known) < len(frames):
        lost = next(frame for frame in frames if frame.position is None)
        raise ImageError(
            f"{path}: {len(frames) - len(known)} of {len(frames)} pictures have no position, e.g. {lost.path.name}",
            "remove them, or export the series again",
        )
    grids: list[Frame] = []  # the first frame of each direction and spacing
    of_grid = [_grid(frame, grids) for frame in known]
    if len(grids) > 1:
        raise _unlike(path, "directions or spacings (a localiser?)", known, of_grid)


def _grid(frame: Frame, grids: list[Frame]) -> str:
    """The direction and spacing of a frame, by the first one that had it."""
    for other in grids:
        if np.abs(np.subtract(frame.orientation, other.orientation)).max() <= _PARALLEL and np.allclose(
            frame.spacing or 0.0, other.spacing or 0.0, rtol=1e-3
        ):
            return _shown(other)
    grids.append(frame)
    return _shown(frame)


def _unlike(path: Path, what: str, frames: Sequence[Frame], values: Sequence[str]) -> ImageError:
    """Names the files that are not as most are."""
    usual = Counter(values).most_common(1)[0][0]
    odd = [_shown(frame) for frame, value in zip(frames, values, strict=True) if value != usual]
    kinds = "" if what.startswith("dir") else f": {', '.join(sorted(set(values)))}"
    more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
    return ImageError(
        f"{path}: a series of several {what}{kinds}; {len(odd)} of {len(frames)} pictures are not as the others: "
        f"{odd[0]}{more}",
        "move these files to another folder, out of the dataset",
    )


def _sorted(
    path: Path, frames: list[Frame], channel: int | None, notes: list[str]
) -> tuple[list[Frame], int | None]:
    """Frames along the normal, one a position."""
    if frames[0].position is None:
        if channel:
            raise no_such_channel(path, channel, 1)
        return sorted(frames, key=lambda frame: (frame.order, frame.path.name, frame.number)), None
    ordered = sorted(frames, key=lambda frame: (round(frame.along, 3), frame.order, frame.path.name))
    stacks: list[list[Frame]] = []
    for frame in ordered:
        if stacks and abs(frame.along - stacks[-1][0].along) < _SAME_PLACE:
            stacks[-1].append(frame)
        else:
            stacks.append([frame])
    deepest = max(map(len, stacks))
    if deepest == 1:
        if channel:
            raise no_such_channel(path, channel, 1)
        chosen = [stack[0] for stack in stacks]
    else:
        chosen = _of_stacks(path, stacks, deepest, channel)
    _note_distances(chosen, notes)
    return chosen, channel if deepest > 1 else None


def _of_stacks(path: Path, stacks: list[list[Frame]], deepest: int, channel: int | None) -> list[Frame]:
    many = [stack for stack in stacks if len(stack) > 1]
    example = " and ".join(_shown(frame, path) for frame in many[0][:2])
    if len(many) < len(stacks) or any(len(stack) != deepest for stack in stacks):
        raise ImageError(
            f"{path}: {len(many)} of {len(stacks)} positions hold several pictures, e.g. {example}",
            "remove the ones that are not meant",
        )
    if channel is None:
        raise ImageError(
            f"{path}: {deepest} pictures at each of {len(stacks)} positions (echoes, time points), e.g. {example}",
            one_of(deepest),
        )
    if not 0 <= channel < deepest:
        raise no_such_channel(path, channel, deepest)
    return [sorted(stack, key=lambda frame: frame.order)[channel] for stack in stacks]


def _shown(frame: Frame, below: Path | None = None) -> str:
    file = (
        os.path.relpath(frame.path, below) if below is not None and below != frame.path else frame.path.name
    )
    return file + (f" frame {frame.number}" if frame.number else "")


def _note_distances(frames: Sequence[Frame], notes: list[str]) -> None:
    along = np.array([frame.along for frame in frames])
    if len(along) < 3:
        return
    steps = np.diff(along)
    usual = float(np.median(steps))
    for at in map(int, np.flatnonzero(steps > 1.5 * usual)):
        missing = round(float(steps[at]) / usual) - 1
        notes.append(
            f"{missing} slice{'s' if missing > 1 else ''} missing between {_shown(frames[at])} and "
            f"{_shown(frames[at + 1])}: {steps[at]:.2f} mm where {usual:.2f} mm is usual; read as if it were none"
        )
    rest = steps[steps <= 1.5 * usual]
    if np.abs(rest - usual).max() > _UNEVEN * usual:
        notes.append(f"slices {rest.min():.2f} to {rest.max():.2f} mm apart; read as if all were {usual:.2f}")


def _affine(frames: Sequence[Frame]) -> tuple[np.ndarray, bool, str]:
    """From (column, row, slice) to mm in RAS+; whether the patient's axes are known; the units."""
    first = frames[0]
    lps = np.eye(4)
    if first.position is None:
        if first.spacing is not None:
            lps[0, 0], lps[1, 1] = first.spacing[1], first.spacing[0]
            lps[2, 2] = first.thickness or 1.0
        return LPS_TO_RAS @ lps, False, "mm" if first.spacing is not None else "voxels"
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    spacing = first.spacing or (1.0, 1.0)
    steps = [after.place - before.place for before, after in pairwise(frames)]
    lps[:3, 0], lps[:3, 1] = row * spacing[1], column * spacing[0]
    # The steps themselves, not the normal: a tilted gantry shifts each slice.
    step = np.median(steps, axis=0) if steps else np.cross(row, column) * (first.thickness or 1.0)
    lps[:3, 2] = step
    lps[:3, 3] = first.position
    return LPS_TO_RAS @ lps, True, "mm" if first.spacing is not None else "voxels"
