"""Files that are nearly all background: what is decoded of them, counted, and remembered while they stay the same."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from casam_cache.datasets import labels as labels_module
from casam_cache.datasets import pillow_files
from casam_cache.datasets.labels import read_labels, read_part, scan_mask
from casam_cache.datasets.masks import iter_masks, load_labels
from casam_cache.datasets.sample import MaskValues
from casam_cache.datasets.value_counts import count_values
from casam_cache.errors import ImageError

objects = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.sampled_from([0, 1, 9, 120, 255]),
)
LONG_AGO = 1_700_000_000 * 10**9


def save(path: Path, array: np.ndarray, *, old: bool = False) -> Path:
    Image.fromarray(array).save(path)
    if old:
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


def placed(own: np.ndarray, margins: tuple[int, int, int, int]) -> np.ndarray:
    return np.pad(own, (margins[:2], margins[2:]))


@settings(max_examples=200, deadline=None)
@given(objects, st.tuples(*[st.integers(0, 12)] * 4), st.booleans())
def test_a_part_says_of_its_file_what_the_whole_says(
    tmp_path_factory: pytest.TempPathFactory,
    own: np.ndarray,
    margins: tuple[int, int, int, int],
    palette: bool,
) -> None:
    whole = placed(own, margins)
    path = tmp_path_factory.mktemp("part") / "a.png"
    image = Image.fromarray(whole)
    if palette:
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    image.save(path)
    found, expected = read_part(path), read_labels(path)
    assert found.size == expected.labels.shape == whole.shape
    np.testing.assert_array_equal(load_labels(path, MaskValues()), whole)
    counts, wanted = scan_mask(path).counts, count_values(whole)
    for name in ("values", "pixels", "solid", "between", "calm", "border", "tops"):
        np.testing.assert_array_equal(getattr(counts, name), getattr(wanted, name), err_msg=name)
    for mode in ("instances", "classes", "components", "binary"):
        values = MaskValues(tuple(int(value) for value in np.unique(whole)))
        masks = list(iter_masks([path], mode, values, whole.shape))
        assert sum(mask.cutout.area for mask in masks) == np.count_nonzero(whole)
        for mask in masks:
            assert len(np.unique(whole[mask.bitmap])) == 1 or mode == "binary"


def test_little_is_kept_of_a_file_with_one_object(tmp_path: Path) -> None:
    whole = np.zeros((300, 400), np.uint8)
    whole[100:110, 50:53] = 255
    for mode in ("L", "1"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(whole).convert(mode).save(path)
        assert read_part(path).labels.shape == (14, 7)
        assert read_part(path).place == (98, 48, (300, 400))
    empty = read_part(save(tmp_path / "e.png", whole * 0))
    assert empty.labels.size <= 16
    assert not empty.labels.any()


def test_a_file_is_decoded_once_while_it_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    honest = labels_module.read_pixels

    def counted(path: Path, **options: object) -> object:
        decoded.append(path)
        return honest(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(labels_module, "read_pixels", counted)
    monkeypatch.setattr(labels_module, "_SETTLED", 0)
    monkeypatch.setattr(labels_module, "_KEPT", labels_module._Kept())
    whole = np.zeros((64, 64), np.uint8)
    whole[5:9, 5:9] = 255
    path = save(tmp_path / "a.png", whole, old=True)
    values = MaskValues((0, 255))
    scan_mask(path)
    for _ in range(3):
        assert sum(mask.cutout.area for mask in iter_masks([path], "instances", values)) == 16
    assert decoded == [path]
    with pytest.raises(ImageError, match="more than the limit of 100"):
        read_part(path, 100)
    whole[5:9, 5:9], whole[20:24, 20:24] = 0, 255
    save(path, whole, old=True)
    (mask,) = iter_masks([path], "instances", values)
    assert mask.cutout.top == 20
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        read_part(path)


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    whole = np.zeros((64, 64), np.uint8)
    whole[5:9, 5:9] = 255
    path = save(tmp_path / "a.png", whole)
    assert time.time_ns() - path.stat().st_mtime_ns < labels_module._SETTLED
    read_part(path)
    assert labels_module._KEPT.get(path, labels_module._stated(path)) is None


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "_SETTLED", 0)
    monkeypatch.setattr(labels_module, "_ROOM", 5000)
    kept = labels_module._Kept()
    monkeypatch.setattr(labels_module, "_KEPT", kept)
    for number in range(9):
        whole = np.zeros((64, 64), np.uint8)
        whole[number : number + 9, :9] = number + 1
        read_part(save(tmp_path / f"{number}.png", whole, old=True))
        assert 1 <= len(kept._parts) <= 4


def test_a_reading_in_which_0_is_no_background_sees_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casam_cache.datasets import masks

    whole = np.zeros((40, 50), np.uint8)
    whole[5:9, 5:9] = 255
    path = save(tmp_path / "a.png", whole)
    monkeypatch.setattr(masks, "as_read", lambda found, values, path: 255 - found.labels)
    (mask,) = iter_masks([path], "binary", MaskValues())
    np.testing.assert_array_equal(mask.bitmap, whole == 0)


def test_the_ring_is_wide_enough_for_what_is_counted() -> None:
    assert pillow_files.RING == 2, "areas are squares of 2 x 2: a ring of one has none of its own"
