"""Where memory ends, one line names the image, and the others go on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from casam_cache.cutout import Cutout
from casam_cache.datasets import Mask, check, read_dataset, read_masks
from casam_cache.datasets.folder import FilesReader
from casam_cache.datasets.images import to_rgb
from casam_cache.errors import CasamError, ImageError, memory_for
from casam_cache.geometry import Geometry
from casam_cache.training.epochs import TrainingMasks
from casam_cache.training.items import Item, ItemMask, items_from_arrays


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for index, name in enumerate(("a", "b", "c")):
        for kind in ("images", "masks"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((16, 16), np.uint8)
            pixels[index : index + 6, 3:9] = 255
            Image.fromarray(pixels).save(root / kind / f"{name}.png")
    return root


def test_masks_that_do_not_fit_are_the_failure_of_their_image(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = FilesReader.masks

    def scarce(self: FilesReader, dataset: object, sample: object, size: object) -> Iterator[Mask]:
        yield from honest(self, dataset, sample, size)  # type: ignore[arg-type]
        if sample.id == "b":  # type: ignore[attr-defined]
            raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(FilesReader, "masks", scarce)
    dataset = read_dataset(folder)
    for sample in dataset.samples:
        if sample.id != "b":
            assert len(list(read_masks(dataset, sample))) == 1
    with pytest.raises(ImageError, match=r"b\.png: not enough memory"):
        list(read_masks(dataset, dataset.samples[1]))
    (report,) = check(folder).tasks
    assert ["not enough memory" in str(problem) for problem in report.problems if problem.sample == "b"] == [
        True
    ]
    assert report.objects == 2


def test_an_image_that_does_not_fit_is_a_problem_of_the_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(array: np.ndarray, path: Path) -> np.ndarray:
        if path.name == "c.png":
            raise MemoryError
        return to_rgb(array, path)

    monkeypatch.setattr(sys.modules["casam_cache.datasets.check"], "to_rgb", scarce)
    (report,) = check(folder).tasks
    assert ["not enough memory" in str(problem) for problem in report.problems if problem.sample == "c"] == [
        True
    ]
    assert report.objects == 2


def test_a_fit_names_the_image() -> None:
    def scarce() -> Cutout:
        raise MemoryError

    item = Item("slide7", "t", "g", Geometry.fit(8, 8, 64, 16), 1)
    masks = [ItemMask(scarce, 1, 1, np.zeros(4), np.zeros(2))]
    with pytest.raises(CasamError, match="t/slide7: not enough memory"):
        TrainingMasks.prepare(items_from_arrays("t", [item], np.zeros((1, 1, 4, 4), np.float16), [masks]))


def test_memory_that_torch_lacks_is_told_from_other_errors() -> None:
    with pytest.raises(CasamError, match="x: not enough memory"), memory_for("x"):
        torch.empty(1 << 55)
    with pytest.raises(RuntimeError, match="another"), memory_for("x"):
        raise RuntimeError("another")
