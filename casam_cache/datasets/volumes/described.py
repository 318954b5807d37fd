"""What is said of volumes before anything is encoded: of the set as a whole, and file by file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from casam_cache.datasets.sample import DatasetOptions, Problem
from casam_cache.datasets.volumes.case import Case, Looked
from casam_cache.datasets.volumes.layout import PLANES
from casam_cache.datasets.volumes.orientation import world_axes
from casam_cache.datasets.volumes.slices import DEFAULT_SLICES

WHOLE = "one window a volume brings its values to 8 bit; pixels are not resampled"
_QUIET = ("a NumPy file does not say", "it does not say how it lies")
_EACH = 3  # volumes of which the same is said one by one
_COARSE = 2.0  # times as large as the other side: such pixels are not what was acquired


def described(looked: Sequence[tuple[Case, Looked]], options: DatasetOptions) -> list[str]:
    """What was decided for the set as a whole, in lines."""
    kinds = Counter(str(one.record["kind"]) for _, one in looked)
    planes = Counter(str(one.record["plane"]) or f"axis {one.axis}" for _, one in looked)
    taken, there = sum(len(one.indexes) for _, one in looked), sum(one.count for _, one in looked)
    slices = options.slices or DEFAULT_SLICES
    chosen = {"nonempty": "those that hold a label (--slices all takes every one)"}.get(
        slices, f"--slices {slices}"
    )
    if all(case.labels is None for case, _ in looked) and slices == "nonempty":
        chosen = "all, since there are no labels"
    volumes = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    lines = [
        f"{len(looked)} volume{'s' if len(looked) != 1 else ''} ({volumes}), "
        f"slices {', '.join(sorted(planes))}{'' if options.axis else ' (--axis takes others)'}: "
        f"{taken} of {there}, {chosen}",
        f"{_spacings(looked)}; {WHOLE}",
    ]
    lines += _acquired(looked, options)
    lost = [case.name for case, one in looked if not one.record["oriented"]]
    if lost:
        lines.append(
            f"{len(lost)} volumes do not say how they lie in the patient, e.g. {lost[0]}: slices are as stored"
        )
    return lines


def _spacings(looked: Sequence[tuple[Case, Looked]]) -> str:
    """Pixel sizes of the slices, for people."""
    sizes = Counter(
        (
            one.record["spacing"][one.record["rows"]],
            one.record["spacing"][one.record["columns"]],
            one.record["units"],
        )
        for _, one in looked
    )
    if all(units == "voxels" for _, _, units in sizes):
        return "spacing unknown"
    rows = [size for pair in sizes for size in pair[:2]]
    uneven = sum(
        number for (row, column, _), number in sizes.items() if abs(row - column) > 0.01 * max(row, column)
    )
    square = f", not square in {uneven} of {len(looked)} volumes" if uneven else ""
    return f"pixels of {min(rows):.3g} to {max(rows):.3g} mm{square}"


def _acquired(looked: Sequence[tuple[Case, Looked]], options: DatasetOptions) -> list[str]:
    """A line where slices of another plane are much finer, as of sagittal acquisitions cut axially."""
    if options.axis is not None:
        return []
    better: dict[str, list[str]] = {}
    for case, one in looked:
        spacing = one.record["spacing"]
        thick = max(range(3), key=lambda axis: spacing[axis])
        if one.record["plane"] and thick != one.axis and spacing[thick] > _COARSE * sorted(spacing)[1]:
            names = {number: plane for plane, number in PLANES.items()}
            plane = names[world_axes(np.array(one.record["affine"]))[thick]]
            better.setdefault(plane, []).append(case.name)
    return [
        f"{len(names)} volumes were acquired {plane}, so that pixels of axial slices are coarse, e.g. {names[0]}: "
        f"--axis {plane} takes them as acquired"
        for plane, names in sorted(better.items())
    ]


def worrying(looked: Sequence[tuple[Case, Looked]]) -> list[Problem]:
    """Notes to look at, file by file; what is said of more than a few is said once, with an example.

    What is true of a whole set by its kind is a line of the set instead.
    """
    said: dict[str, list[str]] = {}
    for case, one in looked:
        for note in one.notes:
            if not note.startswith(_QUIET):
                file = next((file for file, _ in case.label_files if note.startswith(f"{file}: ")), None)
                text = note if file is None else note.removeprefix(f"{file}: ")
                said.setdefault(text, []).append(file or case.image)
    found = []
    for note, files in said.items():
        shown = files if len(files) <= _EACH else files[:1]
        text = note if len(files) <= _EACH else f"{note}; likewise {len(files) - 1} more volumes"
        found += [Problem(file, text, "", "warning") for file in shown]
    return found
