"""Writing and reading a store; identity, errors, locks."""

from __future__ import annotations

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from store_fakes import FAILS, IDENTITY, ITEMS, SHAPES, encode, feature, fill, open_writer, tree

from casam_cache.errors import HeldError, IdentityMismatchError, StoreError
from casam_cache.fingerprint import digest
from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore, ItemResult, StoreWriter, attention_pool, find_stores, mean_pool
from casam_cache.store import schema as store_schema


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "task" / "tiny.zarr"


@pytest.fixture
def filled(path: Path) -> Path:
    fill(path)
    return path


def test_what_was_written_is_read(filled: Path) -> None:
    store = EmbeddingStore.open(filled)
    assert len(store) == 13
    assert store.ids == [name for name, _ in ITEMS]
    assert store.paths == [image for _, image in ITEMS]
    assert store.index(ITEMS[5][0]) == 5
    assert store.identity["precision"] == "fp32"
    assert store.embedding_shape == SHAPES["embedding"]
    assert store.dtype == np.float16
    assert set(np.flatnonzero(store.status == 2)) == FAILS
    assert store.failures[3] == "truncated PNG number 3"
    assert store.committed().all()
    assert store.available("early").sum() == 11
    for item in set(range(13)) - FAILS:
        for name in SHAPES:
            view = store.read(item, name)
            np.testing.assert_array_equal(view, feature(name, item))
            assert not view.flags.writeable
            assert not view.flags.owndata
        assert store.geometry(item) == Geometry.fit(40 + item, 64, 64, 16)
        expected = attention_pool(feature("embedding", item), store.geometry(item).valid_grid)
        np.testing.assert_array_equal(store.pooled[item], expected)
    store.require_complete()
    assert find_stores(filled.parent.parent) == [filled]


def test_reader_is_picklable_and_keeps_few_files(filled: Path) -> None:
    store = pickle.loads(pickle.dumps(EmbeddingStore.open(filled, open_shards=1)))
    with ThreadPoolExecutor(4) as pool:
        views = list(pool.map(store.read, [0, 12, 5, 9, 1, 10] * 5))
    np.testing.assert_array_equal(views[1], feature("embedding", 12))
    assert len(store._shards) == 1


def test_reading_what_is_not_there(path: Path) -> None:
    with open_writer(path) as writer:
        writer.plan(ITEMS, 3)
        for batch in writer.pending()[:2]:
            writer.append(batch, encode(batch))
    store = EmbeddingStore.open(path)
    with pytest.raises(StoreError, match=r"4 of 13 images encoded[\s\S]*casam encode"):
        store.read(6)
    with pytest.raises(StoreError, match="truncated PNG number 3"):
        store.read(3)
    with pytest.raises(StoreError, match="4 of 13 images have 'embedding'"):
        store.require_complete()
    with pytest.raises(StoreError, match="no array 'tokens'"):
        store.read(0, "tokens")
    with pytest.raises(StoreError, match="no item 'x'"):
        store.index("x")
    with pytest.raises(StoreError, match="no annotations"):
        _ = store.annotations
    assert not store.has_annotations
    with pytest.raises(IndexError):
        store.read(13)
    with pytest.raises(StoreError, match="there is no store"):
        EmbeddingStore.open(path.parent / "other.zarr")


def test_reader_sees_what_a_writer_adds(path: Path) -> None:
    with open_writer(path, commit_seconds=0) as writer:
        writer.plan(ITEMS, 2)
        first, second = writer.pending()[:2]
        writer.append(first, encode(first))
        store = EmbeddingStore.open(path)
        store.read(0)
        writer.append(second, encode(second))
        np.testing.assert_array_equal(store.read(2), feature("embedding", 2))


def test_batches_never_straddle_shards_or_segments(path: Path) -> None:
    with open_writer(path) as writer:
        writer.plan(ITEMS[:10], 3)
        writer.plan(ITEMS[10:], 3)
        bounds = [(batch.start, batch.stop) for batch in writer.batches()]
        assert bounds == [(0, 3), (3, 4), (4, 7), (7, 8), (8, 10), (10, 12), (12, 13)]
        assert [batch for shard in range(4) for batch in writer.batches(shard)] == list(writer.batches())


def test_committing_in_parts_gives_the_same_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "x.zarr")
    fill(tmp_path / "b" / "x.zarr", commit_seconds=0)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_what_took_as_long_as_a_commit_waits_is_committed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder of half a minute an image: a kill costs the image that it is at, not the one before."""
    now = [100.0]
    monkeypatch.setattr("casam_cache.store.shard_writer.time.monotonic", lambda: now[0])
    with open_writer(tmp_path / "x.zarr", commit_seconds=30.0) as writer:
        writer.plan(ITEMS[:4], 1)
        counts = []
        for seconds, batch in zip((31, 5, 26), writer.pending(), strict=False):
            now[0] += seconds
            writer.append(batch, encode(batch))
            counts.append(int(EmbeddingStore.open(tmp_path / "x.zarr").committed("embedding").sum()))
    assert counts == [1, 1, 3]


def test_an_array_added_later_leaves_the_rest_alone(tmp_path: Path) -> None:
    once, later = tmp_path / "a" / "x.zarr", tmp_path / "b" / "x.zarr"
    fill(once)
    fill(later, arrays=("embedding",))
    before = tree(later)
    fill(later)
    after = tree(later)
    assert after == tree(once)
    assert {file for file in before if before[file] != after[file]} == {"zarr.json", "mirror/zarr.json"}


def test_another_image_is_not_mixed_in(filled: Path) -> None:
    with open_writer(filled) as writer:
        writer.add_array("tokens", (2,), "float32")
        batch = writer.pending(["tokens"])[0]
        results = [
            ItemResult({"tokens": np.zeros(2)}, Geometry.fit(9, 9, 64, 16), b"other") for _ in range(3)
        ]
        with pytest.raises(StoreError, match="is not the one its embedding was made from"):
            writer.append(batch, results, ["tokens"])
        gone = [ItemResult(failure="no longer there") for _ in range(3)]
        writer.append(batch, gone, ["tokens"])
    with pytest.raises(StoreError, match=r"there is no 'tokens' of 'pat0/slice é0'"):
        EmbeddingStore.open(filled).read(0, "tokens")


def test_uncommitted_items_are_pending_again(filled: Path) -> None:
    whole = tree(filled)
    with open_writer(filled) as writer:
        assert writer.pending(["embedding", "early"]) == []
        writer.uncommit([3, 12])
        assert [batch.start for batch in writer.pending(["embedding", "early"])] == [3, 12]
        for batch in writer.pending(["embedding", "early"]):
            writer.append(batch, encode(batch, fails={8}), ["embedding", "early"])
    store = EmbeddingStore.open(filled)
    np.testing.assert_array_equal(store.read(3), feature("embedding", 3))
    with open_writer(filled) as writer:
        writer.uncommit([3])
        for batch in writer.pending(["embedding", "early"]):
            writer.append(batch, encode(batch), ["embedding", "early"])
    left = tree(filled)
    left.pop("failure/c.0.0", None)
    whole.pop("failure/c.0.0")
    assert left == whole


def test_identity_mismatch_shows_what_differs(filled: Path) -> None:
    before = tree(filled)
    with pytest.raises(IdentityMismatchError) as caught:
        StoreWriter.open_or_create(
            filled,
            {**IDENTITY, "precision": "bf16", "resize": "stretch"},
            embedding_shape=SHAPES["embedding"],
            image_size=64,
            patch_size=16,
        )
    message = str(caught.value)
    assert 'precision: "fp32" -> "bf16"' in message
    assert 'resize: (none) -> "stretch"' in message
    assert "weights" not in message
    assert tree(filled) == before


def test_everything_is_synced_before_what_makes_it_count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    opened: dict[int, str] = {}
    synced: set[str] = set()
    replace, open_ = os.replace, os.open

    def spy_open(name: Path, *args: int) -> int:
        descriptor = open_(name, *args)
        opened[descriptor] = str(name)
        return descriptor

    def spy_replace(source: Path, target: Path) -> None:
        file = Path(target).relative_to(path).as_posix()
        assert str(source) in synced, f"{file} was renamed before it was on disk"
        if file.startswith("commit/embedding/c."):
            assert {str(path / "embedding"), str(path / "pooled")} <= synced
        synced.difference_update({str(source), str(Path(target).parent)})
        order.append(file)
        replace(source, target)

    monkeypatch.setattr(os, "open", spy_open)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(opened[descriptor]))
    monkeypatch.setattr(os, "replace", spy_replace)
    fill(path)
    assert order[0] == "zarr.json"
    for shard in range(4):
        record = order.index(f"commit/embedding/c.{shard}")
        assert order.index(f"embedding/c.{shard}.0.0.0") < record
        assert order.index(f"pooled/c.{shard}.0") < record


def test_a_store_of_another_format(filled: Path) -> None:
    meta = store_schema.read_meta(filled)
    body = {**meta.to_json(), "format": 3}
    body.pop("digest")
    body["digest"] = digest(body)
    (filled / "zarr.json").write_bytes(store_schema.render(store_schema.group_document({"casam": body})))
    with pytest.raises(StoreError, match="store format 3; this release reads formats 1 and 2"):
        EmbeddingStore.open(filled)
    with pytest.raises(StoreError, match="store format 3"):
        open_writer(filled)


def test_two_writers(path: Path) -> None:
    with open_writer(path), pytest.raises(HeldError, match=f"process {os.getpid()} on .* is writing"):
        open_writer(path)
    with open_writer(path):
        pass
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-only")])
def test_a_disk_that_refuses(path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    fill(path.parent / "whole.zarr")
    with open_writer(path) as writer:
        writer.plan(ITEMS[:10], 3)
        writer.plan(ITEMS[10:], 3)
        batches = writer.pending()
        writer.append(batches[0], encode(batches[0]))
        writer.commit(0)
    write = os.write

    def refuse(descriptor: int, data: bytes) -> int:
        if len(data) > 200:
            raise OSError(code, os.strerror(code))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(StoreError, match=words):
            fill(path)
    assert not [file for file in path.rglob("*") if file.name.startswith(".tmp")]
    np.testing.assert_array_equal(EmbeddingStore.open(path).read(2), feature("embedding", 2))
    fill(path)
    assert tree(path) == tree(path.parent / "whole.zarr")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="no permission"):
            open_writer(tmp_path / "task" / "tiny.zarr")
    finally:
        tmp_path.chmod(0o700)


def test_bad_uses(path: Path, tmp_path: Path) -> None:
    with open_writer(path) as writer:
        writer.plan(ITEMS[:4], 2)
        with pytest.raises(StoreError, match="planned twice"):
            writer.plan([ITEMS[0]], 2)
        with pytest.raises(StoreError, match="cannot name a feature array"):
            writer.add_array("pooled", (1,))
        first, second = writer.pending()
        with pytest.raises(ValueError, match="out of order"):
            writer.append(second, encode(second))
        with pytest.raises(ValueError, match="2 items"):
            writer.append(first, [])
        nan = np.full(SHAPES["embedding"], np.nan, np.float16)
        bad = [ItemResult({"embedding": nan}, Geometry.fit(9, 9, 64, 16), b"")] * 2
        with pytest.raises(StoreError, match="not finite"):
            writer.append(first, bad)
        writer.add_array("early", SHAPES["early"])
        with pytest.raises(StoreError, match="'early' holds"):
            writer.add_array("early", (3,))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty and not a store"):
        open_writer(tmp_path / "notes")
    with pytest.raises(StoreError, match="is a file"):
        open_writer(tmp_path / "notes" / "a.txt")


def test_poolings() -> None:
    z = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float16)
    cells = z[:, :2, :3].reshape(5, -1).astype(np.float64)
    scores = np.sqrt((cells**2).sum(0)) / (5 * 0.5)
    weights = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(attention_pool(z, (2, 3), temperature=0.5), cells @ weights, rtol=1e-6)
    np.testing.assert_allclose(mean_pool(z, (2, 3)), cells.mean(1), rtol=1e-6)
    assert attention_pool(z).dtype == np.float32


def test_many_items_list_quickly(path: Path) -> None:
    import time

    items = [(f"patient{i // 100:05d}/slice{i % 100:03d}", f"images/{i}.png") for i in range(100_000)]
    with open_writer(path, shard_items=1024) as writer:
        writer.plan(items, 8)
    start = time.perf_counter()
    store = EmbeddingStore.open(path)
    opened = time.perf_counter()
    assert store.ids == [name for name, _ in items]
    assert opened - start < 0.5
    assert time.perf_counter() - opened < 3
