"""What mask values mean: labels, soft edges, codings and lossy values, decided for a whole dataset."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from casam_cache.datasets import Dataset, DatasetOptions, read_dataset, read_masks
from casam_cache.datasets.value_counts import count_values, merge_counts
from casam_cache.errors import ImageError

SIDE = 96
Draw = Callable[[int], np.ndarray]


def disc(seed: int, radius: float = 18) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    row, column = rng.uniform(30, 66, 2)
    found: np.ndarray = np.hypot(y - row, x - column) < radius
    return found


def white(seed: int) -> np.ndarray:
    return disc(seed) * np.uint8(255)


def smooth(array: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    return ndimage.gaussian_filter(array.astype(float), sigma).round().astype(np.uint8)


def supersampled(seed: int) -> np.ndarray:
    found: np.ndarray = disc(seed).reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
    return (found * 255).round().astype(np.uint8)


def resized(seed: int) -> np.ndarray:
    small = Image.fromarray(white(seed)).resize((70, 70), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def was_jpeg(seed: int, quality: int = 40, noise: int = 2) -> np.ndarray:
    """A black and white picture that was a JPEG once, in colours that are no longer quite grey."""
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(smooth(white(seed), 0.7)[..., None], 3, 2)).save(
        buffer, "JPEG", quality=quality
    )
    array = np.asarray(Image.open(buffer)).astype(int)
    array[..., 2] += np.random.default_rng(seed).integers(-noise, noise + 1, array.shape[:2])
    return np.clip(array, 0, 255).astype(np.uint8)


def labels(seed: int) -> np.ndarray:
    """Three labels in areas, one of them thin."""
    found = np.zeros((SIDE, SIDE), np.uint8)
    found[disc(seed, 24)] = 170
    found[disc(seed, 21)] = 85
    found[disc(seed + 100, 12)] = 255
    return found


def write(root: Path, draw: Draw, count: int = 6, suffix: str = "png", **options: object) -> Path:
    for seed in range(count):
        array = draw(seed)
        for kind in ("images", "masks"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(seed).integers(0, 256, array.shape[:2], dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"{seed}.png")
        Image.fromarray(array).save(root / "masks" / f"{seed}.{suffix}", **options)
    return root


def read(root: Path, masks: str | None = None) -> Dataset:
    return read_dataset(root, DatasetOptions(masks=masks))


def bitmaps(dataset: Dataset) -> dict[int, list[np.ndarray]]:
    found: dict[int, list[np.ndarray]] = {}
    for sample in dataset.samples:
        for mask in read_masks(dataset, sample):
            found.setdefault(mask.class_id, []).append(mask.bitmap)
    return found


def said(dataset: Dataset) -> str:
    return "\n".join(f"{problem.severity}: {problem}" for problem in dataset.problems)


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: smooth(white(seed)),
        lambda seed: smooth(white(seed), 3),
        lambda seed: (np.rint(smooth(white(seed), 0.6) / 51) * 51).astype(np.uint8),
        lambda seed: smooth(white(seed)).astype(np.uint16) * 257,
        supersampled,
        resized,
        was_jpeg,
        lambda seed: was_jpeg(seed, 90, 1),
        lambda seed: np.stack([smooth(white(seed)), *[white(seed) * 0] * 2], axis=-1),
        lambda seed: np.maximum(smooth(white(seed)), seed == 3),  # one background that is not quite black
    ],
)
@pytest.mark.parametrize("mode", [None, "binary"])
def test_soft_edges_are_one_thing_cut_in_the_middle(tmp_path: Path, draw: Draw, mode: str | None) -> None:
    dataset = read(write(tmp_path / "set", draw), mode)
    assert dataset.mask_mode == "binary"
    (line,) = dataset.problems
    assert line.severity == "warning"
    assert "cut in the middle" in line.message
    (found,) = bitmaps(dataset).values()
    true = [disc(seed) for seed in range(6)]
    if found[0].shape != true[0].shape:
        true = [one[::2, ::2] for one in true]
    for got, wanted in zip(found, true, strict=True):
        assert abs(int(got.sum()) - int(wanted.sum())) < 0.06 * wanted.sum()
        assert (got != wanted).sum() < 0.15 * wanted.sum()


def test_values_as_asked_for_are_classes_with_a_warning(tmp_path: Path) -> None:
    root = write(
        tmp_path / "set", lambda seed: (np.rint(smooth(white(seed), 0.6) / 51) * 51).astype(np.uint8)
    )
    dataset = read(root, "classes")
    assert sorted(bitmaps(dataset)) == [51, 153, 204, 255]
    assert "lie along edges" in said(dataset)


@pytest.mark.parametrize(
    ("draw", "values"),
    [
        (labels, {85, 170, 255}),
        (
            lambda seed: np.where(disc(seed, 8), 255, np.where(disc(seed), 128, 0)).astype(np.uint8),
            {128, 255},
        ),
        (lambda seed: np.where(disc(seed), seed + 1, 0).astype(np.uint8), {1, 2, 3, 4, 5, 6}),
        (lambda seed: np.where(disc(seed), 255, labels(seed) // 85).astype(np.uint8), {1, 2, 3, 255}),
    ],
)
def test_labels_stay_classes(tmp_path: Path, draw: Draw, values: set[int]) -> None:
    dataset = read(write(tmp_path / "set", draw))
    assert dataset.mask_mode == "classes"
    assert set(bitmaps(dataset)) <= values
    assert set(dataset.values.foreground) <= values
    assert not dataset.problems


def test_smoothed_labels_are_refused_by_file(tmp_path: Path) -> None:
    root = write(tmp_path / "set", lambda seed: smooth(labels(seed)) if seed < 4 else labels(seed))
    dataset = read(root)
    lines = said(dataset).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("error: masks/") and "smoothing" in line for line in lines)
    for sample in dataset.samples[:4]:
        with pytest.raises(ImageError, match=r"lie between labels along edges"):
            list(read_masks(dataset, sample))
    assert [mask.class_id for mask in read_masks(dataset, dataset.samples[5])] == [85, 170, 255]
    assert len(bitmaps(read(root, "classes"))) > 50
    (found,) = bitmaps(read(root, "binary")).values()
    outline = labels(0) > 0
    assert abs(int(found[0].sum()) - int(outline.sum())) < 0.1 * outline.sum()


def test_an_outline_of_one_value_is_read_as_a_class_and_said(tmp_path: Path) -> None:
    def outlined(seed: int) -> np.ndarray:
        inside = disc(seed)
        outline = inside & ~ndimage.binary_erosion(inside, np.ones((3, 3)))
        outline &= ~(ndimage.binary_opening(outline, np.ones((2, 2))))
        return np.where(outline, 128, np.where(inside, 255, 0)).astype(np.uint8)

    root = write(tmp_path / "set", outlined)
    dataset = read(root)
    assert sorted(bitmaps(dataset)) == [128, 255]
    assert "only lines along edges have" in said(dataset)
    assert list(bitmaps(read(root, "binary"))) == [1]


def test_codings_of_one_set_are_one_thing(tmp_path: Path) -> None:
    root = write(tmp_path / "set", lambda seed: white(seed) if seed % 2 else white(seed) // 255)
    Image.fromarray(white(0)).convert("1").save(root / "masks" / "0.png")
    Image.fromarray(white(1).astype(np.uint16) * 257).save(root / "masks" / "1.png")
    Image.fromarray(white(2) * 0).save(root / "masks" / "2.png")
    Image.fromarray(white(3)).save(root / "masks" / "3.jpg", quality=60)
    (root / "masks" / "3.png").unlink()
    dataset = read(root)
    assert dataset.mask_mode == "binary"
    for part in ("0 and 1 in 2", "0 and 65535 in 1", "lossy values in 1"):
        assert part in said(dataset)
    (found,) = bitmaps(dataset).values()
    for got, seed in zip(found, (0, 1, 3, 4, 5), strict=True):
        assert (got != disc(seed)).mean() < 0.002
    apart = read(root, "classes")
    assert {1, 255} <= set(bitmaps(apart))
    assert "each is read as asked" in said(apart)


def test_one_value_a_file_is_no_coding(tmp_path: Path) -> None:
    dataset = read(write(tmp_path / "set", lambda seed: disc(seed) * np.uint8(1 + seed % 2)))
    assert sorted(bitmaps(dataset)) == [1, 2]
    assert not dataset.problems


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {"quality": 20}),
        ("jpg", {"quality": 92}),
        ("webp", {"quality": 60}),
        ("jp2", {"irreversible": True, "quality_layers": [30]}),
    ],
)
def test_lossy_files(tmp_path: Path, suffix: str, options: dict[str, object]) -> None:
    dataset = read(write(tmp_path / "white", white, suffix=suffix, **options))
    assert dataset.mask_mode == "binary"
    (found,) = bitmaps(dataset).values()
    assert all((got != disc(seed)).mean() < 0.01 for seed, got in enumerate(found))

    several = read(write(tmp_path / "labels", labels, suffix=suffix, **options))
    assert said(several).count("its labels can no longer be told apart exactly") == 6
    with pytest.raises(ImageError, match="lossy"):
        list(read_masks(several, several.samples[0]))
    (found,) = bitmaps(read(tmp_path / "labels", "binary")).values()
    assert all((got != (labels(seed) > 0)).mean() < 0.03 for seed, got in enumerate(found))

    numbers = read(write(tmp_path / "numbers", lambda seed: labels(seed) // 85, suffix=suffix, **options))
    assert said(numbers).count("lossy") >= 6
    assert not bitmaps_or_none(numbers)


def bitmaps_or_none(dataset: Dataset) -> dict[int, list[np.ndarray]]:
    try:
        return bitmaps(dataset)
    except ImageError:
        return {}


@pytest.mark.parametrize(
    ("suffix", "options"), [("webp", {"lossless": True}), ("jp2", {"irreversible": False})]
)
def test_lossless_files_of_lossy_formats_are_exact(
    tmp_path: Path, suffix: str, options: dict[str, object]
) -> None:
    dataset = read(write(tmp_path / "set", lambda seed: labels(seed) // 85, suffix=suffix, **options))
    assert not dataset.problems
    for number, found in bitmaps(dataset).items():
        assert all((got == (labels(seed) // 85 == number)).all() for seed, got in enumerate(found))


def test_a_few_stray_pixels_are_said(tmp_path: Path) -> None:
    def stray(seed: int) -> np.ndarray:
        found = white(seed)
        found[0, :3] = 7 if seed == 4 else 0
        return found

    dataset = read(write(tmp_path / "set", stray))
    assert dataset.mask_mode == "classes"
    (line,) = dataset.problems
    assert "the value 7 is in 3 pixels of 1 mask alone (4.png)" in line.message


def test_photographs_are_refused(tmp_path: Path) -> None:
    def photo(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return smooth(rng.integers(0, 256, (SIDE, SIDE, 3)), 0.5)

    for name, draw in (("colour", photo), ("grey", lambda seed: photo(seed)[..., 0])):
        dataset = read(write(tmp_path / name, draw))
        assert said(dataset).count("photograph") == 6


@given(st.lists(st.integers(0, 5), min_size=12, max_size=48), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_counts_add_up(flat: list[int], width: int) -> None:
    array = np.resize(np.array(flat, np.uint8), (len(flat) // width, width))
    counts = count_values(array)
    values, pixels = np.unique(array, return_counts=True)
    np.testing.assert_array_equal(counts.values, values)
    np.testing.assert_array_equal(counts.pixels, pixels)
    assert (counts.between <= pixels - counts.solid).all()
    twice = merge_counts([counts, counts])
    np.testing.assert_array_equal(twice.pixels, 2 * pixels)
    wide = count_values(array.astype(np.int64) * 100_000)
    np.testing.assert_array_equal(wide.solid, counts.solid)
