"""Pages and channels of a whole dataset: refused unless said, and then taken of every file alike."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from casam_cache.datasets import Dataset, DatasetOptions, read_dataset, read_masks
from casam_cache.datasets.arrays import read_array
from casam_cache.datasets.check import check
from casam_cache.errors import OptionError

RNG = np.random.default_rng(1)
SIZE = (16, 20)


def grey(*shape: int) -> np.ndarray:
    return RNG.integers(1, 255, (*shape, *SIZE), dtype=np.uint8)


def objects(count: int) -> np.ndarray:
    """(count, H, W) of 0 and 255, one rectangle each."""
    pages = np.zeros((count, *SIZE), np.uint8)
    for number in range(count):
        pages[number, 2 * number : 2 * number + 2, 3:9] = 255
    return pages


def write(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.shape[-1] == 3 else "minisblack", **options)
    else:
        Image.fromarray(array).save(path)
    return path


def pixels(dataset: Dataset, index: int) -> np.ndarray:
    sample = dataset.samples[index]
    return read_array(dataset.reader, dataset.root, sample.source, dataset.options.max_pixels)


def errors(dataset: Dataset) -> list[str]:
    return [str(problem) for problem in dataset.problems if problem.severity == "error"]


def test_a_mask_of_one_object_a_page(tmp_path: Path) -> None:
    for name, count in (("a", 4), ("b", 3), ("c", 1)):
        write(tmp_path / "images" / f"{name}.png", grey())
        write(tmp_path / "masks" / f"{name}.tif", objects(count))
    unsaid = read_dataset(tmp_path)
    assert [text[: text.index(",")] for text in errors(unsaid)] == [
        "masks/a.tif: holds 4 pages (slices or frames)",
        "masks/b.tif: holds 3 pages (slices or frames)",
    ]
    assert "--pages objects" in errors(unsaid)[0]
    said = read_dataset(tmp_path, DatasetOptions(pages="objects"))
    assert (said.problems, said.mask_mode) == ((), "instances")
    for sample, count in zip(said.samples, (4, 3, 1), strict=True):
        masks = list(read_masks(said, sample, SIZE))
        assert [mask.instance for mask in masks] == list(range(1, count + 1))
        np.testing.assert_array_equal(np.stack([mask.bitmap for mask in masks]), objects(count) > 0)
    first = read_dataset(tmp_path, DatasetOptions(pages="first"))
    assert not first.problems
    assert [len(list(read_masks(first, sample, SIZE))) for sample in first.samples] == [1, 1, 1]
    assert [sample.masks for sample in first.samples] == [
        ("masks/a.tif#1",),
        ("masks/b.tif#1",),
        ("masks/c.tif",),
    ]


def test_a_stack_whose_pages_are_images(tmp_path: Path) -> None:
    stacks = {"one": (grey(12), objects(8)), "two": (grey(3), objects(3)), "flat": (grey(), objects(1)[0])}
    stacks["one"] = (stacks["one"][0], np.concatenate([objects(8), objects(4)]))
    for name, (image, mask) in stacks.items():
        write(tmp_path / "images" / f"{name}.tif", image)
        write(tmp_path / "masks" / f"{name}.tif", mask)
    (tmp_path / "split.csv").write_text("id,split\none,train\ntwo,test\nflat.tif,test\n")
    with_pages = read_dataset(tmp_path, DatasetOptions(pages="all"))
    assert not with_pages.problems
    assert [sample.id for sample in with_pages.samples] == [
        "flat", *(f"one#{page:02d}" for page in range(1, 13)), "two#1", "two#2", "two#3",
    ]  # fmt: skip
    assert {(s.group, s.split) for s in with_pages.samples} == {
        ("one", "train"),
        ("two", "test"),
        ("flat", "test"),
    }
    assert with_pages.samples[3].source == "images/one.tif#3"
    for index in range(12):
        np.testing.assert_array_equal(pixels(with_pages, 1 + index), stacks["one"][0][index])
        (mask,) = read_masks(with_pages, with_pages.samples[1 + index], SIZE)
        np.testing.assert_array_equal(mask.bitmap, stacks["one"][1][index] > 0)
    assert check(tmp_path, DatasetOptions(pages="all")).errors == 0
    third = read_dataset(tmp_path, DatasetOptions(pages="3"))
    assert errors(third) == [
        "images/flat.tif#3: there is no page 3, the file has 1 page (see --pages)",
        "masks/flat.tif#3: there is no page 3, the file has 1 page (see --pages)",
    ]
    np.testing.assert_array_equal(pixels(third, 2), stacks["two"][0][2])


def test_a_mask_of_other_pages_than_its_image_is_left_out(tmp_path: Path) -> None:
    for name, count in (("a", 5), ("b", 4), ("c", 1)):
        write(tmp_path / "images" / f"{name}.tif", grey(5))
        write(tmp_path / "masks" / f"{name}.tif", objects(count))
    dataset = read_dataset(tmp_path, DatasetOptions(pages="all"))
    assert {sample.group for sample in dataset.samples} == {"a"}
    assert [text.partition(" (")[0] for text in errors(dataset)] == [
        "masks/b.tif: the mask has 4 pages, its image 5",
        "masks/c.tif: the mask has 1 page, its image 5",
    ]


def test_channels_are_taken_of_every_image_and_of_no_mask(tmp_path: Path) -> None:
    five, rgb = grey(5), np.moveaxis(grey(3), 0, -1)
    write(tmp_path / "images" / "five.tif", np.moveaxis(five, 0, -1), planarconfig="contig",
          extrasamples=["unspecified"] * 4)  # fmt: skip
    write(tmp_path / "images" / "rgb.png", rgb)
    write(tmp_path / "images" / "pages.tif", five)
    for name in ("five", "rgb", "pages"):
        write(tmp_path / "masks" / f"{name}.png", np.stack([objects(1)[0]] * 3, 2))
    assert len(errors(read_dataset(tmp_path))) == 2
    dataset = read_dataset(tmp_path, DatasetOptions(channels="3,2,1"))
    assert not dataset.problems
    for index, whole in enumerate((five, five, np.moveaxis(rgb, -1, 0))):
        np.testing.assert_array_equal(pixels(dataset, index), np.moveaxis(whole[[2, 1, 0]], 0, -1))
    as_shown = read_dataset(tmp_path, DatasetOptions(channels="1,2,3"))
    assert [sample.source for sample in as_shown.samples] == [
        "images/five.tif#channels=1,2,3", "images/pages.tif#channels=1,2,3", "images/rgb.png",
    ]  # fmt: skip
    fourth = read_dataset(tmp_path, DatasetOptions(channels="4"))
    assert errors(fourth) == [
        "images/rgb.png#channels=4: there is no channel 4, the file has 3 channels (see --channels)"
    ]
    np.testing.assert_array_equal(pixels(fourth, 0), five[3])


def test_a_broken_file_stops_nobody(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "images" / f"{name}.tif", grey(2))
        write(tmp_path / "masks" / f"{name}.png", objects(1)[0])
    (tmp_path / "images" / "b.tif").write_bytes(b"II*\0 nothing")
    dataset = read_dataset(tmp_path, DatasetOptions(pages="first"))
    assert len(errors(dataset)) == 1
    assert errors(dataset)[0].startswith("images/b.tif: ")
    assert pixels(dataset, 0).shape == SIZE


@pytest.mark.parametrize(
    "wrong", [{"pages": "0"}, {"pages": "last"}, {"channels": "1,2"}, {"channels": "0"}, {"exif": "no"}]
)
def test_options_that_say_nothing(wrong: dict[str, str]) -> None:
    with pytest.raises(OptionError):
        DatasetOptions(**wrong)
    assert DatasetOptions(pages="auto", channels="auto").pages is None


def test_annotations_in_text_take_the_same_options(tmp_path: Path) -> None:
    import json

    five = grey(5)
    write(tmp_path / "images" / "five.tif", np.moveaxis(five, 0, -1), planarconfig="contig",
          extrasamples=["unspecified"] * 4)  # fmt: skip
    turned = Image.fromarray(np.moveaxis(grey(3), 0, -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "images" / "turned.jpg", exif=exif)
    images = [
        {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for number, name in enumerate(("five.tif", "turned.jpg"))
    ]
    square = [2, 2, 9, 2, 9, 9, 2, 9]
    drawn = [
        {
            "id": n,
            "image_id": n,
            "category_id": 1,
            "segmentation": [square],
            "bbox": [2, 2, 7, 7],
            "iscrowd": 0,
        }
        for n in range(2)
    ]
    told = {"images": images, "annotations": drawn, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(told))
    unsaid = errors(read_dataset(tmp_path))
    assert "5 channels that are neither grey nor RGB" in unsaid[0]
    assert "fits the unrotated pixels" in unsaid[1]
    for pages in (None, "all"):
        said = read_dataset(tmp_path, DatasetOptions(channels="1,2,3", exif="ignore", pages=pages))
        assert not errors(said)
        np.testing.assert_array_equal(pixels(said, 0), np.moveaxis(five[:3], 0, -1))
        assert pixels(said, 1).shape[:2] == SIZE
        for sample in said.samples:
            (mask,) = read_masks(said, sample, SIZE)
            assert mask.bitmap[5, 5]
            assert not mask.bitmap[12, 12]
