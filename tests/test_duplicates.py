"""Images in two splits are found by what they show, however they are saved, and not by what their files hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from conftest import Casam
from PIL import Image, ImageEnhance
from PIL.PngImagePlugin import PngInfo

from casam_cache.datasets import Sample, check
from casam_cache.datasets.duplicates import SHOWN, Look, across_splits, look_of, perceptual_hashes
from casam_cache.encode.looks import looks_path

Encode = Callable[..., Any]


def scene(seed: int, size: tuple[int, int] = (60, 72)) -> np.ndarray:
    """Soft blobs on a slope, other ones for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.outer(np.linspace(0, 60, size[0]), np.linspace(1, 0.3, size[1]))[..., None].repeat(3, 2)
    for _ in range(6):
        cy, cx, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(5, 16)
        blob = np.exp(-(((y - cy) ** 2 + (x - cx) ** 2) / r**2))
        picture += blob[..., None] * rng.uniform(20, 160, 3)
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def draw(root: Path, pairs: int, copy: Callable[[np.ndarray, Path], None]) -> Path:
    """`pairs` images that train, and what `copy` makes of each, which tests."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = ["id,split"]
    for number in range(pairs):
        Image.fromarray(scene(number)).save(root / "images" / f"{number}.png")
        copy(scene(number), root / "images" / f"{number}_copy.png")
        for name, split in ((f"{number}", "train"), (f"{number}_copy", "test")):
            rows.append(f"{name},{split}")
            (found,) = (root / "images").glob(f"{name}.*")
            with Image.open(found) as image:
                mask = np.zeros(image.size[::-1], np.uint8)
            mask[5:20, 5:20] = 255
            Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "split.csv").write_text("\n".join(rows))
    return root


def resaved(image: np.ndarray, path: Path) -> None:
    text = PngInfo()
    text.add_text("Software", "a viewer")
    Image.fromarray(image).save(path, pnginfo=text, compress_level=9)


def other_format(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image).save(path.with_suffix(".bmp"))


def jpeg(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image).save(path.with_suffix(".jpg"), quality=60)


def smaller(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image).resize((48, 40)).save(path)


def brighter(image: np.ndarray, path: Path) -> None:
    ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.2).save(path)


def mirrored(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image[:, ::-1]).save(path)


def turned(image: np.ndarray, path: Path) -> None:
    Image.fromarray(np.rot90(image)).save(path)


def other(image: np.ndarray, path: Path) -> None:
    Image.fromarray(scene(int(image.sum()) % 1000 + 100)).save(path)


WORDS = [
    (resaved, "the same pixels as"),
    (other_format, "the same pixels as"),
    (jpeg, "looks the same as"),
    (smaller, "looks the same as"),
    (brighter, "looks the same as"),
    (mirrored, "looks the same, mirrored, as"),
    (turned, "looks the same, turned, as"),
]


@pytest.mark.parametrize(("copy", "words"), WORDS, ids=[copy.__name__ for copy, _ in WORDS])
def test_a_copy_is_named_with_its_original(tmp_path: Path, copy: Any, words: str) -> None:
    (report,) = check(draw(tmp_path / "set", 3, copy)).tasks
    lines = [str(problem) for problem in report.problems]
    assert len(lines) == 3
    for number, line in enumerate(lines):
        assert f"images/{number}_copy." in line
        assert f"{words} '{number}', which is in train; this one is in test" in line
    assert report.errors == 0


def test_other_images_are_not_called_copies(tmp_path: Path) -> None:
    (report,) = check(draw(tmp_path / "set", 6, other)).tasks
    assert report.problems == ()


def test_encode_says_it_too_and_remembers(casam: Casam, encode: Encode, tmp_path: Path) -> None:
    root = draw(tmp_path / "data" / "set", 3, other_format)
    (root / "split.csv").rename(tmp_path / "split.csv")
    report = encode(root, "--test-fraction", "1")["tasks"][0]
    assert not report["problems"], "all in one split"
    (tmp_path / "split.csv").rename(root / "split.csv")
    again = encode(root)["tasks"][0]
    assert again["encoded"] == 0, "found without decoding anything again"
    assert len([line for line in again["problems"] if "the same pixels as" in line]) == 3
    assert encode(root)["tasks"][0]["problems"] == again["problems"], "a finished store says it again"
    kept = looks_path(casam.folder / again["store"])
    kept.write_bytes(kept.read_bytes()[:-7])  # cut off while it was written
    resaved(scene(9), root / "images" / "9.png")
    resaved(scene(9)[:, ::-1], root / "images" / "9_copy.png")
    for name in ("9", "9_copy"):
        Image.fromarray(np.eye(60, 72).astype(np.uint8) * 255).save(root / "masks" / f"{name}.png")
    with (root / "split.csv").open("a") as table:
        table.write("\n9,train\n9_copy,test\n")
    more = encode(root)["tasks"][0]
    assert more["encoded"] == 2
    assert len([line for line in more["problems"] if "the same pixels as" in line]) == 2
    assert len([line for line in more["problems"] if "looks the same, mirrored, as" in line]) == 1
    kept.unlink()
    (root / "images" / "9.png").touch()
    assert encode(root)["tasks"][0]["problems"] == [], "of these only the bytes are known, which differ"


def test_thousands_are_counted_and_not_listed() -> None:
    thumbnail = np.zeros((32, 32), np.uint8)
    samples, looks = [], []
    for number in range(3000):
        split = "train" if number < 1500 else "test"
        samples.append(Sample(f"{number:04d}", f"images/{number:04d}.png", split, f"{number}"))  # type: ignore[arg-type]
        looks.append(Look(b"%d" % (number % 1500), thumbnail))
    problems = across_splits(samples, looks, [""] * 3000)
    assert len(problems) == SHOWN + 1
    assert problems[-1].message == "1,490 more images: each has a copy in another split"


def test_hashes_are_those_of_imagehash() -> None:
    small = np.stack([look_of(scene(seed)).thumbnail for seed in range(20)])
    told = [imagehash.phash(Image.fromarray(each)).hash.reshape(-1) for each in small]
    np.testing.assert_array_equal(perceptual_hashes(small) > 0, told)


def test_many_that_all_look_alike_take_no_time() -> None:
    rng = np.random.default_rng(0)
    base = look_of(scene(0)).thumbnail.astype(int)
    samples, looks = [], []
    for number in range(1500):
        noisy = np.clip(base + rng.integers(-3, 4, base.shape), 0, 255).astype(np.uint8)
        split = "train" if number % 3 else "test"
        samples.append(Sample(f"{number:04d}", f"images/{number:04d}.png", split, f"{number}"))  # type: ignore[arg-type]
        looks.append(Look(b"%d" % number, noisy))
    start = time.monotonic()
    problems = across_splits(samples, looks, [""] * 1500)
    assert time.monotonic() - start < 30
    assert problems[-1].message == "490 more images: each looks like one of another split"


def test_grey_and_rgb_of_the_same_picture_are_one(tmp_path: Path) -> None:
    grey = scene(1)[..., 0]
    from casam_cache.datasets.images import to_rgb

    assert look_of(to_rgb(grey, tmp_path)).pixels == look_of(np.stack([grey] * 3, 2)).pixels
