"""Pipes, sockets, devices, links that lead nowhere, names that are no text, endless decoders: one file's matter."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam
from PIL import Image

from casam_cache.datasets import DatasetOptions, find_tasks, read_dataset
from casam_cache.datasets.base import Reader
from casam_cache.datasets.check import check_dataset
from casam_cache.datasets.contact_sheet import contact_sheet
from casam_cache.datasets.images import image_size, load_image
from casam_cache.datasets.listing import walk
from casam_cache.datasets.regular_files import check_regular
from casam_cache.datasets.time_limit import VARIABLE, limit_seconds, within_limit
from casam_cache.encode.decode import Preprocessing, decode, decoding_pool, source_sha256
from casam_cache.errors import ImageError
from casam_cache.printable import printable

Encode = Callable[..., Any]
KINDS = ("pipe", "socket", "zero", "self", "loop", "gone")
SAYS = {
    "pipe": "a named pipe, not a file", "socket": "a socket, not a file", "zero": "a link to a device, not a file",
    "self": "a link that leads to itself", "loop": "a link that leads to itself",
    "gone": "a link to a file that does not exist",
}  # fmt: skip
pytestmark = pytest.mark.timeout(60)


def place(path: Path, kind: str) -> None:
    """One of `KINDS` at a path."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    elif kind == "loop":
        path.symlink_to(path.with_suffix(".other"))
        path.with_suffix(".other").symlink_to(path)
    else:
        path.symlink_to({"zero": Path("/dev/zero"), "self": path, "gone": path.with_suffix(".gone")}[kind])


def make(root: Path, *hostile: str, of: str = "images") -> Path:
    """Two good images, and one for each kind whose image or mask is no file."""
    for name in ("a", "b", *hostile):
        for kind in ("images", "masks"):
            path = root / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in hostile and kind == of:
                place(path, name)
            elif kind == "images":
                noise = np.random.default_rng(len(name)).integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(noise).save(path)
            else:
                mask = np.zeros((40, 50), np.uint8)
                mask[10:20, 10:30] = 255
                Image.fromarray(mask).save(path)
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    place(tmp_path / "a.png", kind)
    for act in (load_image, image_size, check_regular):
        with pytest.raises(ImageError, match=f"{tmp_path / 'a.png'}: {SAYS[kind]}") as error:
            act(tmp_path / "a.png")
        assert error.value.hint


@pytest.mark.parametrize("of", ["images", "masks"])
def test_it_stops_no_check(tmp_path: Path, of: str) -> None:
    root = make(tmp_path / "set", *KINDS, of=of)
    dataset = read_dataset(root)
    report = check_dataset(dataset)
    said = {problem.path: problem.message for problem in report.problems if problem.severity == "error"}
    assert said == {f"{of}/{kind}.png": SAYS[kind] for kind in KINDS}
    assert report.objects == 2 if of == "masks" else report.objects >= 2
    assert contact_sheet(dataset, tmp_path / "sheet.png").exists()
    names = [name for name, _, _ in dataset.reader.files(root)]
    assert {f"{of}/{kind}.png" for kind in KINDS} <= set(names)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_it_stops_no_encoding(tmp_path: Path, casam: Casam, encode: Encode, workers: str) -> None:
    root = make(tmp_path / "set", *KINDS)
    report = encode(root, "--workers", workers)["tasks"][0]
    assert (report["encoded"], report["failed"]) == (2, len(KINDS))
    for kind in KINDS:
        assert any(f"images/{kind}.png: {SAYS[kind]}" in line for line in report["problems"])
    again = encode(root)["tasks"][0]
    assert (again["encoded"], again["skipped"], again["failed"]) == (0, 2, len(KINDS))
    (root / "images" / "a.png").unlink()
    place(root / "images" / "a.png", "pipe")
    encode(root)
    assert casam.code == 1
    assert "1 images have changed" in casam.err
    shards = (
        path for path in Path(report["store"]).rglob("*") if path.is_file() and "embedding" in str(path)
    )
    shard = max(shards, key=lambda path: path.stat().st_size)
    shard.unlink()
    casam("store", "repair", report["store"], root)
    assert casam.code == 1
    assert "the image of 'a' is not the one that was encoded" in casam.err


def test_masks_that_are_no_files_stop_no_encoding(tmp_path: Path, encode: Encode) -> None:
    report = encode(make(tmp_path / "set", *KINDS, of="masks"))["tasks"][0]
    assert report["masks"] == 2
    for kind in KINDS:
        assert any(f"masks/{kind}.png: {SAYS[kind]}" in line for line in report["problems"])


def test_links_that_lead_to_themselves_are_no_folders(tmp_path: Path) -> None:
    root = make(tmp_path / "sets" / "one")
    (tmp_path / "sets" / "self").symlink_to(tmp_path / "sets" / "self")
    assert find_tasks(tmp_path / "sets") == [root]
    (root / "images" / "self").symlink_to(root / "images" / "self")
    assert "self" in [name for name, _ in walk(root / "images")]


class Hanging(Reader):
    """Opens a pipe that nobody writes to, as a library would that was given one."""

    name = "hanging"

    def recognises(self, path: Path) -> bool:
        return True

    def read(self, path: Path, task: str, options: DatasetOptions, progress: Any = None) -> Any:
        raise NotImplementedError

    def image(self, root: Path, source: str, max_pixels: int) -> np.ndarray:
        if source == "good":
            return np.zeros((4, 4), np.uint8)
        return np.frombuffer((root / "pipe").read_bytes(), np.uint8)

    def masks(self, dataset: Any, sample: Any, size: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("workers", [0, 1])
def test_a_decoder_that_never_ends_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv(VARIABLE, "0.5")
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    preprocessing = Preprocessing(64, 16, "longest", "auto", 10**6, reader=Hanging())
    with decoding_pool(workers) as pool:
        bad, good = (pool.submit(decode, tmp_path, name, preprocessing) for name in ("bad", "good"))
        assert "bad: not decoded after 0.5 seconds, given up" in bad.result().failure
        assert good.result().pixels is not None
    assert time.monotonic() - began < 30
    assert source_sha256(Hanging(), tmp_path, "bad", 10**6) == bytes(32)


def test_a_pipe_that_takes_the_place_of_a_file_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0.3")
    monkeypatch.setattr(
        "casam_cache.datasets.images.check_regular", lambda path: None
    )  # as if it came just after
    os.mkfifo(tmp_path / "a.png")
    for act in (load_image, image_size):
        with pytest.raises(ImageError, match=r"a\.png: not decoded after 0\.3 seconds"):
            act(tmp_path / "a.png")


def test_the_limit_hands_on_results_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert limit_seconds() == 300
    for wrong in ("", "soon", "-3", "nan", "inf", "1e300"):
        monkeypatch.setenv(VARIABLE, wrong)
        assert limit_seconds() == 300
    assert within_limit(tmp_path, lambda: 3) == 3

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        within_limit(tmp_path, fail)
    before = threading.active_count()
    for _ in range(20):
        within_limit(tmp_path, lambda: None)
    assert threading.active_count() <= before


NAMES = (
    b"\xff\xfe.png",
    b"\x1b[31mred\x1b[0m.png",
    b"a\nb.png",
    b"bell\x07.png",
    "\u202egnp.exe".encode() + b".png",
)


def test_names_that_are_no_text_are_escaped_everywhere(tmp_path: Path, casam: Casam, encode: Encode) -> None:
    root = make(tmp_path / "set")
    for name in NAMES:
        shutil.copy(root / "images" / "a.png", os.fsencode(root / "images") + b"/" + name)
    casam("data", "check", root)
    assert casam.code == 1
    shown = casam.out + casam.err
    assert all(one.isprintable() or one == "\n" for one in shown)
    for escaped in (
        r"\xff\xfe.png",
        r"\x1b[31mred\x1b[0m.png",
        r"a\nb.png",
        r"bell\x07.png",
        r"\u202egnp.exe.png",
    ):
        assert f"images/{escaped}: a file name that is not printable text" in shown
    report = encode(root)["tasks"][0]
    assert (report["encoded"], report["failed"]) == (2, len(NAMES))
    casam("encode", tmp_path / "no\x1b[2Jthing")
    assert casam.code == 1
    assert r"no\x1b[2Jthing" in casam.err
    assert "\x1b" not in casam.err


def test_printable_text_stays() -> None:
    assert printable("Bild 1 é 漢.png") == "Bild 1 é 漢.png"
    assert printable("a\tb\n", "\n") == "a\\tb\n"
