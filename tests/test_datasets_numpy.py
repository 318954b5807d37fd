"""NumPy arrays as images and masks, and what is refused of them."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from casam_cache.datasets import DatasetOptions, read_dataset, read_masks
from casam_cache.datasets.arrays import read_array
from casam_cache.datasets.images import image_header, load_array, load_image, read_pixels
from casam_cache.errors import ImageError

RNG = np.random.default_rng(0)
NUMBERS = st.sampled_from(["?", "u1", "i1", ">u2", "<i2", "u4", ">i8", "f2", ">f4", "f8"])


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez_compressed(path, array)
    else:
        np.save(path, array)
    return path


@settings(max_examples=40, deadline=None)
@given(
    NUMBERS.flatmap(lambda kind: hnp.arrays(kind, st.tuples(st.integers(1, 9), st.integers(5, 9)))),
    st.sampled_from([1, 3, None]),
    st.booleans(),
    st.sampled_from([".npy", ".npz"]),
)
def test_the_very_values(
    tmp_path_factory: pytest.TempPathFactory,
    array: np.ndarray,
    channels: int | None,
    fortran: bool,
    suffix: str,
) -> None:
    whole = array if channels is None else np.stack([array] * channels, 2)
    path = tmp_path_factory.mktemp("a") / f"a{suffix}"
    save(path, np.asfortranarray(whole) if fortran else whole)
    found = load_array(path)
    np.testing.assert_array_equal(found, array if channels in (1, None) else whole)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert image_header(path).size == array.shape


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pages_and_channels_are_asked_about(tmp_path: Path, suffix: str) -> None:
    stack = RNG.integers(0, 999, (6, 12, 15), dtype=np.uint16)
    path = save(tmp_path / f"a{suffix}", stack)
    with pytest.raises(ImageError, match="holds 6 pages"):
        load_image(path)
    np.testing.assert_array_equal(load_array(Path(f"{path}#6")), stack[5])
    np.testing.assert_array_equal(
        load_array(Path(f"{path}#channels=3,2,1")), np.moveaxis(stack[[2, 1, 0]], 0, -1)
    )
    two = save(tmp_path / f"b{suffix}", RNG.random((6, 12, 15, 2)))
    with pytest.raises(ImageError, match="an array of float64, 2 channels"):
        load_image(Path(f"{two}#1"))
    assert load_array(Path(f"{two}#1&channels=2")).shape == (12, 15)
    with pytest.raises(ImageError, match="4 channels that are neither"):
        load_image(save(tmp_path / f"c{suffix}", np.zeros((5, 5, 4), np.uint8)))


@pytest.mark.parametrize(
    "array",
    [np.array([[{}, 1]], object), np.zeros(5), np.zeros((2, 2, 5, 6, 7)), np.zeros((3, 5), np.complex64),
     np.zeros((3, 5), "U4"), np.zeros((3, 5), [("a", "u1")]), np.zeros((0, 5)), np.zeros((2, 7, 8, 9))],
    ids=["objects", "1D", "5D", "complex", "text", "fields", "empty", "channels first"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_what_is_no_image(tmp_path: Path, array: np.ndarray, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", array)
    for act in (load_image, image_header):
        with pytest.raises(ImageError, match=rf"a\{suffix}: ") as error:
            act(path)
        assert error.value.hint


def test_archives_of_several_arrays_or_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros((4, 5)), mask=np.zeros((4, 5)))
    with pytest.raises(ImageError, match=r"a\.npz: holds 2 arrays: image, mask"):
        load_image(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ImageError, match=r"b\.npz: not an image"):
        load_image(tmp_path / "b.npz")


def test_bombs_and_cut_files(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    (tmp_path / "a.npy").write_bytes(header.getvalue())
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ImageError, match="1000000 x 1000000 pixels are more than"):
            load_image(tmp_path / name)
    with (
        zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 100, 100)}
        )
    with pytest.raises(ImageError, match="1000000 x 100 x 100 values to decode at once"):
        load_image(Path(f"{tmp_path / 'b.npz'}#3"))
    whole = save(tmp_path / "c.npy", np.ones((50, 60))).read_bytes()
    (tmp_path / "c.npy").write_bytes(whole[:-9])
    with pytest.raises(ImageError, match=r"c\.npy: cannot be decoded, it is damaged or truncated"):
        load_image(tmp_path / "c.npy")


def test_a_dataset_of_arrays(tmp_path: Path) -> None:
    images = RNG.normal(size=(3, 20, 30)).astype(np.float32)
    masks = (RNG.random((3, 20, 30)) < 0.3).astype(np.int64) * 2
    masks[:, 0, 0] = 1
    for number in range(3):
        save(tmp_path / "images" / f"{number}.npy", images[number])
        save(tmp_path / "masks" / f"{number}.npz", masks[number])
    dataset = read_dataset(tmp_path, DatasetOptions(masks="classes"))
    assert not dataset.problems
    for sample, image, mask in zip(dataset.samples, images, masks, strict=True):
        np.testing.assert_array_equal(read_array(dataset.reader, tmp_path, sample.source, 10**6), image)
        for found in read_masks(dataset, sample, (20, 30)):
            np.testing.assert_array_equal(found.bitmap, mask == found.class_id)
    assert read_pixels(save(tmp_path / "b.npy", masks[0] == 2)).mode == "1"
