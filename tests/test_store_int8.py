"""int8 stores: values, errors, other readers, verify and repair; stores without int8 are as they were."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from store_fakes import FAILS, ITEMS, SHAPES, encode, feature, fill, open_writer, samples, tree

from casam_cache.errors import IdentityMismatchError, StoreError
from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore, ItemResult, write_annotations
from casam_cache.store.quantise import dequantise, quantisation_error, quantise, to_half
from casam_cache.store.repair import mend, open_for_repair, replace_items
from casam_cache.store.verify import verify

GOOD = sorted(set(range(len(ITEMS))) - FAILS)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "x.zarr"
    fill(path, dtype="int8")
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "x.zarr")
    return tmp_path / "x.zarr"


values = arrays(np.float32, (3, 4, 5), elements=st.floats(-60000, 60000, width=32))


@settings(max_examples=60, deadline=None)
@given(values)
def test_the_error_is_at_most_half_a_level(values: np.ndarray) -> None:
    levels, scale, offset = quantise(values)
    exact = levels * scale[:, None, None].astype(np.float64) + offset[:, None, None]
    span = np.ptp(values, axis=(1, 2)).astype(np.float64)
    none = 255 * float(np.finfo(np.float32).tiny)  # a range so small is none: it has no scale to divide by
    slack = 1e-6 * np.abs(values).max(axis=(1, 2)) + none  # float32 arithmetic
    assert (np.abs(exact - values).max(axis=(1, 2)) <= span / 510 * (1 + 1e-5) + slack).all()
    read = dequantise(levels, scale, offset)
    assert read.dtype == np.float16
    np.testing.assert_allclose(read, exact, rtol=1e-3, atol=1e-3 * np.abs(values).max() + 1e-7)


def test_rounding_is_the_same_with_and_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: F401

    stored = np.random.default_rng(0).integers(-128, 128, (64, 64, 64)).astype(np.int8)
    scale = np.geomspace(1e-9, 500, 64).astype(np.float32)  # from below float16's least number to its largest
    fast = dequantise(stored, scale, scale[::-1] * 0.1)
    large = np.array([[1e5, -7e4, 65519.9, 65520, 1e-8, -3e-8, 0]], dtype=np.float32)
    halves = to_half(large)
    monkeypatch.delitem(sys.modules, "torch")
    np.testing.assert_array_equal(fast, dequantise(stored, scale, scale[::-1] * 0.1))
    assert to_half(large).tobytes() == halves.tobytes()


def test_a_channel_of_one_value_is_kept() -> None:
    values = np.stack([np.full((2, 2), -3.5), np.zeros((2, 2)), np.arange(4.0).reshape(2, 2)])
    levels, scale, offset = quantise(values)
    assert scale[:2].tolist() == [0, 0]
    np.testing.assert_allclose(dequantise(levels, scale, offset), values, atol=3 / 510)
    assert quantisation_error(np.zeros((2, 3)), *quantise(np.zeros((2, 3)))).tolist() == [0, 0]


def test_what_is_read_is_near_what_was_written(original: Path, tmp_path: Path) -> None:
    store = EmbeddingStore.open(original)
    assert store.dtype == np.float16
    assert store.arrays.keys() == SHAPES.keys()
    assert store.meta.to_json()["format"] == 2
    for name in SHAPES:
        errors = store.quantisation_errors(name)
        assert errors.shape == (len(GOOD), 2)
        for row, item in enumerate(GOOD):
            read, wanted = store.read(item, name), feature(name, item)
            assert read.dtype == np.float16
            assert not read.flags.writeable
            assert store.read_stored(item, name).dtype == np.int8
            error, exact = read - wanted.astype(np.float64), wanted.astype(np.float64)
            expected = np.abs(error).max() / np.abs(exact).max(), np.sqrt((error**2).sum() / (exact**2).sum())
            np.testing.assert_allclose(
                errors[row], expected, rtol=0.05, atol=2e-4
            )  # read is rounded once more
            assert 0 < errors[row, 1] < 0.01
    fill(tmp_path / "y.zarr")
    exact = EmbeddingStore.open(tmp_path / "y.zarr")
    np.testing.assert_array_equal(store.pooled, exact.pooled)
    assert exact.meta.to_json()["format"] == 1
    with pytest.raises(StoreError, match="not quantised"):
        exact.quantisation_errors()
    with pytest.raises(StoreError, match="truncated PNG number 3"):
        store.read(3)


def test_any_zarr_reader_can_decode_it(original: Path) -> None:
    group: Any = zarr.open_group(original, mode="r")
    store = EmbeddingStore.open(original)
    stored, scale, offset = (group[name][5] for name in ("early", "early_scale", "early_offset"))
    np.testing.assert_array_equal(
        (stored * scale[:, None, None] + offset[:, None, None]).astype("float16"), store.read(5, "early")
    )
    assert "early_scale" not in group["commit"]


def test_committing_in_parts_and_adding_later_give_the_same_bytes(original: Path, tmp_path: Path) -> None:
    fill(tmp_path / "a" / "x.zarr", commit_seconds=0, dtype="int8")
    assert tree(tmp_path / "a" / "x.zarr") == tree(original)
    later = tmp_path / "b" / "x.zarr"
    fill(later, arrays=("embedding",), dtype="int8")
    before = tree(later)
    fill(later, dtype="int8")
    after = tree(later)
    assert after == tree(original)
    assert {file for file in before if before[file] != after[file]} == {"zarr.json", "mirror/zarr.json"}


def repair(path: Path) -> None:
    with open_for_repair(path) as writer:
        for damage in mend(writer):
            replace_items(writer, damage, {batch: encode(batch) for batch in damage.batches})
        for batch in writer.pending(["embedding", "early"]):
            writer.append(batch, encode(batch), ["embedding", "early"])
        write_annotations(path, samples(), {"mask_mode": "instances"}, lock=writer.lock)


@pytest.mark.parametrize("what", ["flipped", "cut", "deleted"])
def test_damage_is_found_and_mended(path: Path, what: str) -> None:
    whole = tree(path)
    assert verify(path).sound
    assert verify(path).to_json()["committed"] == {"embedding": 13, "early": 13}
    some = [
        name for name in whole if name.split("/")[0].startswith(("embedding", "early")) and "/c.1" in name
    ]
    assert len(some) == 8
    for name in [*some, "commit/embedding/c.2", "embedding_scale/zarr.json"]:
        data = bytearray(whole[name])
        if what == "deleted":
            (path / name).unlink()
        else:
            data[len(data) // 3] ^= 16
            (path / name).write_bytes(data if what == "flipped" else data[: len(data) // 2])
        report = verify(path)
        assert not (report.sound and report.complete), name
        repair(path)
        assert tree(path) == whole, f"{name} {what}"


def test_one_lost_scale_costs_one_batch(path: Path) -> None:
    file = path / "embedding_scale" / "c.1.0"
    data = bytearray(file.read_bytes())
    data[2] ^= 1
    file.write_bytes(data)
    assert verify(path).to_json()["bad"][0]["items"] == [ITEMS[4][0]]
    with pytest.raises(StoreError, match="casam store repair"):
        EmbeddingStore.open(path).read(4)
    with open_for_repair(path) as writer:
        (damage,) = mend(writer)
        assert (damage.arrays, damage.items) == (("embedding",), (4,))
        assert [(batch.start, batch.stop) for batch in damage.batches] == [(4, 7)]


def test_dtype_is_part_of_the_identity(path: Path) -> None:
    identity = EmbeddingStore.open(path).identity["embedding"]
    assert identity == {"shape": [6, 4, 4], "dtype": "int8", "quantisation": "affine, channel and image"}
    with pytest.raises(IdentityMismatchError, match=r'embedding.dtype: "int8" -> "float16"'):
        open_writer(path)
    document = json.loads((path / "embedding" / "zarr.json").read_text())
    assert document["data_type"] == "int8"


def test_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "x.zarr", dtype="int8") as writer:
        writer.plan(ITEMS[:2], 2)
        for name in ("early_scale", "my_error"):
            with pytest.raises(StoreError, match="cannot name a feature array"):
                writer.add_array(name, (3,), "float32")
        for bad in (np.nan, np.inf, 1e6):
            value = np.zeros(SHAPES["embedding"], np.float32)
            value[1, 2, 3] = bad
            result = ItemResult({"embedding": value}, Geometry.fit(9, 9, 64, 16), b"")
            with pytest.raises(StoreError, match="not finite"):
                writer.append(writer.pending()[0], [result] * 2)
