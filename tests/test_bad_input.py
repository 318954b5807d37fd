"""Everything a user can get wrong: one message that names the item and what to do, exit code 1, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Casam, draw_dataset
from disks import limited_file_size
from PIL import Image

from casam_cache.store import EmbeddingStore

Encode = Callable[..., Any]
SHORT = ("--task", "discs", "--epochs", 1, "--set", "blocks=1")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }  # fmt: skip


def refused(casam: Casam, *words: str) -> None:
    """One error of a message and a hint, with all of `words`, exit code 1, no traceback, nothing on stdout."""
    assert casam.code == 1
    assert "Traceback" not in casam.err
    assert casam.err.count("error: ") == 1
    message, _, hint = casam.err[casam.err.index("error: ") :].strip().partition("\n")
    assert len(message) > len("error: ") + 10
    assert hint.strip(), "a hint says what to do"
    for word in words:
        assert word in casam.err
    assert casam.out == "" or set(json.loads(casam.out)) <= {"error", "tasks"}


def tiny(checkpoint: Path) -> tuple[object, ...]:
    return ("--checkpoint", checkpoint, "--name", "tiny")


# Datasets


def test_no_images(casam: Casam, tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "masks").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "file.txt").write_text("x")
    for name in ("empty", "other", "missing", "file.txt"):
        casam("encode", tmp_path / name, *tiny(tiny_checkpoint))
        refused(casam, name)
    assert not (casam.folder / "casam_store" / "empty" / "tiny.zarr").exists()


def test_no_masks_at_all(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    shutil.rmtree(discs / "masks")
    casam("encode", discs, *tiny(tiny_checkpoint))
    refused(casam, "discs", "--unlabelled")
    assert not (casam.folder / "casam_store").exists()


def spoil(discs: Path, how: str) -> str:
    """Makes one item of the dataset bad; returns its id."""
    image, mask = discs / "images" / "p004.png", discs / "masks" / "p004.png"
    if how == "mask missing":
        mask.unlink()
    elif how == "mask of another size":
        Image.new("L", (30, 30)).save(mask)
    elif how == "mask truncated":
        mask.write_bytes(mask.read_bytes()[:-30])
    elif how == "image truncated":
        image.write_bytes(image.read_bytes()[:2000])
    elif how == "image empty":
        image.write_bytes(b"")
    elif how == "text named .png":
        image.write_text("not a picture\n" * 20)
    elif how == "bomb":
        image.write_bytes(bomb(40_000, 40_000))
    elif how == "NaN":
        image.unlink()
        pixels = np.ones((48, 40), np.float32)
        pixels[3, 4] = np.nan
        Image.fromarray(pixels).save(discs / "images" / "p004.tif")
    else:
        raise AssertionError(how)
    return "p004"


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of 1 bit a pixel: a few hundred bytes that ask for gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )  # fmt: skip


BAD_ITEMS = (
    "mask missing",
    "mask of another size",
    "mask truncated",
    "image truncated",
    "image empty",
    "text named .png",
    "bomb",
    "NaN",
)


@pytest.mark.parametrize("how", BAD_ITEMS)
def test_one_bad_item_costs_that_item_alone(casam: Casam, encode: Encode, discs: Path, how: str) -> None:
    name = spoil(discs, how)
    report = encode(discs)["tasks"][0]
    assert casam.code == 0
    assert (report["images"], report["failed"]) == (10, 1)
    assert any(name in line for line in report["problems"])
    assert name in casam.err
    assert "Traceback" not in casam.err
    fitted = casam.json("fit", *SHORT)
    assert fitted["test"]["masks"] == 1, "p005 is left to score"
    shown = casam.json("data", "check", discs)
    assert casam.code == 1
    assert any(problem["sample"] == name for problem in shown["tasks"][0]["problems"])


@pytest.mark.parametrize("how", ["mask missing", "mask truncated", "image truncated"])
def test_strict_makes_a_bad_item_fatal(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path, how: str
) -> None:
    name = spoil(discs, how)
    casam("encode", discs, *tiny(tiny_checkpoint), "--strict")
    refused(casam, name)
    assert encode(discs)["tasks"][0]["failed"] == 1
    casam("encode", discs, *tiny(tiny_checkpoint), "--strict")
    refused(casam, name)


def test_a_bomb_takes_no_memory(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    (discs / "images" / "p004.png").write_bytes(bomb(40_000, 40_000))
    tracemalloc.start()
    try:
        casam("predict", discs / "images" / "p004.png", "--box", "1,1,5,5", "--checkpoint", tiny_checkpoint)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    refused(casam, "p004.png", "40000 x 40000")
    assert peak < 200e6, "4.8 GB would be needed to decode it"


def test_nothing_but_bad_images(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    for path in (discs / "images").iterdir():
        path.write_text("not a picture")
    assert set(casam.json("encode", discs, *tiny(tiny_checkpoint))) == {"error"}
    refused(casam, "casam data check")


def test_constant_images_work(casam: Casam, encode: Encode, discs: Path) -> None:
    for name, value in (("p003", 0), ("p004", 255)):
        Image.new("RGB", (40, 48), (value,) * 3).save(discs / "images" / f"{name}.png")
    Image.fromarray(np.full((48, 40), 700, np.uint16)).save(discs / "images" / "p005.png")
    report = encode(discs)["tasks"][0]
    assert (report["encoded"], report["failed"]) == (10, 0)
    store = EmbeddingStore.open(report["store"])
    assert all(np.isfinite(store.read(index)).all() for index in range(10))
    assert casam.json("fit", *SHORT)["test"]["masks"] == 2


def test_a_wrong_split_table(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    table = discs / "split.csv"
    good = table.read_text()
    for text in (good.replace("p004,test", "p004,tset"), "name,part\np000,train\n"):
        table.write_text(text)
        casam("encode", discs, *tiny(tiny_checkpoint))
        assert casam.code == 1 or "split.csv" in casam.err
        assert "split.csv" in casam.err
        assert "Traceback" not in casam.err
    table.write_text(good.replace("p004,test,patient2", "p004,test,patient0"))
    casam("encode", discs, *tiny(tiny_checkpoint))
    refused(casam, "patient0")


# Checkpoints


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was_run",)


@pytest.mark.parametrize("how", ["other architecture", "truncated", "malicious", "text", "missing"])
def test_a_checkpoint_that_cannot_be_used(
    casam: Casam, discs: Path, tmp_path: Path, tiny_checkpoint: Path, how: str
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    bad = tmp_path / ("bad.pth" if how in ("malicious", "text") else "bad.safetensors")
    if how == "other architecture":
        state = load_file(tiny_checkpoint)
        about = {"architecture": json.dumps({**TINY.to_json(), "width": 64})}
        save_file(state, bad, metadata=about)
    elif how == "truncated":
        bad.write_bytes(tiny_checkpoint.read_bytes()[:-1000])
    elif how == "malicious":
        torch.save({"model": Malicious()}, bad)
    elif how == "text":
        bad.write_text("weights")
    casam("encode", discs, *tiny(bad))
    refused(casam, bad.name)
    assert not (casam.folder / "was_run").exists()
    assert not list(casam.folder.rglob("zarr.json"))
    if how == "malicious":
        bad.write_bytes(pickle.dumps(Malicious()))
        casam("encode", discs, *tiny(bad))
        refused(casam, bad.name)
        assert not (casam.folder / "was_run").exists()


def test_a_checkpoint_for_another_model(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    casam("encode", discs, "--model", "vit_b", "--checkpoint", tiny_checkpoint)
    refused(casam, tiny_checkpoint.name)


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
        "predict", discs / "images" / "p004.png", "--box", "5,5,20,20", "--checkpoint", tiny_checkpoint,
    )  # fmt: skip
    with limited_file_size(50):
        casam(*command)
    refused(casam)
    casam(*command)
    assert casam.code == 0, "no half-written mask stands in the way"


# Names and values


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder with one store, which no test changes."""
    from casam_cache.encode.dataset import encode_dataset
    from casam_cache.encode.options import EncodeOptions

    root = tmp_path_factory.mktemp("stores")
    options = EncodeOptions(checkpoint=tiny_checkpoint, name="tiny")
    encode_dataset(draw_dataset(root / "data" / "discs"), root / "store", options)
    return root / "store"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--task", "discus"), ("discus", "discs")),
        (("--task", "discs", "--model", "vit_b"), ("vit_b", "tiny")),
        (("--task", "discs", "--method", "magic"), ("magic", "alignment", "decoder")),
        (("--task", "discs", "--set", "block=1"), ("block", "blocks=", "learning_rate=")),
        (("--task", "discs", "--set", "blocks=many"), ("blocks", "many")),
        (("--task", "discs", "--set", "blocks=0"), ("blocks",)),
        (("--task", "discs", "--set", "relu=never"), ("relu", "pre", "post")),
        (("--task", "discs", "--set", "blocks"), ("blocks", "key=value")),
        (("--task", "discs", "--set", "epochs=3", "--epochs", "4"), ("epochs", "twice")),
        (("--task", "discs", "--epochs", "0"), ("epochs",)),
        (("--task", "discs", "--evaluate", "train"), ("train", "test", "val")),
        (("--task", "discs", "--device", "tpu"), ("tpu",)),
        (("--task", "discs", "--store", "nowhere"), ("nowhere", "casam encode")),
        (("--task", "discs", "--method", "decoder", "--set", "blocks=1"), ("blocks", "learning_rate=")),
    ],
)
def test_fit_lists_what_there_is(
    casam: Casam, stores: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    report = casam.json("fit", "--store", stores, *options)
    refused(casam, *words)
    assert set(report) == {"error"}
    assert set(report["error"]) == {"message", "hint"}
    assert not list(casam.folder.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "vit_x"), ("vit_x", "vit_b", "small")),
        (("--masks", "stripes"), ("stripes", "components")),
        (("--resize", "crop"), ("resize", "longest", "stretch")),
        (("--precision", "fp8"), ("precision", "bf16")),
        (("--intensity", "loud"), ("loud",)),
        (("--with", "late"), ("early", "tokens")),
        (("--name", "../up"), ("../up",)),
        (("--device", "tpu"), ("tpu",)),
        (("--batch-size", "0"), ("batch_size",)),
        (("--workers", "-1"), ("workers",)),
        (("--test-fraction", "1.5"), ("1.5",)),
        (("--group-regex", "("), ("regex",)),
    ],
)
def test_encode_lists_what_there_is(
    casam: Casam, discs: Path, tiny_checkpoint: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    casam("encode", discs, *tiny(tiny_checkpoint), *options)
    refused(casam, *words)
    assert not (casam.folder / "casam_store").exists()


# Interruptions


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(
    casam: Casam, encode: Encode, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    data = draw_dataset(tmp_path / "discs", images=600)
    command = ["encode", data, *tiny(tiny_checkpoint), "--batch-size", 1]
    process = subprocess.Popen(
        [sys.executable, "-c", "from casam_cli.main import run; run()", *map(str, command)],
        cwd=casam.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    store = casam.folder / "casam_store" / "discs" / "tiny.zarr"
    deadline = time.monotonic() + 120
    while not ((store / "zarr.json").exists() and len(EmbeddingStore.open(store))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "goes on" in err
    done = int(EmbeddingStore.open(store).committed("embedding").sum())
    assert 0 < done < 600
    report = encode(data)["tasks"][0]
    assert (report["images"], report["failed"]) == (600, 0)
    assert report["encoded"] == 600 - done, "nothing that was encoded is encoded again"
