"""`casam fit` and `casam evaluate` of volumes: the scores of whole volumes beside those of slices."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam
from volume_files import oblique, phantom, write_nifti

from casam_cache.bench.predict import Predictor
from casam_cache.datasets.volumes import layout_of, read_volume
from casam_cache.metrics.volumes import score_volume
from casam_cache.store import EmbeddingStore

Encode = Callable[..., Any]
SHORT = ("--epochs", 1, "--set", "blocks=1")


@pytest.fixture
def ct(casam: Casam, tmp_path: Path) -> Path:
    """Six oblique volumes of two classes, the first axis backwards in every other one."""
    folder = tmp_path / "ct"
    for number in range(6):
        image, labels = phantom(number)
        affine = oblique(flip="i" if number % 2 else "", degrees=10 * number)
        write_nifti(folder / "images" / f"p{number}.nii.gz", image, affine)
        write_nifti(folder / "masks" / f"p{number}.nii.gz", labels, affine)
    return folder


@pytest.mark.parametrize("axis", ["axial", "coronal"])
def test_a_fit_scores_volumes_as_predicting_them_whole_does(
    casam: Casam, encode: Encode, ct: Path, axis: str
) -> None:
    encode(ct, "--axis", axis, "--test-fraction", "0.5")
    report = casam.json("fit", "--task", "ct", *SHORT)
    store = EmbeddingStore.open(casam.folder / "casam_store" / "ct" / "tiny.zarr")
    annotations, predictor = store.annotations, Predictor(report["run"])
    labels: dict[str, np.ndarray] = {}
    for row in map(int, annotations.rows("test")):
        item = int(annotations.item[row])
        name, _, number = store.ids[item].rpartition("/")
        volume = read_volume(ct / "images" / f"{name}.nii.gz")
        layout = layout_of(volume, axis)
        predictor.set_item(store, store.ids[item])
        found = labels.setdefault(name, np.zeros((3, *volume.shape), bool))
        for mask in map(int, annotations.masks_of(row)):
            bitmap = predictor.predict(boxes=annotations.box[mask]).mask
            layout.place(found[int(annotations.class_id[mask])], int(number.rpartition("-")[2]), bitmap)
    with (Path(report["volume_outcomes"]) / "volumes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted({row["item"] for row in rows}) == sorted(labels)
    assert len(rows) == 2 * len(labels)
    for row in rows:
        truth = read_volume(ct / "masks" / f"{row['item']}.nii.gz")
        number = int(row["class_id"])
        expected = score_volume(
            labels[row["item"]][number], np.asarray(truth.stored) == number, truth.spacing
        )
        assert int(row["area"]) == (np.asarray(truth.stored) == number).sum()
        for metric, value in vars(expected).items():
            assert float(row[metric] or "nan") == pytest.approx(value, nan_ok=True)

    whole, first, second = report["volumes"]
    assert (whole["class"], first["class"], second["class"]) == (None, 1, 2)
    assert whole["fitted"]["dice"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]))


def test_a_person_gets_volumes_under_the_slices(casam: Casam, encode: Encode, ct: Path) -> None:
    encode(ct, "--test-fraction", "0.5")
    table = casam("fit", "--task", "ct", *SHORT)
    for word in ("3D Dice", "HD95, mm", "class 2", "count as empty"):
        assert word in table, casam.err
    table = casam("evaluate", "--task", "ct", *SHORT, "--prompts", "box,clicks:2")
    for word in ("clicks:2, volumes", "ASSD, mm"):
        assert word in table, casam.err


def test_every_second_slice_is_a_coarser_volume(casam: Casam, encode: Encode, ct: Path) -> None:
    encode(ct, "--slices", "every:2", "--test-fraction", "0.5")
    report = casam.json("fit", "--task", "ct", *SHORT)
    with (Path(report["volume_outcomes"]) / "volumes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        truth = np.asarray(read_volume(ct / "masks" / f"{row['item']}.nii.gz").stored) == int(row["class_id"])
        assert int(row["area"]) == truth[:, :, ::2].sum()


def test_images_have_no_volumes(casam: Casam, encode: Encode, discs: Path) -> None:
    encode(discs)
    report = casam.json("fit", "--task", "discs", *SHORT)
    assert report["volumes"] == []
    assert report["volume_outcomes"] == ""
    assert {path.name for path in Path(report["outcomes"]).iterdir()} == {"outcomes.csv", "record.json"}
