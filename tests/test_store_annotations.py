"""Annotations: versions by content, run lengths, what is read back."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from store_fakes import fill, open_writer, samples, tree

from casam_cache.errors import HeldError, StoreError
from casam_cache.store import AnnotatedSample, Annotations, EmbeddingStore, write_annotations
from casam_cache.store.flat import ChunkedReader, FlatSpec, chunk_files
from casam_cache.store.runs import decode_runs, encode_runs


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(tmp_path / "x.zarr")
    return tmp_path / "x.zarr"


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_run_lengths_round_trip(bitmap: np.ndarray) -> None:
    runs = encode_runs(bitmap)
    assert runs.dtype == np.uint32
    assert runs.sum() == bitmap.size
    assert (runs[1:] > 0).all()
    np.testing.assert_array_equal(decode_runs(runs, bitmap.shape), bitmap)


@pytest.mark.parametrize(
    ("bitmap", "runs"),
    [
        (np.zeros((2, 3), bool), [6]),
        (np.ones((2, 3), bool), [0, 6]),
        (np.array([[0, 1, 1, 0, 1]], bool), [1, 2, 1, 1]),
        (np.array([[True]]), [0, 1]),
        (np.zeros((0, 5), bool), []),
    ],
)
def test_run_lengths_by_hand(bitmap: np.ndarray, runs: list[int]) -> None:
    assert encode_runs(bitmap).tolist() == runs
    np.testing.assert_array_equal(decode_runs(np.array(runs, np.uint32), bitmap.shape), bitmap)


def test_run_lengths_of_another_size() -> None:
    with pytest.raises(ValueError, match="6 pixels do not make a mask of 2 x 2"):
        decode_runs(np.array([6], np.uint32), (2, 2))


@given(st.integers(0, 40), st.integers(1, 9), st.booleans(), st.data())
def test_chunked_arrays_read_any_range(
    length: int, chunk: int, compressed: bool, data: st.DataObject
) -> None:
    import tempfile

    values = np.arange(length * 2, dtype=np.int32).reshape(length, 2)
    spec = FlatSpec(values.shape, values.dtype, chunk, compressed)
    with tempfile.TemporaryDirectory() as folder:
        for file, parts in chunk_files(Path(folder), values, spec):
            file.write_bytes(b"".join(parts))
        start = data.draw(st.integers(0, length))
        stop = data.draw(st.integers(start, length))
        reader = ChunkedReader(Path(folder), spec)
        np.testing.assert_array_equal(reader.read(start, stop), values[start:stop])
        np.testing.assert_array_equal(reader.all(), values)


def test_what_was_written_is_read(path: Path) -> None:
    annotations = pickle.loads(pickle.dumps(EmbeddingStore.open(path).annotations))
    written = samples()
    assert len(annotations) == 13
    assert annotations.attributes == {"mask_mode": "instances"}
    assert annotations.rows("val").tolist() == [1, 4, 7, 10]
    assert annotations.masks == sum(len(sample.masks) for sample in written)
    assert annotations.sample_sha256.shape == (13, 32)
    for row, sample in enumerate(written):
        assert annotations.item[row] == sample.item
        assert annotations.group(row) == sample.group
        assert annotations.sample_sha256[row].tobytes() == sample.digest()
        found = annotations.masks_of(row)
        assert len(found) == len(sample.masks)
        for index, mask in zip(found, sample.masks, strict=True):
            np.testing.assert_array_equal(annotations.mask(index), mask.bitmap)
            assert annotations.box[index].tolist() == list(mask.box)
            assert annotations.point[index].tolist() == list(mask.point)
            assert annotations.class_id[index] == mask.class_id
            assert annotations.instance[index] == mask.instance
            assert annotations.mask_sample[index] == row


def test_equal_content_is_the_same_version(path: Path) -> None:
    before = tree(path)
    version = write_annotations(path, samples(), {"mask_mode": "instances"})
    assert version == EmbeddingStore.open(path).annotations.version
    assert tree(path) == before


def test_refreshing_leaves_features_and_old_versions(path: Path) -> None:
    before = tree(path)
    old = EmbeddingStore.open(path).annotations.version
    moved = [replace(sample, split="train") for sample in samples()]
    version = write_annotations(path, moved, {"mask_mode": "instances"})
    assert version != old
    store = EmbeddingStore.open(path)
    assert len(store.annotations.rows("train")) == 13
    assert len(Annotations.open(path, old).rows("val")) == 4
    np.testing.assert_array_equal(store.annotations.sample_sha256, Annotations.open(path, old).sample_sha256)
    after = tree(path)
    assert {f for f in before if after[f] != before[f]} == {"annotations/zarr.json"}
    assert write_annotations(path, samples(), {"mask_mode": "instances"}) == old
    assert EmbeddingStore.open(path).annotations.version == old


def test_no_masks_at_all(path: Path) -> None:
    write_annotations(path, [AnnotatedSample(4, "test", "")], {})
    annotations = Annotations.open(path)
    assert len(annotations) == 1
    assert annotations.masks == 0
    assert annotations.masks_of(0).tolist() == []
    assert annotations.box.shape == (0, 4)
    assert annotations.group(0) == ""
    write_annotations(path, [], {})
    assert len(Annotations.open(path)) == 0


def test_they_need_the_lock_and_a_store(path: Path) -> None:
    with open_writer(path), pytest.raises(HeldError, match="is writing"):
        write_annotations(path, samples(), {})
    with pytest.raises(StoreError, match="there is no store"):
        write_annotations(path.parent / "y.zarr", samples(), {})
