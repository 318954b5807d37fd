"""Other readers: zarr-python and tensorstore open every array; shards are what zarr-python reads and writes."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from store_fakes import FAILS, fill

from casam_cache.store import EmbeddingStore
from casam_cache.store.files import checksum, seal
from casam_cache.store.schema import ArraySpec, array_document, render
from casam_cache.store.shard import Shard, encode_shard

DOCUMENT = Path(__file__).parents[1] / "docs" / "store-format.md"


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(tmp_path / "x.zarr")
    return tmp_path / "x.zarr"


def by_tensorstore(folder: Path) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    found: Any = tensorstore.open(spec, open=True).result().read().result()
    return np.asarray(found)


def test_every_array_opens_in_both(path: Path) -> None:
    store = EmbeddingStore.open(path)
    group: Any = zarr.open_group(path, mode="r")
    names = [p.parent for p in path.rglob("zarr.json") if json.loads(p.read_text())["node_type"] == "array"]
    assert len(names) > 25
    for folder in names:
        name = folder.relative_to(path).as_posix()
        np.testing.assert_array_equal(group[name][...], by_tensorstore(folder), err_msg=name)
    for name in store.arrays:
        whole = group[name][...]
        for item in range(len(store)):
            expected = np.zeros_like(whole[0]) if item in FAILS else store.read(item, name)
            np.testing.assert_array_equal(whole[item], expected)
    np.testing.assert_array_equal(group["pooled"][...], store.pooled)
    np.testing.assert_array_equal(group["status"][...], store.status)
    np.testing.assert_array_equal(group["geometry"][...], store.sizes)
    np.testing.assert_array_equal(group["source_sha256"][...], store.source_sha256)
    version = group[f"annotations/{store.annotations.version}"]
    np.testing.assert_array_equal(version["box"][...], store.annotations.box)
    assert group["commit/embedding"][...].tolist() == [4, 4, 4, 1]
    assert group.attrs["casam"]["identity"]["precision"] == "fp32"


def test_a_store_with_nothing_in_it_opens(tmp_path: Path) -> None:
    from store_fakes import open_writer

    open_writer(tmp_path / "x.zarr").close()
    group: Any = zarr.open_group(tmp_path / "x.zarr", mode="r")
    assert group["embedding"].shape == (0, 6, 4, 4)
    assert by_tensorstore(tmp_path / "x.zarr" / "embedding").shape == (0, 6, 4, 4)
    store = EmbeddingStore.open(tmp_path / "x.zarr")
    assert store.ids == []
    assert store.status.shape == (0,)
    store.require_complete()


dtypes = st.sampled_from(["float16", "float32", "int8", "uint8", "int32"])


@st.composite
def shards(draw: st.DrawFn) -> tuple[np.ndarray, list[bool]]:
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4)))
    values = draw(arrays(np.dtype(draw(dtypes)), shape))
    present = draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0]))
    return values, present


@settings(max_examples=40, deadline=None)
@given(shards())
def test_shards_are_zarrs_and_zarrs_are_ours(case: tuple[np.ndarray, list[bool]]) -> None:
    values, present = case
    spec = ArraySpec(values.shape[1:], values.dtype)
    document = array_document(values.dtype, values.shape, len(values), sharded=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "ours"
        folder.mkdir()
        (folder / "zarr.json").write_bytes(render(document))
        chunks = [seal(value) if there else None for value, there in zip(values, present, strict=True)]
        (folder / "c.0.0.0").write_bytes(b"".join(encode_shard(chunks)))
        expected = np.where(np.array(present)[:, None, None], values, values.dtype.type(0))
        np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[...], expected)
        shard = Shard(folder / "c.0.0.0", spec, len(values))
        assert shard.present.tolist() == present
        assert shard.is_tight()
        for position in np.flatnonzero(present):
            np.testing.assert_array_equal(shard.read(int(position)), values[position])
        theirs = Path(name) / "theirs"
        theirs.mkdir()
        (theirs / "zarr.json").write_bytes(render(document))
        written_by_zarr: Any = zarr.open_array(theirs, mode="r+")
        written_by_zarr[...] = values
        if (theirs / "c.0.0.0").exists():  # zarr-python leaves out chunks that are all fill value
            written = Shard(theirs / "c.0.0.0", spec, len(values))
            for position in np.flatnonzero(written.present):
                np.testing.assert_array_equal(written.read(int(position)), values[position])


def test_checksum_is_crc32c() -> None:
    assert checksum(b"123456789") == 0xE3069283
    assert checksum(b"1234", np.frombuffer(b"56789", np.uint8)) == 0xE3069283


def test_the_documents_code_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S)
    assert len(blocks) >= 3
    monkeypatch.chdir(path.parent)
    path.rename(path.parent / "vit_b.zarr")
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), {})
