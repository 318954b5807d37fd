"""Phantoms: a layout like that of real datasets, the same bytes for the same seed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_cache.datasets import DatasetOptions, read_dataset
from casam_cache.datasets.phantoms import TASKS, UNSEEN, draw_phantom, write_phantoms
from casam_cache.errors import DatasetError

COUNT = 8


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms") / "data"
    write_phantoms(root, seed=3, images_per_task=COUNT, scale=0.3)
    return root


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def test_nine_tasks_and_three_unseen_domains(phantoms: Path) -> None:
    assert len(list((phantoms / "tasks").iterdir())) == len(TASKS) == 9
    assert len(list((phantoms / "unseen").iterdir())) == len(UNSEEN) == 3
    assert all(phantom.name.startswith("phantom-") for phantom in (*TASKS, *UNSEEN))


def test_patients_are_never_parted(phantoms: Path) -> None:
    for table in phantoms.rglob("split.csv"):
        with table.open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == COUNT
        splits: dict[str, set[str]] = {}
        for row in rows:
            splits.setdefault(row["group"], set()).add(row["split"])
        assert all(len(found) == 1 for found in splits.values())
        assert set().union(*splits.values()) == {"train", "test"}


def test_masks_fit_their_images(phantoms: Path) -> None:
    shapes = set()
    for path in sorted((phantoms / "tasks").rglob("images/*.png")):
        image = np.asarray(Image.open(path))
        mask = np.asarray(Image.open(path.parents[1] / "masks" / path.name))
        assert image.ndim == 3
        assert image.shape[:2] == mask.shape
        shapes.add(mask.shape[0] == mask.shape[1])
        values = set(np.unique(mask).tolist())
        assert values <= {0, 255} or values <= {0, 1, 2, 3}
    assert shapes == {True, False}


@pytest.mark.slow
def test_every_task_has_targets_and_some_image_has_none() -> None:
    empty = 0
    for phantom in (*TASKS, *UNSEEN):
        shares = [float((draw_phantom(phantom, index, 0, 0, 0.3)[1] > 0).mean()) for index in range(24)]
        assert max(shares) > 0.002
        empty += sum(share == 0 for share in shares)
    assert 4 < empty < 80


def test_readable_as_datasets(phantoms: Path) -> None:
    for folder in sorted((phantoms / "tasks").iterdir()):
        dataset = read_dataset(folder, DatasetOptions())
        assert len(dataset.samples) == COUNT
        assert not [problem for problem in dataset.problems if problem.severity == "error"]


def test_same_seed_same_bytes(phantoms: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    folders = write_phantoms(
        tmp_path / "again", seed=3, images_per_task=COUNT, scale=0.3, progress=lambda *at: done.append(at)
    )
    assert [folder.name for folder in folders[:2]] == [TASKS[0].name, TASKS[1].name]
    assert _files(tmp_path / "again") == _files(phantoms)
    assert done[-1] == (12 * COUNT, 12 * COUNT)


def test_nothing_is_written_over(phantoms: Path) -> None:
    before = _files(phantoms)
    with pytest.raises(DatasetError, match="not empty"):
        write_phantoms(phantoms)
    assert _files(phantoms) == before


def test_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="too few"):
        write_phantoms(tmp_path / "few", images_per_task=3)
