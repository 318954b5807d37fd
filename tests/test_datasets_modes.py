"""Every mode that Pillow writes, in every format that keeps it: pixels as Pillow shows them, at their full depth."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_cache.datasets.images import image_header, load_array, load_image, read_pixels
from casam_cache.errors import ImageError

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (12, 17), dtype=np.uint16)
SUFFIXES = {
    "PNG": "png", "JPEG": "jpg", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp", "GIF": "gif", "JPEG2000": "jp2",
    "PPM": "ppm", "TGA": "tga", "SGI": "sgi", "PCX": "pcx", "QOI": "qoi", "DIB": "dib", "AVIF": "avif",
}  # fmt: skip
GREY, COLOUR = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK", "YCbCr", "PA")


def drawn(mode: str) -> Image.Image:
    if mode in ("I", "F", "I;16"):
        return Image.fromarray(DEEP.astype({"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]))
    image = Image.fromarray(RGB)
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


def written() -> list[tuple[str, str]]:
    pairs = []
    for mode in (*GREY, *COLOUR, "I", "F", "I;16"):
        for name in SUFFIXES:
            try:
                drawn(mode).save(io.BytesIO(), name)
            except (OSError, ValueError, KeyError):
                continue
            pairs.append((mode, name))
    return pairs


@pytest.mark.parametrize(("mode", "name"), written())
def test_every_mode_that_pillow_writes(tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / f"a.{SUFFIXES[name]}"
    drawn(mode).save(path, name)
    with Image.open(path) as image:
        found, kept = np.asarray(image.convert("RGB")), image.mode
        deep = np.asarray(image) if kept[0] in "IF" else None
    header = image_header(path)
    assert (header.size, header.pages, header.plain) == ((12, 17), 1, True)
    if deep is not None:
        np.testing.assert_array_equal(read_pixels(path).array, deep)
        assert load_image(path).max() == 255
    else:
        np.testing.assert_array_equal(load_image(path), found)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_channels_of_sixteen_bits_in_png(tmp_path: Path, channels: int) -> None:
    deep = RNG.integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 7, 5, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png").array, deep)
    shown = load_array(tmp_path / "a.png")
    np.testing.assert_array_equal(shown, deep[..., 0] if channels == 2 else deep[..., :3])


@pytest.mark.parametrize("largest", [1023, 4095, 65535])
def test_channels_of_sixteen_bits_in_ppm(tmp_path: Path, largest: int) -> None:
    deep = RNG.integers(0, 1024, (5, 7, 3), dtype=np.uint16)
    (tmp_path / "a.ppm").write_bytes(b"P6 7 5 %d\n" % largest + deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(load_array(tmp_path / "a.ppm"), deep)
    assert load_image(tmp_path / "a.ppm").max() == 255
    (tmp_path / "b.ppm").write_bytes(b"P6 7 5 %d\n" % largest + bytes(60))
    with pytest.raises(ImageError, match="damaged or truncated"):
        load_array(tmp_path / "b.ppm")


@pytest.mark.parametrize("bits", [12, 16])
def test_channels_of_sixteen_bits_in_jpeg_2000(
    tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    deep = RNG.integers(0, 4096, (40, 50, 3), dtype=np.uint16)
    data = imagecodecs.jpeg2k_encode(deep, level=0, bitspersample=bits, reversible=True)
    (tmp_path / "a.jp2").write_bytes(data)
    np.testing.assert_array_equal(load_array(tmp_path / "a.jp2"), deep)
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=f"JPEG 2000 of {bits} bits") as error:
        load_array(tmp_path / "a.jp2")
    assert "casam-cache[medical]" in error.value.hint


def test_lab_is_named(tmp_path: Path) -> None:
    Image.new("LAB", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"colour space (CIE)?LAB"):
        load_image(tmp_path / "a.tif")


def test_the_previews_of_a_photograph_are_no_pages(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.mpo", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    with Image.open(tmp_path / "a.mpo") as image:
        assert image.n_frames == 2
        expected = np.asarray(image)
    np.testing.assert_array_equal(load_image(tmp_path / "a.mpo"), expected)
