"""Stores in a bucket, used where they are: what is read, what is kept, what is noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam, add_images

from casam_cache.errors import OptionError, StoreError
from casam_cache.store import EmbeddingStore, bucket_cache
from casam_cache.store.bucket_cache import local_stores
from casam_cache.store.bucket_room import GIB, IN_USE, VARIABLE, room
from casam_cache.store.copy import RECORD, copy_stores
from casam_cache.store.places import Bucket

pytest.importorskip("obstore")
Encode = Callable[..., Any]


@pytest.fixture
def stores(casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards of three images."""
    monkeypatch.setenv("CASAM_CACHE_DIR", str(casam.folder / "cache"))
    monkeypatch.setattr("casam_cache.store.writer.shard_length", lambda item_bytes: 3)
    encode(discs)
    return casam.folder / "casam_store"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from buckets from now on."""
    names: list[str] = []
    honest = Bucket.read

    def noted(self: Bucket, name: str) -> bytes | None:
        names.append(name)
        return honest(self, name)

    monkeypatch.setattr(Bucket, "read", noted)
    return names


def shards(names: list[str]) -> set[int]:
    return {int(name.split("/c.")[1].split(".")[0]) for name in names if ".zarr/embedding/c." in name}


def test_shards_are_read_when_they_are_needed_and_once(
    stores: Path,
    bucket: str,
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_stores(str(stores), bucket)
    monkeypatch.setattr(bucket_cache, "AHEAD", 1)
    pool = ThreadPoolExecutor(1)  # what is asked for is done one after the other
    monkeypatch.setattr(bucket_cache, "_pool", lambda: pool)
    here = EmbeddingStore.open(stores / "discs" / "tiny.zarr")
    read.clear()
    there = EmbeddingStore.open(local_stores(bucket) / "discs" / "tiny.zarr")
    assert there.ids == here.ids
    np.testing.assert_array_equal(there.pooled, here.pooled)
    assert shards(read) == set()
    np.testing.assert_array_equal(there.read(4), here.read(4))
    pool.submit(lambda: None).result()
    assert shards(read) == {1, 2}, "the next one is read ahead"
    for item in range(10):
        np.testing.assert_array_equal(there.read(item), here.read(item))
    assert len([name for name in read if ".zarr/embedding/c." in name]) == 4
    read.clear()
    again = EmbeddingStore.open(local_stores(f"{bucket}/discs/tiny.zarr"))
    np.testing.assert_array_equal(again.read(9), here.read(9))
    assert read == [RECORD]


def test_what_changes_in_the_bucket_is_read_anew(
    casam: Casam,
    encode: Encode,
    discs: Path,
    stores: Path,
    bucket: str,
) -> None:
    copy_stores(str(stores), bucket)
    path = local_stores(bucket) / "discs" / "tiny.zarr"
    before = EmbeddingStore.open(path)
    assert len(before) == 10
    before.read(9)
    add_images(discs, 2)
    assert encode(discs)["tasks"][0]["encoded"] == 2
    assert copy_stores(str(stores), bucket).copied
    here = EmbeddingStore.open(stores / "discs" / "tiny.zarr")
    there = EmbeddingStore.open(local_stores(bucket) / "discs" / "tiny.zarr")
    assert len(there) == 12
    for item in range(12):
        np.testing.assert_array_equal(there.read(item), here.read(item))


def test_a_flipped_bit_is_noticed(casam: Casam, stores: Path, bucket: str) -> None:
    copy_stores(str(stores), bucket)
    assert casam.json("store", "verify", f"{bucket}/discs/tiny.zarr")["bad"] == []
    (name,) = (name for name in Bucket(bucket).files() if "zarr/embedding/c.1." in name)
    data = bytearray((stores / name).read_bytes())
    data[5] ^= 1
    Bucket(bucket).write(name, bytes(data))
    casam("store", "verify", f"{bucket}/discs/tiny.zarr")
    assert casam.code == 1
    assert f"{bucket}/{name} is damaged" in casam.err
    Bucket(bucket).write(RECORD, b"{}")  # the store's own checksums know it too
    casam("store", "verify", f"{bucket}/discs/tiny.zarr")
    assert casam.code == 1
    assert "embedding/c.1" in casam.err


def test_a_shard_that_is_replaced_while_it_is_used(stores: Path, bucket: str) -> None:
    copy_stores(str(stores), bucket)
    opened = EmbeddingStore.open(local_stores(bucket) / "discs" / "tiny.zarr")
    (name,) = (name for name in Bucket(bucket).files() if "zarr/embedding/c.0." in name)
    Bucket(bucket).write(name, b"shorter")
    with pytest.raises(StoreError, match=r"c\.0.* was changed while it was in use"):
        opened.read(0)


def test_the_same_address_on_another_server(
    stores: Path, bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process: shards are asked of the server that the environment names now."""
    monkeypatch.setattr(bucket_cache, "AHEAD", 0)
    earlier = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)  # it has the same buckets
    earlier.start()
    host, port = earlier.get_host_and_port()
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        copy_stores(str(stores), bucket)
        there = EmbeddingStore.open(local_stores(bucket) / "discs" / "tiny.zarr")
        there.read(0)
        earlier.stop()
    here = EmbeddingStore.open(stores / "discs" / "tiny.zarr")
    np.testing.assert_array_equal(there.read(9), here.read(9))


@pytest.mark.slow
def test_fits_and_benches_from_a_bucket(casam: Casam, stores: Path, bucket: str) -> None:
    copy_stores(str(stores), bucket)
    short = ("--epochs", 1, "--set", "blocks=1", "--device", "cpu")
    results = {}
    for runs, store in (("here", stores), ("there", bucket)):
        fitted = casam.json("fit", "--task", "discs", "--store", store, "--runs", runs, *short)
        assert casam.code == 0, casam.err
        bench = ("bench", "--methods", "naive", "--tasks", "discs", "--order", "discs", "--unseen", "none")
        rows = casam.json(*bench, "--store", store, "--runs", runs, "--jobs", 2, *short)["results"]
        results[runs] = fitted["test"], fitted["run"].split("/")[-1], [row["last_iou"] for row in rows]
    assert results["here"] == results["there"]


def test_what_is_refused(casam: Casam, discs: Path, bucket: str) -> None:
    for arguments, said in (
        (("encode", discs, "--store", bucket), "stores are written into a folder"),
        (("fit", "--task", "discs", "--store", bucket), f"there are no stores at {bucket}"),
        (("fit", "--task", "discs", "--store", "ftp://lab"), "no such kind of address"),
    ):
        casam(*arguments)
        assert casam.code == 1
        assert said in casam.err


def test_shards_make_room_for_others_but_not_while_they_may_be_in_use(
    stores: Path, bucket: str, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_cache, "AHEAD", 0)
    copy_stores(str(stores), bucket)
    here = EmbeddingStore.open(stores / "discs" / "tiny.zarr")
    path = local_stores(bucket) / "discs" / "tiny.zarr"
    opened = EmbeddingStore.open(path)
    for item in (0, 3, 6):
        opened.read(item)
    files = sorted(path.glob("embedding/c.*"))
    assert len(files) == 3
    said: list[str] = []
    held, limit = room()
    assert 0 < held < limit, "without a limit, half of what is free"
    monkeypatch.setenv(VARIABLE, str((held - 1) / GIB))
    local_stores(bucket, say=said.append)
    assert (said, sorted(path.glob("embedding/c.*"))) == ([], files), "used within the hour"
    for age, file in zip((2, 4, 3), files, strict=True):
        os.utime(file, (time.time() - age * IN_USE,) * 2)
    local_stores(bucket, say=said.append)
    assert sorted(path.glob("embedding/c.*")) == [files[0], files[2]], "the one not used for longest is gone"
    assert len(said) == 1
    assert said[0].startswith("removed 1 shards")
    read.clear()
    EmbeddingStore.open(path).read(0)
    assert time.time() - files[0].stat().st_mtime < IN_USE, "its use is noted"
    np.testing.assert_array_equal(EmbeddingStore.open(path).read(4), here.read(4))
    assert shards(read) == {1}, "what is gone is read again"
    monkeypatch.setenv(VARIABLE, "0")
    for file in path.rglob("*"):
        os.utime(file, (time.time() - 9 * IN_USE,) * 2)
    assert EmbeddingStore.open(local_stores(bucket) / "discs" / "tiny.zarr").ids == here.ids, (
        "small files stay"
    )
    assert not list(path.glob("embedding/c.*"))
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(OptionError, match="CASAM_BUCKET_GIB is 'much'"):
        local_stores(bucket)
