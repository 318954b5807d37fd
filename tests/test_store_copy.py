"""Copies of stores: whole, verified, gone on with; to a folder, and to a server that speaks S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Casam

from casam_cache.errors import HeldError, StoreError
from casam_cache.store.copy import RECORD, copy_stores
from casam_cache.store.files import TEMPORARY
from casam_cache.store.lock import lock_store
from casam_cache.store.places import Bucket, FolderPlace

pytest.importorskip("obstore")
Encode = Callable[..., Any]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def stores(casam: Casam, encode: Encode, discs: Path) -> Path:
    encode(discs)
    return casam.folder / "casam_store"


@pytest.mark.slow
def test_a_folder_and_back_through_a_bucket(casam: Casam, stores: Path, bucket: str) -> None:
    report = casam.json("store", "copy", stores, bucket)
    assert report["stores"] == ["discs/tiny.zarr"]
    assert report["files"] == report["copied"] == len(tree(stores))
    assert casam.json("store", "copy", stores, bucket)["copied"] == 0
    assert casam.json("store", "copy", f"{bucket}/discs/tiny.zarr", "back")["copied"] == report["files"]
    assert tree(casam.folder / "back") == tree(stores)
    fitted = casam.json("fit", "--task", "discs", "--store", "back", "--epochs", 1, "--set", "blocks=1")
    assert fitted["task"] == "discs"


def test_a_flipped_bit_in_the_bucket_is_noticed(casam: Casam, stores: Path, bucket: str) -> None:
    copy_stores(str(stores), bucket)
    name = next(name for name in tree(stores) if "zarr/embedding/c." in name)
    data = bytearray((stores / name).read_bytes())
    data[5] ^= 1
    Bucket(bucket).write(name, bytes(data))
    casam("store", "copy", bucket, "back")
    assert casam.code == 1
    assert f"{bucket}/{name} is damaged" in casam.err
    Bucket(bucket).write(RECORD, b"{}")  # the store's own checksums know it too
    casam("store", "copy", bucket, "back")
    assert casam.code == 1
    assert "is damaged: embedding/c." in casam.err


def test_a_copy_that_was_cut_goes_on(stores: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Bucket.write, []

    def cut(self: Bucket, name: str, data: bytes) -> None:
        if len(written) == 20:
            raise StoreError("the network is gone")
        written.append(name)
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "write", cut)
        with pytest.raises(StoreError, match="network is gone"):
            copy_stores(str(stores), bucket)
    assert "discs/tiny.zarr/zarr.json" not in written, "half a copy is not taken for a store"
    report = copy_stores(str(stores), bucket)
    assert report.copied == report.files - 20


def test_what_is_no_server(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setattr("casam_cache.store.places._PATIENCE", {"max_retries": 0})
    with pytest.raises(StoreError, match=r"s3://lab/stores: .*\n  look at the address"):
        copy_stores(str(stores), "s3://lab/stores")


def test_what_is_refused(casam: Casam, encode: Encode, stores: Path, discs: Path) -> None:
    def refusal(*arguments: object) -> str:
        casam("store", "copy", *arguments)
        assert casam.code == 1
        assert len(casam.err.strip().splitlines()) <= 3
        return casam.err

    assert "no store at" in refusal(discs, "copy")
    assert "both addresses" in refusal("s3://a/b", "s3://c/d")
    assert "no such kind of address" in refusal(stores, "ftp://a/b")
    copy_stores(str(stores), "copy")
    assert tree(Path("copy")) == tree(stores)
    assert copy_stores(str(stores), f"file://{casam.folder}/copy").copied == 0
    encode(discs, "--store", "others", "--dtype", "int8")
    assert "was encoded otherwise" in refusal("others", "copy")
    with lock_store(stores / "discs" / "tiny.zarr"), pytest.raises(HeldError):
        copy_stores(str(stores), "copy")
    shard = next((stores / "discs" / "tiny.zarr" / "embedding").glob("c.*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    assert "nothing was copied" in refusal(stores, "copy")


def test_a_write_that_reads_back_otherwise(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FolderPlace.write
    monkeypatch.setattr(FolderPlace, "write", lambda self, name, data: write(self, name, data[:-1] + b"\0"))
    with pytest.raises(StoreError, match="reads back otherwise"):
        copy_stores(str(stores), "copy")
    assert not [name for name in tree(Path("copy")) if TEMPORARY in name]
