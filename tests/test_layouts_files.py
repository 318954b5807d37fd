"""Layouts of image and mask files that folders of images and of masks do not cover: a folder an image, a table."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import Casam
from PIL import Image

from casam_cache.datasets import DatasetOptions, find_reader, find_tasks, read_dataset, read_masks
from casam_cache.datasets.layouts.folder_an_image import FolderAnImage
from casam_cache.datasets.layouts.table import Table
from casam_cache.datasets.testing import ReaderContract
from casam_cache.errors import DatasetError

TINY = ("--model", "small", "--name", "tiny", "--checkpoint")


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (24, 32, 3)).astype(np.uint8)


def disc(x: int, value: int = 255) -> np.ndarray:
    rows, columns = np.mgrid[:24, :32]
    return (((rows - 10) ** 2 + (columns - x) ** 2 < 12) * value).astype(np.uint8)


def bowl(root: Path, count: int = 6) -> Path:
    """DSB 2018's `stage1_train`."""
    for number in range(count):
        id = f"{number:02d}é nuclei"
        save(root / id / "images" / f"{id}.png", picture(number))
        (root / id / "masks").mkdir()
        for place in range(number % 4):
            save(root / id / "masks" / f"{place:08x}.png", disc(4 + 8 * place))
    return root


class TestFolderAnImage(ReaderContract):
    reader = "folder-an-image"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        save(folder / name / "masks" / "1.png", disc(5 + seed % 20))
        return save(folder / name / "images" / f"{name}.png", picture(seed))


class TestTable(ReaderContract):
    reader = "table"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        save(folder / "pictures" / f"{name}_gt.png", disc(5 + seed % 20))
        table = folder / "dataset.csv"
        lines = table.read_text().splitlines() if table.exists() else ["image,mask"]
        row = f"pictures/{name}.png,pictures/{name}_gt.png"
        table.write_text("\n".join([*lines, *([] if row in lines else [row])]) + "\n")
        return save(folder / "pictures" / f"{name}.png", picture(seed))

    def test_files_tell_of_every_change(self) -> None:
        """A row that is added changes the table itself, beside the file that it names."""
        with self._drawn() as folder:
            before = self._reader().files(folder)
            self.write(folder, "e", 99)
            added = set(self._reader().files(folder)) - set(before)
            assert {name for name, _, _ in added} == {"dataset.csv", "pictures/e.png", "pictures/e_gt.png"}


def test_a_folder_an_image_is_one_dataset(tmp_path: Path, casam: Casam, tiny_checkpoint: Path) -> None:
    root = bowl(tmp_path / "bowl" / "stage1_train")
    assert find_tasks(tmp_path / "bowl") == [root]
    dataset = read_dataset(root)
    assert type(dataset.reader) is FolderAnImage
    assert [len(list(read_masks(dataset, sample))) for sample in dataset.samples] == [0, 1, 2, 3, 0, 1]
    assert (dataset.mask_mode, dataset.problems) == ("instances", ())
    report = casam.json("encode", root, *TINY, tiny_checkpoint)["tasks"][0]
    assert (report["images"], report["masks"]) == (6, 7)
    assert (
        "stage1_train: a folder an image: 03é nuclei/images/03é nuclei.png + 03é nuclei/masks/" in casam.err
    )


def test_a_folder_an_image_reports_by_folder(tmp_path: Path) -> None:
    root = bowl(tmp_path / "set", 14)
    (root / "09é nuclei" / "masks").rmdir() if not list((root / "09é nuclei" / "masks").iterdir()) else None
    save(root / "10é nuclei" / "images" / "second.png", picture(1))
    for file in sorted((root / "11é nuclei").rglob("*.png")):
        file.unlink()
    (root / "12é nuclei" / "masks").rmdir()
    dataset = read_dataset(root)
    assert [f"{problem.path}: {problem.message}" for problem in dataset.problems] == [
        "10é nuclei: holds 2 images: 10é nuclei/images/10é nuclei.png and 10é nuclei/images/second.png",
        "11é nuclei: holds no image",
        "12é nuclei/images/12é nuclei.png: no mask",
    ]
    assert len(read_dataset(root, DatasetOptions(unlabelled=True)).samples) == 12


def test_image_and_mask_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"case {number}" / "image.png", picture(number))
        save(tmp_path / f"case {number}" / "mask.png", disc(5, 1) + disc(20, 2))
    dataset = read_dataset(tmp_path)
    assert [(sample.id, sample.masks) for sample in dataset.samples][1] == ("case 1", ("case 1/mask.png",))
    assert dataset.mask_mode == "classes"


def test_two_datasets_of_one_image_are_not_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save(tmp_path / name / "images" / "0.png", picture(1))
        save(tmp_path / name / "masks" / "0.png", disc(5))
    assert find_tasks(tmp_path) == [tmp_path / "first", tmp_path / "second"]


def listed(root: Path, text: str) -> Path:
    """Images a, b, c with masks in places of their own, and a table."""
    for number, name in enumerate("abc"):
        save(root / "scans" / f"{name} é.jpg", picture(number))
        for part in (1, 2):
            save(root / "drawn by" / "hand" / f"{name}{part}.png", disc(8 * part))
    (root / "dataset.csv").write_text(text, encoding="utf-8")
    return root


ROWS = """image,mask,split,group
scans/a é.jpg,drawn by/hand/a1.png;drawn by/hand/a2.png,train,p1
scans/b é.jpg,drawn by/hand/b1.png,training,p1
scans/c é.jpg,drawn by/hand/c1.png,TEST,p2
"""


@pytest.mark.parametrize(
    "change", [str, lambda text: text.replace(";", "|").replace(",", ";"), lambda t: "\ufeff" + t]
)
def test_a_table_says_everything(tmp_path: Path, change: object) -> None:
    assert callable(change)
    dataset = read_dataset(listed(tmp_path / "set", change(ROWS)))
    assert type(dataset.reader) is Table
    assert [(s.id, s.split, s.group, len(s.masks)) for s in dataset.samples] == [
        ("scans/a é", "train", "p1", 2),
        ("scans/b é", "train", "p1", 1),
        ("scans/c é", "test", "p2", 1),
    ]
    assert (dataset.split_source, dataset.problems) == ("the table", ())
    assert dataset.notes[0].startswith(
        "the table dataset.csv: 3 images: scans/a é.jpg + drawn by/hand/a1.png +"
    )


def test_a_table_elsewhere_is_named_and_kept(tmp_path: Path, casam: Casam, tiny_checkpoint: Path) -> None:
    root = listed(tmp_path / "set", ROWS)
    table = casam.folder / "my table.csv"
    (root / "dataset.csv").rename(table)
    first = casam.json("encode", root, "--table", table, *TINY, tiny_checkpoint)["tasks"][0]
    assert (first["images"], first["masks"]) == (3, 4), casam.err
    assert casam.json("encode", root, "--table", table, *TINY, tiny_checkpoint)["tasks"][0]["encoded"] == 0
    table.write_text(ROWS.replace("TEST", "val"))
    casam.json("encode", root, "--reader", f"table:{table}", *TINY, tiny_checkpoint)
    report = casam.json("data", "check", root, "--table", table)["tasks"][0]
    assert set(report["splits"]) == {"train", "val"}
    casam("encode", root, "--table", table, "--reader", "folder")
    assert casam.code != 0
    assert "both --table" in casam.err
    assert pickle.loads(pickle.dumps(Table(table))).file == table


def test_an_object_a_row(tmp_path: Path) -> None:
    text = "image,mask\n" + "".join(f"scans/a é.jpg,drawn by/hand/a{part}.png\n" for part in (1, 2))
    dataset = read_dataset(listed(tmp_path, text))
    assert dataset.samples[0].masks == ("drawn by/hand/a1.png", "drawn by/hand/a2.png")
    assert dataset.mask_mode == "instances"


def test_bad_rows_are_reported_and_bad_tables_refused(tmp_path: Path) -> None:
    rows = (
        ROWS
        + "scans/gone.jpg,drawn by/hand/a1.png,train,\nscans/b é.jpg,drawn by/hand/gone.png,training,p1\n"
    )
    dataset = read_dataset(listed(tmp_path, rows.replace("TEST", "")))
    assert [str(problem) for problem in dataset.problems] == [
        "dataset.csv, line 3: there is no file drawn by/hand/gone.png (correct its path)",
        "dataset.csv, line 4: scans/c é.jpg has no split, left out (name one)",
        "dataset.csv, line 5: there is no file scans/gone.jpg (correct its path)",
        ".: all images that can be used are for training, none for validation or test (--split-by drawn draws a split "
        "over all)",
    ]
    for wrong, message in (
        (ROWS.replace("TEST", "hold-out"), "line 4: 'hold-out' is not a split"),
        (ROWS.replace("scans/a é.jpg", "../a.jpg"), r"line 2: '\.\./a\.jpg' lies outside"),
        (ROWS + "scans/c é.jpg,,train,p1\n", "lines 4 and 5 give 'scans/c é.jpg' two splits or groups"),
        (ROWS.replace("p2", "p1"), "the group 'p1' is parted"),
        ("image,mask\n", "lists no usable image"),
    ):
        (tmp_path / "dataset.csv").write_text(wrong)
        with pytest.raises(DatasetError, match=message):
            read_dataset(tmp_path)
    (tmp_path / "dataset.csv").write_text("picture,mask\n")
    assert find_reader(tmp_path) is None


def test_a_table_beside_folders_of_masks_asks_which(tmp_path: Path) -> None:
    listed(tmp_path, ROWS)
    save(tmp_path / "images" / "x.png", picture(1))
    save(tmp_path / "masks" / "x.png", disc(5))
    with pytest.raises(DatasetError, match="several readers: folder, table") as error:
        read_dataset(tmp_path)
    assert error.value.hint == "choose one: --reader folder or --reader table"
    assert len(read_dataset(tmp_path, reader="table").samples) == 3
    assert len(read_dataset(tmp_path, reader="folder").samples) == 1
