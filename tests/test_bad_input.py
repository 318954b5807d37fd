"""Datasets, checkpoints, names and values that a user can get wrong: one clear message, exit code 1, nothing lost."""

from __future__ import annotations

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
from PIL import Image
from refusals import SHORT, refused, tiny

from casam_cache.store import EmbeddingStore

Encode = Callable[..., Any]


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
        casam(
            "predict",
            discs / "images" / "p004.png",
            "--box",
            "1,1,5,5",
            "--model",
            "small",
            "--checkpoint",
            tiny_checkpoint,
        )
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


# Names and values


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder with one store, which no test changes."""
    from casam_cache.encode.dataset import encode_dataset
    from casam_cache.encode.options import EncodeOptions

    root = tmp_path_factory.mktemp("stores")
    options = EncodeOptions(model="small", checkpoint=tiny_checkpoint, name="tiny")
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
        (("--task", "discs", "--set", "blocks=1,2"), ("one fit takes one value", "casam bench")),
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
