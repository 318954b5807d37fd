"""Orientations that cameras note: masks that fit the unrotated pixels are named, or warned about, or read as asked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_cache.datasets import Dataset, DatasetOptions, read_dataset, read_masks
from casam_cache.datasets.arrays import read_array
from casam_cache.datasets.pixels import upright

RNG = np.random.default_rng(5)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def make(root: Path, orientation: int, shape: tuple[int, int], raw: bool, tagged: bool = False) -> np.ndarray:
    """Two images with an orientation, and their masks, upright or as stored; the stored mask."""
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 3:11] = 255
    for name in ("a", "b"):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"{name}.png", exif=exif(orientation))
        drawn = mask if raw else upright(mask, orientation)
        Image.fromarray(drawn).save(
            root / "masks" / f"{name}.png", **({"exif": exif(orientation)} if tagged else {})
        )
    return mask


def said(dataset: Dataset, severity: str) -> list[str]:
    return [str(problem) for problem in dataset.problems if problem.severity == severity]


def bitmap(dataset: Dataset) -> np.ndarray:
    sample = dataset.samples[0]
    image = read_array(dataset.reader, dataset.root, sample.source, 10**6)
    (mask,) = read_masks(dataset, sample, image.shape[:2])
    return mask.bitmap


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("shape", [(12, 18), (14, 14)])
def test_masks_of_the_stored_pixels(tmp_path: Path, orientation: int, shape: tuple[int, int]) -> None:
    mask = make(tmp_path, orientation, shape, raw=True)
    dataset = read_dataset(tmp_path)
    if orientation >= 5 and shape[0] != shape[1]:
        assert len(said(dataset, "error")) == 2
        assert f"once its EXIF orientation ({orientation}) is applied" in said(dataset, "error")[0]
        assert "fits the unrotated pixels" in said(dataset, "error")[0]
        assert "--exif ignore" in said(dataset, "error")[0]
        assert not said(dataset, "warning")
    else:
        assert not said(dataset, "error")
        (line,) = said(dataset, "warning")
        assert line.startswith("images/a.png: 2 images carry an EXIF orientation")
        assert not read_dataset(tmp_path, DatasetOptions(exif="apply")).problems
    ignoring = read_dataset(tmp_path, DatasetOptions(exif="ignore"))
    assert not ignoring.problems
    np.testing.assert_array_equal(bitmap(ignoring), mask > 0)
    with Image.open(tmp_path / "images" / "a.png") as image:
        stored = np.asarray(image)
    np.testing.assert_array_equal(
        read_array(ignoring.reader, tmp_path, ignoring.samples[0].source, 10**6), stored
    )


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_masks_that_are_upright_are_no_matter(tmp_path: Path, orientation: int) -> None:
    mask = make(tmp_path, orientation, (12, 18), raw=False)
    dataset = read_dataset(tmp_path)
    assert len(dataset.problems) == (orientation == 3)  # which no size can tell
    np.testing.assert_array_equal(bitmap(dataset), upright(mask, orientation) > 0)


def test_masks_with_the_orientation_of_their_image_are_turned_with_it(tmp_path: Path) -> None:
    mask = make(tmp_path, 3, (12, 18), raw=True, tagged=True)
    dataset = read_dataset(tmp_path)
    assert not dataset.problems
    np.testing.assert_array_equal(bitmap(dataset), upright(mask, 3) > 0)
    np.testing.assert_array_equal(bitmap(read_dataset(tmp_path, DatasetOptions(exif="ignore"))), mask > 0)


def test_another_size_is_no_matter_of_orientation(tmp_path: Path) -> None:
    make(tmp_path, 6, (12, 18), raw=True)
    Image.new("L", (9, 9)).save(tmp_path / "masks" / "a.png")
    dataset = read_dataset(tmp_path)
    assert ["EXIF" in line for line in said(dataset, "error")] == [False, True]
