"""The report over everything in a dataset, and the contact sheet."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_cache.datasets import DatasetOptions, Mask, check, contact_sheet, overlay, read_dataset
from casam_cache.datasets.contact_sheet import choose
from casam_cache.errors import CasamError, DatasetError

RNG = np.random.default_rng(1)
MASK = np.zeros((16, 20), np.uint8)
MASK[2:6, 3:9] = 1
MASK[10:14, 12:18] = 2


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def noise() -> np.ndarray:
    return RNG.integers(0, 256, (16, 20, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    rows = ["id,split,group"]
    for number in range(8):
        save(root / "images" / f"s{number}.png", noise())
        save(root / "masks" / f"s{number}.png", MASK if number else MASK * 0)
        rows.append(f"s{number},{'test' if number > 5 else 'train'},g{number // 2}")
    (root / "split.csv").write_text("\n".join(rows))
    return root


def test_a_sound_dataset(root: Path) -> None:
    (report,) = check(root).tasks
    assert not report.problems
    assert (report.images, report.objects, report.empty, report.unlabelled, report.groups) == (8, 14, 1, 0, 4)
    assert {name: (s.images, s.groups, s.objects) for name, s in report.splits.items()} == {
        "train": (6, 3, 10),
        "test": (2, 1, 4),
    }
    assert [(c.class_id, c.objects, c.images, c.area) for c in report.classes] == [
        (1, 7, 7, pytest.approx(24 / 320)),
        (2, 7, 7, pytest.approx(24 / 320)),
    ]
    assert report.sizes == {"smallest": (16, 20), "largest": (16, 20), "most_common": (16, 20)}
    assert report.kinds == {"RGB 8 bit": 8}
    assert (report.mask_mode, report.split_source) == ("classes", "split.csv")
    text = json.dumps(check(root).to_json(), allow_nan=False)
    assert json.loads(text)["tasks"][0]["objects"] == 14


def test_every_problem_is_reported_once(root: Path) -> None:
    save(root / "images" / "s1.png", np.full((16, 20), 9, np.uint8))
    whole = (root / "images" / "s2.png").read_bytes()
    (root / "images" / "s2.png").write_bytes(whole[: len(whole) // 2])
    save(root / "masks" / "s3.png", MASK[:5])
    (root / "images" / "s7.png").write_bytes((root / "images" / "s4.png").read_bytes())
    (root / "masks" / "s5.png").write_text("x")
    report = check(root)
    found = [f"{problem.severity} {problem}" for problem in report.tasks[0].problems]
    for start in (
        "warning images/s1.png: a constant image: every value is 9",
        "error images/s2.png: cannot be decoded",
        "error masks/s3.png: the mask has 20 x 5 pixels",
        "error masks/s5.png: not an image",
        "warning images/s7.png: the same file as 's4', which is in train; this one is in test",
    ):
        assert sum(line.startswith(start) for line in found) == 1, (start, found)
    assert len(found) == 5
    assert report.errors == report.tasks[0].errors == 3
    assert report.tasks[0].kinds == {"RGB 8 bit": 6, "grey 8 bit": 1}


def test_what_is_tested_but_never_trained(root: Path) -> None:
    for number in range(6):
        save(root / "masks" / f"s{number}.png", MASK * (MASK == 1))
    assert [str(problem) for problem in check(root).tasks[0].problems] == [
        ".: tested but never trained: class 2 (check the split)"
    ]
    for number in range(6):
        save(root / "masks" / f"s{number}.png", MASK * 0)
    assert any(
        "no object in any mask of train (its masks" in str(each) for each in check(root).tasks[0].problems
    )


def test_a_broken_set_among_sound_ones(root: Path) -> None:
    save(root.parent / "bare" / "images" / "a.png", noise())
    report = check(root.parent)
    assert [(task.task, task.errors) for task in report.tasks] == [("bare", 1), ("set", 0)]
    assert "no masks/ folder" in report.tasks[0].problems[0].message
    assert [dataset.task for dataset in report.datasets] == ["set"]
    with pytest.raises(DatasetError, match="no dataset here"):
        check(root / "images")
    (bare, _) = check(root.parent, DatasetOptions(unlabelled=True)).tasks
    assert (bare.unlabelled, bare.empty, bare.errors) == (1, 0, 0)


def test_overlay_leaves_the_rest_alone() -> None:
    image = noise()
    bitmap = MASK == 1
    drawn = overlay(image, [Mask(bitmap, 1, 1)], [(255, 0, 0)])
    np.testing.assert_array_equal(drawn[~bitmap], image[~bitmap])
    assert drawn[2, 3].tolist() == [255, 0, 0]
    assert drawn[3, 4].tolist() != [255, 0, 0]
    assert drawn.dtype == np.uint8


def test_samples_are_chosen_evenly(root: Path) -> None:
    dataset = read_dataset(root)
    assert [sample.id for sample in choose(dataset, 4)] == ["s1", "s3", "s5", "s7"]
    assert len(choose(dataset, 100)) == 8
    assert len(choose(dataset, 1)) == 1


@pytest.mark.parametrize("mode", ["binary", "classes", "instances", "components"])
def test_the_contact_sheet_shows_what_it_can(root: Path, tmp_path: Path, mode: str) -> None:
    (root / "images" / "s3.png").write_text("x")
    save(root / "images" / ("long" * 30 + ".png"), noise())
    with (root / "split.csv").open("a") as file:
        file.write("\n" + "long" * 30 + ",train,g9")
    dataset = read_dataset(root, DatasetOptions(masks=mode, unlabelled=True))
    out = contact_sheet(dataset, tmp_path / "new" / "sheet.png", n=9, columns=3)
    with Image.open(out) as image:
        assert image.size == (12 + 3 * 268, 64 + 3 * 308)
    for path in (root / "split.csv" / "x.png", tmp_path / "sheet.what"):
        with pytest.raises(CasamError, match="cannot write the contact sheet"):
            contact_sheet(dataset, path, n=1)
