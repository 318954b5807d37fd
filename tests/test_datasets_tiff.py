"""TIFF of every depth, layout and byte order: the values of tifffile, and a word where nothing says what counts."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from casam_cache.datasets.images import image_header, image_size, load_array, load_image, read_pixels
from casam_cache.datasets.portion import Portion, split_portion
from casam_cache.errors import ImageError

RNG = np.random.default_rng(0)
H, W = 21, 34
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")
UNSAID = {
    "rgb and near infrared": (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "planar of four": (
        4,
        {"photometric": "rgb", "extrasamples": ["unspecified"], "planarconfig": "separate"},
    ),
    "two bands": (
        2,
        {"photometric": "minisblack", "extrasamples": ["unspecified"], "planarconfig": "contig"},
    ),
    "five bands": (5, {"photometric": "rgb", "extrasamples": ["unspecified"] * 2}),
}
SAID = {
    "grey": (1, {"photometric": "minisblack"}),
    "grey and alpha": (
        2,
        {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"},
    ),
    "rgb": (3, {"photometric": "rgb"}),
    "planar rgb": (3, {"photometric": "rgb", "planarconfig": "separate"}),
    "rgba": (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "planar rgba": (4, {"photometric": "rgb", "extrasamples": ["unassalpha"], "planarconfig": "separate"}),
}


def values(dtype: str, *shape: int) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.normal(100, 30, shape).astype(kind)
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


def write(path: Path, array: np.ndarray, **options: object) -> Path:
    """(H, W) or (H, W, C), planar where asked; no note of the shape, which other programs would not leave."""
    if options.get("planarconfig") == "separate":
        array = np.moveaxis(array, -1, 0)
    tifffile.imwrite(path, array, metadata=None, **options)
    return path


@pytest.mark.parametrize("layout", SAID)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_values_of_every_depth_are_those_of_the_file(tmp_path: Path, dtype: str, layout: str) -> None:
    channels, options = SAID[layout]
    array = values(dtype, H, W, channels) if channels > 1 else values(dtype, H, W)
    for order in "<>":
        for packed in ({}, {"compression": "zlib"}, {"compression": "lzw", "tile": (16, 16)}):
            path = write(tmp_path / "a.tif", array, byteorder=order, **packed, **options)
            np.testing.assert_array_equal(read_pixels(path).array, array)
            shown = load_array(path)
            np.testing.assert_array_equal(
                shown, array[..., 0] if channels == 2 else array[..., :3] if channels > 2 else array
            )
            assert image_size(path) == (H, W)
            assert load_image(path).max() == 255


@pytest.mark.parametrize("layout", UNSAID)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_bands_that_are_no_colours_are_asked_about(tmp_path: Path, dtype: str, layout: str) -> None:
    channels, options = UNSAID[layout]
    array = values(dtype, H, W, channels)
    path = write(tmp_path / "a.tif", array, **options)
    with pytest.raises(
        ImageError, match=f"a TIFF of {8 * array.dtype.itemsize} bits, {channels} channels"
    ) as error:
        load_array(path)
    assert "--channels 1" in error.value.hint
    assert ("--channels 1,2,3" in error.value.hint) == (channels > 2)
    np.testing.assert_array_equal(load_array(Path(f"{path}#channels=2")), array[..., 1])
    if channels > 2:
        np.testing.assert_array_equal(load_array(Path(f"{path}#channels=3,1,2")), array[..., [2, 0, 1]])
    with pytest.raises(ImageError, match=f"no channel 9, the file has {channels} channels"):
        load_array(Path(f"{path}#channels=9"))


def test_stated_colours_of_twelve_bits_use_all_greys(tmp_path: Path) -> None:
    array = np.linspace(0, 4095, H * W * 3).astype(np.uint16).reshape(H, W, 3)
    shown = load_image(write(tmp_path / "a.tif", array, photometric="rgb", planarconfig="separate"))
    assert shown.max() == 255
    assert len(np.unique(shown)) > 120


def test_small_signed_and_half_values_get_the_window_of_wide_ones(tmp_path: Path) -> None:
    array = np.where(RNG.random((H, W)) < 0.5, -32768, 32767).astype(np.int16)
    expected = load_image(write(tmp_path / "wide.tif", array.astype(np.float64), photometric="minisblack"))
    np.testing.assert_array_equal(
        load_image(write(tmp_path / "a.tif", array, photometric="minisblack")), expected
    )


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "u4"])
def test_white_is_zero_is_turned_round(tmp_path: Path, dtype: str) -> None:
    array = RNG.random((H, W)) < 0.5 if dtype == "?" else values(dtype, H, W)
    for order in "<>":
        path = write(tmp_path / "a.tif", array, photometric="miniswhite", byteorder=order)
        np.testing.assert_array_equal(read_pixels(path).array, ~array)


@pytest.mark.parametrize("depth", ["u1", "u2"])
def test_palettes_give_colours_and_where_asked_indexes(tmp_path: Path, depth: str) -> None:
    colours = RNG.integers(0, 65536, (3, 256 if depth == "u1" else 65536), dtype=np.uint16)
    index = values(depth, H, W)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, index, photometric="palette", colormap=colours, metadata=None)
    shown = load_array(path)
    if depth == "u1":
        np.testing.assert_array_equal(shown, np.moveaxis(colours[:, index] >> 8, 0, -1))
        np.testing.assert_array_equal(read_pixels(path, palette=True).array, index)
    else:
        np.testing.assert_array_equal(shown, np.moveaxis(colours[:, index], 0, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["u1", "f8"])  # one that Pillow decodes, one that tifffile does
def test_the_orientation_tag_is_applied_or_left(tmp_path: Path, dtype: str, orientation: int) -> None:
    array = values(dtype, H, W)
    path = write(
        tmp_path / "a.tif", array, photometric="minisblack", extratags=[(274, 3, 1, orientation, True)]
    )
    turned = {
        1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1], 5: array.T, 6: array[::-1].T,
        7: array[::-1, ::-1].T, 8: array.T[::-1],
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(read_pixels(path).array, turned)
    assert image_size(path) == turned.shape
    as_stored = Path(f"{path}#exif=ignore")
    np.testing.assert_array_equal(read_pixels(as_stored).array, array)
    assert image_size(as_stored) == (H, W)
    assert image_header(path).orientation == orientation


def stacks(path: Path) -> dict[str, tuple[np.ndarray, dict[str, object]]]:
    """Pages in their order (P, H, W[, C]) as several programs write them."""
    stack = values("u2", 6, H, W)
    colour = values("u1", 3, H, W, 3)
    return {
        "plain": (stack, {"photometric": "minisblack", "metadata": None}),
        "noted shape": (stack, {"photometric": "minisblack"}),
        "compressed": (stack, {"photometric": "minisblack", "compression": "zlib", "metadata": None}),
        "big": (stack, {"photometric": "minisblack", "bigtiff": True}),
        "imagej": (stack, {"imagej": True, "metadata": {"axes": "ZYX"}}),
        "ome": (stack, {"ome": True, "metadata": {"axes": "TYX"}, "photometric": "minisblack"}),
        "volumetric": (stack, {"photometric": "minisblack", "volumetric": True}),
        "colour": (colour, {"photometric": "rgb"}),
    }


@pytest.mark.parametrize("kind", stacks(Path()))
def test_pages_are_asked_about_and_read_one_at_a_time(tmp_path: Path, kind: str) -> None:
    stack, options = stacks(tmp_path)[kind]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, **options)
    with pytest.raises(ImageError, match=f"holds {len(stack)} pages") as error:
        load_array(path)
    assert "--pages first" in error.value.hint
    assert ("--channels" in error.value.hint) == (stack.ndim == 3)
    assert image_header(path).pages == len(stack)
    for number, page in enumerate(stack, 1):
        np.testing.assert_array_equal(load_array(Path(f"{path}#{number}")), page)
    for number in (0, len(stack) + 1):
        with pytest.raises(ImageError, match=f"there is no page {number}, the file has {len(stack)} pages"):
            load_array(Path(f"{path}#{number}"))
    if stack.ndim == 3:
        np.testing.assert_array_equal(
            load_array(Path(f"{path}#channels=1,2,3")), np.moveaxis(stack[:3], 0, -1)
        )
        with pytest.raises(ImageError, match="no channel 7, the file has 6 channels"):
            load_array(Path(f"{path}#channels=7"))


@pytest.mark.parametrize("program", ["imagej", "ome"])
def test_hyperstacks_have_pages_and_channels(tmp_path: Path, program: str) -> None:
    axes = "TZCYX" if program == "imagej" else "CTZYX"
    array = values("u2", 2, 3, 4, H, W)  # whatever the axes: two, three and four of the outer ones
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, **{program: True}, metadata={"axes": axes})
    pages = (
        array.reshape(6, 4, H, W) if program == "imagej" else np.moveaxis(array.reshape(2, 12, H, W), 0, 1)
    )
    header = image_header(path)
    assert (header.pages, header.channels, header.plain) == (*pages.shape[:2], False)
    with pytest.raises(ImageError, match=f"holds {len(pages)} pages"):
        load_array(path)
    with pytest.raises(ImageError, match=f"{pages.shape[1]} channels"):
        load_array(Path(f"{path}#2"))
    for number in range(1, len(pages) + 1):
        for channel in range(1, pages.shape[1] + 1):
            found = load_array(Path(f"{path}#{number}&channels={channel}"))
            np.testing.assert_array_equal(found, pages[number - 1, channel - 1])


def test_channels_alone_are_no_pages(tmp_path: Path) -> None:
    array = values("u2", 2, H, W)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(ImageError, match="2 channels") as error:
        load_array(path)
    assert "1,2,3" not in error.value.hint
    np.testing.assert_array_equal(load_array(Path(f"{path}#channels=2")), array[1])


def test_pages_of_several_sizes_are_pages_and_smaller_copies_are_not(tmp_path: Path) -> None:
    path, first, other = tmp_path / "a.tif", values("u2", H, W), values("u2", H // 2, W)
    with tifffile.TiffWriter(path) as tif:
        tif.write(first, photometric="minisblack", metadata=None)
        tif.write(other, photometric="minisblack", metadata=None)
    assert image_header(path).pages == 2
    np.testing.assert_array_equal(load_array(Path(f"{path}#2")), other)
    with pytest.raises(ImageError, match="pages differ in size"):
        load_array(Path(f"{path}#channels=1,2,1"))
    with tifffile.TiffWriter(path) as tif:
        tif.write(first, subifds=1, photometric="minisblack")
        tif.write(other, subfiletype=1, photometric="minisblack")
        tif.write(other, subfiletype=1, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(load_array(path), first)


def test_what_pillow_reads_right_is_read_as_before(tmp_path: Path) -> None:
    rgb = values("u1", H, W, 3)
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"):
        for compression in (None, "tiff_lzw", "jpeg"):
            if compression == "jpeg" and mode not in ("L", "RGB", "YCbCr"):
                continue
            Image.fromarray(rgb).convert(mode).save(tmp_path / "a.tif", compression=compression)
            with Image.open(tmp_path / "a.tif") as image:
                expected = np.asarray(
                    image.convert({"1": "L", "LA": "L"}.get(mode, mode if mode == "L" else "RGB"))
                )
            found = load_image(tmp_path / "a.tif")
            np.testing.assert_array_equal(
                found, expected if expected.ndim == 3 else np.stack([expected] * 3, 2)
            )


def test_a_missing_codec_is_named_with_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tif", values("u2", H, W, 3), photometric="rgb", compression="lzw")
    for name in [name for name in sys.modules if name.startswith(("imagecodecs", "tifffile"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=r"a\.tif: a TIFF compressed by LZW.* imagecodecs") as error:
        load_image(path)
    assert error.value.hint == "pip install 'casam-cache[medical]'"


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw", "tile": (16, 16)}])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_files_that_were_cut_short(tmp_path: Path, options: dict[str, object], share: float) -> None:
    whole = write(
        tmp_path / "whole.tif", values("f8", 3 * H, 3 * W), photometric="minisblack", **options
    ).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError, match=r"cut\.tif: .*(damaged|truncated|not an image)"):
        load_image(tmp_path / "cut.tif")


def test_headers_that_state_too_much_are_refused_before_decoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values("f8", H, W), photometric="minisblack")
    with pytest.raises(ImageError, match=f"{W} x {H} pixels are more than the limit of 50"):
        load_image(path, max_pixels=50)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[0].tags[256]
        place = tag.valueoffset
    data[place : place + 4] = (10**9).to_bytes(4, "little") if tag.dtype == 4 else b"\xff\xff\0\0"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"pixels are more than the limit|damaged"):
        load_image(path, max_pixels=10**5)
    many = write(
        tmp_path / "many.tif", values("u1", H, W, 300), photometric="minisblack", planarconfig="contig",
        extrasamples=["unspecified"] * 299,
    )  # fmt: skip
    with pytest.raises(ImageError, match=f"{H} x {W} x 300 values"):
        load_image(Path(f"{many}#channels=1"), max_pixels=H * W)


def test_complex_numbers_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((H, W), np.complex64), photometric="minisblack")
    with pytest.raises(ImageError, match=r"a\.tif: a TIFF of 64 bits"):
        load_image(path)


def test_nothing_is_logged_or_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(write(tmp_path / "a.tif", values("f8", H, W), photometric="minisblack").read_bytes())
    (tmp_path / "b.tif").write_bytes(data[:40])
    with pytest.raises(ImageError):
        load_image(tmp_path / "b.tif")
    assert capfd.readouterr() == ("", "")


@given(
    st.integers(1, 10**6) | st.none(),
    st.none() | st.lists(st.integers(1, 99), min_size=1, max_size=3).map(tuple),
    st.booleans(),
    st.sampled_from(["a.tif", "b#3.png", "c d.nii.gz", "e#channels=1.tif", "f.#3.gif"]),
)
def test_a_portion_is_read_back_from_its_name(
    page: int | None, channels: tuple[int, ...] | None, as_stored: bool, name: str
) -> None:
    portion = Portion(page, channels, as_stored)
    assert split_portion(f"{name}{portion}") == (name, portion)
