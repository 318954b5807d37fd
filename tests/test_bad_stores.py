"""Stores and disks that cannot be used: one message, exit code 1, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam, draw_dataset
from disks import limited_file_size
from refusals import SHORT, refused, tiny, tree

from casam_cache.store import EmbeddingStore

Encode = Callable[..., Any]


# Stores


@pytest.fixture
def store(casam: Casam, encode: Encode, discs: Path) -> Path:
    return casam.folder / encode(discs)["tasks"][0]["store"]


def test_a_store_of_another_version(casam: Casam, store: Path, discs: Path, tiny_checkpoint: Path) -> None:
    from casam_cache.fingerprint import digest

    for file in (store / "zarr.json", store / "mirror" / "zarr.json"):
        document = json.loads(file.read_text())
        body = {k: v for k, v in document["attributes"]["casam"].items() if k != "digest"}
        body["format"] = 99
        document["attributes"]["casam"] = {**body, "digest": digest(body)}
        file.write_text(json.dumps(document))
    before = tree(store)
    for command in (
        ("store", "info", store),
        ("store", "verify", store),
        ("store", "repair", store, discs),
        ("fit", *SHORT),
        ("encode", discs, *tiny(tiny_checkpoint)),
    ):
        casam(*command)
        refused(casam, "99")
    assert tree(store) == before


def test_what_is_no_store(casam: Casam, discs: Path) -> None:
    (casam.folder / "folder.zarr").mkdir()
    (casam.folder / "file.zarr").write_text("x")
    (casam.folder / "foreign.zarr").mkdir()
    (casam.folder / "foreign.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    for name in ("missing.zarr", "folder.zarr", "file.zarr", "foreign.zarr"):
        for command in (
            ("store", "info", name),
            ("store", "verify", name),
            ("store", "repair", name, discs),
        ):
            casam(*command)
            refused(casam, name)


def test_an_unfinished_store_is_not_trained_on(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
) -> None:
    from casam_cache.store import StoreWriter

    append = StoreWriter.append
    done: list[int] = []

    def stop(self: StoreWriter, *arguments: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        append(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "append", stop)
        casam("encode", discs, *tiny(tiny_checkpoint), "--batch-size", 2)
    assert casam.code == 130
    casam("fit", *SHORT)
    refused(casam, "casam encode")
    encode(discs)
    assert casam.json("fit", *SHORT)["computed"]


# Disks


def read_only(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Makes every change below `root` fail as on a read-only file system (permissions do not stop root)."""
    opens, makes, replaces, unlinks = os.open, os.mkdir, os.replace, os.unlink

    def inside(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).resolve().is_relative_to(root)

    def refuse(path: Any) -> None:
        if inside(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def open_(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return opens(path, flags, *rest, **named)

    def mkdir(path: Any, *rest: Any, **named: Any) -> None:
        refuse(path)
        makes(path, *rest, **named)

    def replace(source: Any, target: Any, **named: Any) -> None:
        refuse(target)
        replaces(source, target, **named)

    def unlink(path: Any, **named: Any) -> None:
        refuse(path)
        unlinks(path, **named)

    for name, function in (("open", open_), ("mkdir", mkdir), ("replace", replace), ("unlink", unlink)):
        monkeypatch.setattr(os, name, function)


def test_a_read_only_store_folder(
    casam: Casam, discs: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = casam.folder / "stores"
    folder.mkdir()
    with monkeypatch.context() as patch:
        read_only(patch, folder)
        casam("encode", discs, *tiny(tiny_checkpoint), "--store", folder)
    refused(casam, "stores", "read-only")
    assert not list(folder.iterdir())


def test_a_read_only_store_can_be_used_but_not_changed(
    casam: Casam, store: Path, discs: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(casam.folder)
    (discs / "images" / "p004.png").write_bytes((discs / "images" / "p003.png").read_bytes())
    with monkeypatch.context() as patch:
        read_only(patch, casam.folder / "casam_store")
        assert casam.json("store", "verify", store)["bad"] == []
        assert casam.json("fit", *SHORT)["computed"]
        casam("encode", discs, *tiny(tiny_checkpoint), "--update")
        refused(casam, "ead-only")
        casam("store", "repair", store, discs)
        refused(casam, "ead-only")
    assert {name: data for name, data in tree(casam.folder).items() if "casam_runs" not in name} == before


@pytest.mark.parametrize("option", ["--store", "--runs", "--sheets", "--out"])
def test_a_file_where_a_folder_should_be(
    casam: Casam, store: Path, discs: Path, tiny_checkpoint: Path, option: str
) -> None:
    (casam.folder / "taken").write_text("mine")
    command: tuple[object, ...] = {
        "--store": ("encode", discs, *tiny(tiny_checkpoint)),
        "--runs": ("fit", *SHORT),
        "--sheets": ("data", "check", discs),
        "--out": ("demo",),
    }[option]
    casam(*command, option, "taken")
    refused(casam, "taken")
    assert (casam.folder / "taken").read_text() == "mine"


def test_a_disk_that_fills_up_in_mid_encode(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    encode(draw_dataset(tmp_path / "before", images=6))
    whole = Path(encode(discs, "--store", "whole", "--with", "early")["tasks"][0]["store"])
    with limited_file_size(35_000):  # the shard of `early` would become 40 kB
        casam("encode", discs, *tiny(tiny_checkpoint), "--batch-size", 1, "--with", "early")
    refused(casam, "discs/tiny.zarr", "File too large")
    assert not EmbeddingStore.open(Path("casam_store/discs/tiny.zarr")).committed("early").all()
    again = encode(discs, "--with", "early")["tasks"][0]
    assert (again["failed"], again["images"]) == (0, 10)
    other = EmbeddingStore.open(whole)
    store = EmbeddingStore.open(again["store"])
    for index in range(10):
        for array in ("embedding", "early"):
            np.testing.assert_allclose(store.read(index, array), other.read(index, array), atol=2e-3)


def test_a_full_disk_says_so(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        casam("encode", discs, *tiny(tiny_checkpoint))
    refused(casam, "casam_store", "No space left", "free some space")
    assert encode(discs)["tasks"][0]["encoded"] == 10


def test_a_disk_that_fills_up_in_mid_fit(casam: Casam, store: Path) -> None:
    whole = casam.json("fit", *SHORT, "--runs", "whole")
    for limit in (2000, 10_000, 40_000):
        with limited_file_size(limit):
            casam("fit", *SHORT)
        refused(casam, "casam_runs", "--runs")
    again = casam.json("fit", *SHORT)
    assert again["computed"]
    assert again["test"] == whole["test"]


def test_a_disk_that_fills_up_under_a_mask(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    command = (
        "predict", discs / "images" / "p004.png", "--box", "5,5,20,20", "--model", "small",
        "--checkpoint", tiny_checkpoint,
    )  # fmt: skip
    with limited_file_size(50):
        casam(*command)
    refused(casam)
    casam(*command)
    assert casam.code == 0, "no half-written mask stands in the way"
