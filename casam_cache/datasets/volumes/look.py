"""Look at one case: the header of its image, and every label of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.datasets.labels import distinct
from casam_cache.datasets.sample import DatasetOptions, MaskValues
from casam_cache.datasets.volumes.case import Case, Looked, numbered_anew
from casam_cache.datasets.volumes.ground import asked_values, grounded
from casam_cache.datasets.volumes.labels import read_labels, whole_numbers
from casam_cache.datasets.volumes.layout import Layout, layout_of
from casam_cache.datasets.volumes.read import read_volume
from casam_cache.datasets.volumes.slices import taken_slices
from casam_cache.datasets.volumes.volume import Volume


def look_at(root: Path, case: Case, options: DatasetOptions) -> Looked:
    """What a case holds; its image's voxels are not read, its labels are.

    Args:
        root: the dataset folder.
        case: one of its cases.
        options: `axis` and `slices` count.

    Raises:
        ImageError: the image's header or the labels cannot be read, or do not fit.
        OptionError: the axis is unknown for this volume.
    """
    image = read_volume(root / case.image, channel=case.channel, series=case.series)
    layout = layout_of(image, options.axis)
    count = image.shape[layout.axis]
    notes, filled, values = list(image.notes), None, np.zeros(0, int)
    for file, classes in case.label_files:
        labels = read_labels(root / file, image)
        notes += [f"{file}: {note}" for note in labels.notes if note not in image.notes]
        there, own = _scan(labels, layout, dict(classes), asked_values(options))
        filled = there if filled is None else filled | there
        values = np.union1d(values, own)
    return Looked(
        taken_slices(options.slices, count, filled),
        count,
        layout.axis,
        _mark(image, layout),
        tuple(int(value) for value in values),
        record_of(image, layout, case),
        tuple(notes),
    )


def _scan(
    labels: Volume, layout: Layout, classes: dict[int, int], asked: MaskValues
) -> tuple[np.ndarray, np.ndarray]:
    """Which slices hold a label, and every value there is; slice by slice, so nothing is as large as the volume."""
    count = labels.shape[layout.axis]
    filled, values = np.zeros(count, bool), set[int]()
    for index in range(count):
        found = distinct(
            numbered_anew(whole_numbers(labels.values(layout.axis, index), labels.path), classes)
        )
        filled[index] = bool((grounded(found, asked) != 0).any())
        values.update(found.tolist())
    return filled, np.array(sorted(values), int)


def _mark(image: Volume, layout: Layout) -> str:
    """What tells these slices from those that the same file would give without options."""
    mark = ""
    if layout.axis != layout_of(image).axis:
        mark += f"{layout.plane or f'axis{layout.axis}'}-"
    if image.channel is not None:
        mark += f"c{image.channel + 1}-"
    return mark


def record_of(image: Volume, layout: Layout, case: Case) -> dict[str, Any]:
    """Where the slices of a volume lie, as JSON: enough to put what is predicted on them back into its voxels.

    Keys: name, source, kind, shape, affine (voxel -> mm, RAS+, row by row), spacing, units, oriented, codes, axis,
    plane, rows, columns, flip_rows, flip_columns (see `Layout`), channel, series, labels.
    """
    return {
        "name": case.name, "source": case.image, "kind": image.kind,
        "labels": ", ".join(file for file, _ in case.label_files) or None,
        "shape": list(image.shape), "affine": image.affine.tolist(), "spacing": list(image.spacing),
        "units": image.units, "oriented": image.oriented, "codes": image.codes,
        "axis": layout.axis, "plane": layout.plane, "rows": layout.rows, "columns": layout.columns,
        "flip_rows": layout.flip_rows, "flip_columns": layout.flip_columns,
        "channel": case.channel, "series": case.series,
    }  # fmt: skip
