"""Decoding images: every depth and mode, orientation, and everything that is wrong with files."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_cache.datasets.images import (
    image_size,
    load_array,
    load_image,
    parse_intensity,
    read_pixels,
    to_uint8,
)
from casam_cache.errors import ImageError, OptionError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
GREY = RGB[..., 0].copy()


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand, since Pillow writes no 16-bit colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_eight_bit_images_keep_their_values(tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_image(save(tmp_path / "a.png", RGB)), RGB)
    grey = load_image(save(tmp_path / "b.png", GREY))
    assert grey.dtype == np.uint8
    assert grey.flags.c_contiguous
    np.testing.assert_array_equal(grey, np.repeat(GREY[..., None], 3, 2))
    np.testing.assert_array_equal(load_image(str(tmp_path / "b.png"), "5,9"), grey)  # for deeper ones


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "CMYK", "YCbCr", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "a.tif", RGB, mode)
    image = load_image(path)
    assert image.shape == (12, 17, 3)
    if mode == "LA":
        np.testing.assert_array_equal(image[..., 0], np.asarray(Image.fromarray(RGB).convert("L")))
    if mode in ("RGBA", "CMYK"):
        np.testing.assert_array_equal(image, RGB)
    if mode == "1":
        assert set(np.unique(image)) == {0, 255}


def test_alpha_is_dropped_not_composited(tmp_path: Path) -> None:
    alpha = np.concatenate([RGB, np.zeros_like(RGB[..., :1])], axis=2)
    np.testing.assert_array_equal(load_image(save(tmp_path / "a.png", alpha)), RGB)


def test_palette_with_transparency_does_not_warn(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert("P")
    image.save(tmp_path / "a.png", transparency=b"\x00\x80" * 128)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_mapped_by_percentiles(tmp_path: Path) -> None:
    deep = np.linspace(1000, 3000, 12 * 17).astype(np.uint16).reshape(12, 17)
    for name in ("a.png", "a.tif"):
        image = load_image(save(tmp_path / name, deep))[..., 0]
        assert image.min() == 0
        assert image.max() == 255
        assert (np.diff(image.astype(int).ravel()) >= 0).all()
    window = load_image(tmp_path / "a.png", "0,4000")[..., 0]
    assert abs(int(window[0, 0]) - 64) <= 1
    assert abs(int(window[-1, -1]) - 191) <= 1


def test_big_endian_signed_and_float_images(tmp_path: Path) -> None:
    deep = np.arange(12 * 17).reshape(12, 17)
    for name, array in (("i.tif", (deep - 100).astype(np.int32)), ("f.tif", (deep / 7).astype(np.float32))):
        image = load_image(save(tmp_path / name, array))[..., 0]
        assert (int(image.min()), int(image.max())) == (0, 255)
    (tmp_path / "b.pgm").write_bytes(b"P5 17 12 65535\n" + deep.astype(">u2").tobytes())
    assert load_image(tmp_path / "b.pgm")[..., 0].max() == 255


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_png_keeps_its_low_bytes(tmp_path: Path, channels: int) -> None:
    deep = RNG.integers(0, 4096, (5, 7, channels), dtype=np.uint16)  # 12 bits are used
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in deep)
    (tmp_path / "a.png").write_bytes(png(7, 5, 16, {3: 2, 4: 6}[channels], rows))
    pixels = read_pixels(tmp_path / "a.png")
    assert pixels.bits == 16
    np.testing.assert_array_equal(pixels.array, deep)
    assert load_image(tmp_path / "a.png").max() == 255


@pytest.mark.parametrize("deflate", [False, True])  # plain strips and those that libtiff decodes
def test_sixteen_bit_colour_tiff_keeps_its_low_bytes(tmp_path: Path, deflate: bool) -> None:
    deep = RNG.integers(0, 4096, (5, 7, 3), dtype=np.uint16)

    def field(order: str, tag: int, kind: int, count: int, value: int) -> bytes:
        short = kind == 3 and count == 1
        return struct.pack(
            order + "HHI" + ("HH" if short else "I"), tag, kind, count, value, *([0] if short else [])
        )

    for order, dtype in (("<", "<u2"), (">", ">u2")):
        data = deep.astype(dtype).tobytes()
        data = zlib.compress(data) if deflate else data
        fields = [
            (256, 3, 1, 7),
            (257, 3, 1, 5),
            (258, 3, 3, 200),
            (259, 3, 1, 8 if deflate else 1),
            (262, 3, 1, 2),
        ]
        fields += [(273, 4, 1, 300), (277, 3, 1, 3), (278, 3, 1, 5), (279, 4, 1, len(data))]
        body = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(order + "IH", 8, len(fields))
        body += b"".join(field(order, *one) for one in fields) + bytes(4)
        body = body.ljust(200, b"\x00") + struct.pack(order + "HHH", 16, 16, 16)
        (tmp_path / "a.tif").write_bytes(body.ljust(300, b"\x00") + data)
        np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif").array, deep)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tif", "a.jpg"):
        path = save(tmp_path / name, RGB, exif=exif)
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(load_image(path), expected)
        assert image_size(path) == expected.shape[:2]


def test_frames_are_asked_about_and_read_one_at_a_time(tmp_path: Path) -> None:
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    for name, options in (("a.tif", {}), ("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True})):
        path = tmp_path / name
        first.save(path, save_all=True, append_images=[second], **options)
        with pytest.raises(ImageError, match="holds 2 pages") as error:
            load_array(path)
        assert "--pages first" in error.value.hint
        for number, image in enumerate((first, second), 1):
            found = load_image(Path(f"{path}#{number}"))
            if name != "a.gif":
                np.testing.assert_array_equal(found, image)
            assert np.abs(found.astype(int) - np.asarray(image)).mean() < 40
        with pytest.raises(ImageError, match="there is no page 3, the file has 2 pages"):
            load_image(Path(f"{path}#3"))
        with pytest.raises(ImageError, match="holds 2 pages") as error:
            load_image(path)
        assert f"'{path}#1'" in error.value.hint  # where there is no dataset that options could speak of
        first.save(path, **options)
        assert load_image(path).shape == RGB.shape


def test_constant_images_never_divide_by_zero(tmp_path: Path) -> None:
    for array in (np.full((4, 4), 700, np.uint16), np.full((4, 4), 0.5, np.float32)):
        assert not load_image(save(tmp_path / "a.tif", array)).any()
    sparse = np.zeros((40, 40), np.uint16)
    sparse[0, 0] = 9  # both percentiles are 0, yet the image is not constant
    assert to_uint8(sparse)[0, 0] == 255


def test_nan_pixels_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    array = np.ones((4, 4), np.float32)
    array[0, 0] = np.nan
    array[1, 1] = np.inf
    with pytest.raises(ImageError, match=r"nan\.tif: 2 of 16 pixel values are NaN or infinite"):
        load_image(save(tmp_path / "nan.tif", array))


def test_a_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(40_000, 40_000, 8, 0, b""))
    limit = Image.MAX_IMAGE_PIXELS
    for act in (load_image, image_size):
        with pytest.raises(ImageError, match=r"bomb\.png: 40000 x 40000 pixels are more than .* 100,000,000"):
            act(path)
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="limit of 100"):
        load_image(save(tmp_path / "a.png", RGB), max_pixels=100)


def test_the_limit_can_be_raised_above_that_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # Pillow would warn from 50 and refuse from 100
    assert load_image(save(tmp_path / "a.png", RGB)).shape == RGB.shape
    assert Image.MAX_IMAGE_PIXELS == 50


def damaged(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG" if kind == "jpg" else "TIFF" if kind == "tif" else "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, kind: str, share: float) -> None:
    whole = damaged(kind)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError, match=rf"cut\.{kind}: .*(damaged or truncated|not an image)") as error:
        load_image(path)
    assert error.value.hint


def test_a_flipped_bit_in_a_png_is_found(tmp_path: Path) -> None:
    data = bytearray(damaged("png"))
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        load_image(tmp_path / "a.png")


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("patient,age\n1,2\n")
    with pytest.raises(ImageError, match=r"text\.png: not an image .* it holds text"):
        load_image(tmp_path / "text.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: the file is empty"):
        load_image(tmp_path / "empty.png")
    with pytest.raises(ImageError, match=r"gone\.png: there is no such file"):
        load_image(tmp_path / "gone.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"link\.png: a link to a file that does not exist"):
        image_size(tmp_path / "link.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=r"folder\.png"):
        load_image(tmp_path / "folder.png")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", RGB)
    if os.geteuid() == 0:  # root may read anything, so let the opening fail as it would for others

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Image, "open", refuse)
    path.chmod(0)
    with pytest.raises(ImageError, match=r"a\.png: no permission") as error:
        load_image(path)
    assert "chmod" in error.value.hint


def test_many_threads_leave_the_global_state_as_it_was(tmp_path: Path) -> None:
    import warnings
    from concurrent.futures import ThreadPoolExecutor

    path = save(tmp_path / "a.png", RGB)
    before, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(4) as pool:
        for image in pool.map(lambda _: load_image(path), range(40)):
            np.testing.assert_array_equal(image, RGB)
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == (before, limit)


def test_intensity_windows() -> None:
    assert parse_intensity("auto") is None
    assert parse_intensity("-160,240") == (-160.0, 240.0)
    for wrong in ("", "5", "9,5", "3,3", "a,b", "nan,1", "0,inf", "1,2,3"):
        with pytest.raises(OptionError, match="LOW,HIGH"):
            parse_intensity(wrong)
