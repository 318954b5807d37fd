"""The example of docs/own-reader.md, as a user would run it; readers that are chosen, repaired with, and refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam, draw_dataset
from PIL import Image
from refusals import refused

from casam_cache.datasets import Dataset, Sample, find_reader, read_dataset
from casam_cache.datasets.base import Reader, check_inside
from casam_cache.datasets.folder import FolderReader
from casam_cache.datasets.registry import READERS
from casam_cache.datasets.testing import ReaderContract
from casam_cache.errors import CasamError, DatasetError, OptionError
from casam_cache.fingerprint import digest_file
from casam_cache.store import EmbeddingStore

DOCUMENT = Path(__file__).parent.parent / "docs" / "own-reader.md"
EXAMPLE, CONTRACT = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
Encode = Callable[..., Any]
READER = ("--reader", "my_reader.py:Volumes")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """As in a new process: no file of a user's has been run yet."""
    yield
    for name in [name for name in sys.modules if name.startswith("casam_file_")]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "my_reader.py"
    path.write_text(EXAMPLE)
    return path


def write_volume(folder: Path, name: str, seed: int) -> Path:
    """Three slices with a bright disc that moves."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :48]
    image, label = rng.integers(-200, 0, (3, 40, 48)).astype(np.int16), np.zeros((3, 40, 48), np.uint8)
    for z, (cy, cx) in enumerate(rng.integers(12, 28, (3, 2))):
        label[z] = (y - cy) ** 2 + (x - cx) ** 2 < 64
    path = folder / f"{name}.npz"
    np.savez_compressed(path, image=image + 700 * label.astype(np.int16), label=label)
    return path


@pytest.fixture
def volumes(tmp_path: Path, casam: Casam, example: Path) -> Path:
    """Six volumes in a folder named `ct`, and the reader in the folder that commands run in."""
    shutil.copy(example, casam.folder / "my_reader.py")
    for number in range(6):
        write_volume(tmp_path / "data" / "ct", f"ct{number}", number)
    return tmp_path / "data" / "ct"


def damage(store: Path) -> tuple[Path, bytes]:
    """Flips a bit of the first embedding; returns the file and what it held."""
    shard = next(path for path in sorted((store / "embedding").rglob("*")) if path.name != "zarr.json")
    while shard.is_dir():
        shard = next(iter(sorted(shard.iterdir())))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    return shard, whole


class TestFolderReader(ReaderContract):
    reader = "folder"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        picture = np.random.default_rng(seed).integers(0, 255, (20, 24, 3)).astype(np.uint8)
        for kind, array in (("masks", (picture[..., 0] > 99).astype(np.uint8) * 255), ("images", picture)):
            (folder / kind).mkdir(exist_ok=True)
            path = folder / kind / f"{name}.png"
            Image.fromarray(array).save(path)
        return path


class TestVolumes(ReaderContract):
    @pytest.fixture(autouse=True)
    def _named(self, example: Path) -> None:
        type(self).reader = f"{example}:Volumes"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        return write_volume(folder, name, seed)


def test_the_documented_contract_test_passes(example: Path) -> None:
    (example.parent / "test_it.py").write_text(CONTRACT)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=example.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout


def test_a_volume_added_later_is_encoded_and_fitted(casam: Casam, encode: Encode, volumes: Path) -> None:
    report = encode(volumes, *READER)["tasks"][0]
    assert (report["images"], report["encoded"], report["failed"], report["masks"]) == (18, 18, 0, 18)
    assert encode(volumes, *READER)["tasks"][0]["encoded"] == 0
    write_volume(volumes, "ct6", 6)
    more = encode(volumes, *READER)["tasks"][0]
    assert (more["images"], more["encoded"], more["skipped"]) == (21, 3, 18)
    store = EmbeddingStore.open(casam.folder / more["store"])
    assert store.ids[-1] == "ct6/0002"
    assert store.paths[-1] == "ct6.npz#2"
    recorded = store.annotations.attributes["reader"]
    assert recorded == {"name": "volumes", "revision": digest_file(casam.folder / "my_reader.py")}
    groups, splits = store.annotations.groups, store.annotations.split
    assert all(len({s for g, s in zip(groups, splits, strict=True) if g == group}) == 1 for group in groups)
    fitted = casam.json("fit", "--task", "ct", "--epochs", 1, "--method", "alignment")
    assert casam.code == 0, casam.err
    assert fitted["computed"]


def test_nothing_to_do_is_said_without_torch(
    casam: Casam, encode: Encode, volumes: Path, tiny_checkpoint: Path
) -> None:
    encode(volumes, *READER)
    arguments = [
        "encode",
        str(volumes),
        "--model",
        "small",
        "--checkpoint",
        str(tiny_checkpoint),
        "--name",
        "tiny",
        *READER,
    ]
    code = (
        f"import sys; sys.argv = ['casam', *{arguments}]\nfrom casam_cli.main import run\n"
        "try:\n    run()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=casam.folder, capture_output=True, text=True, check=False
    )
    assert "nothing to do" in done.stderr
    assert done.stdout.strip() == "False"


def test_only_the_slices_that_changed_are_encoded_again(casam: Casam, encode: Encode, volumes: Path) -> None:
    encode(volumes, *READER)
    with np.load(volumes / "ct3.npz") as arrays:
        image, label = arrays["image"].copy(), arrays["label"]
    image[1, 5, 5] += 900
    np.savez_compressed(volumes / "ct3.npz", image=image, label=label)
    encode(volumes, *READER)
    refused(casam, "1 images have changed", "ct3/0001", "--update")
    assert encode(volumes, *READER, "--update")["tasks"][0]["encoded"] >= 1


def test_another_text_of_the_reader_is_compared_by_pixels(
    casam: Casam, encode: Encode, volumes: Path
) -> None:
    encode(volumes, *READER)
    (casam.folder / "my_reader.py").write_text(EXAMPLE + "\n# the same, in other words\n")
    assert encode(volumes, *READER)["tasks"][0]["encoded"] == 0
    changed = EXAMPLE.replace("return image[int(z)], label", "return image[int(z)][::-1], label")
    assert changed != EXAMPLE
    (casam.folder / "my_reader.py").write_text(changed)
    encode(volumes, *READER)
    refused(casam, "18 images have changed", "--update")


def test_processes_decode_with_the_reader_and_get_the_same_bits(
    casam: Casam, encode: Encode, volumes: Path
) -> None:
    encode(volumes, *READER)
    one = EmbeddingStore.open(casam.folder / "casam_store" / "ct" / "tiny.zarr")
    encode(volumes, *READER, "--store", "other", "--workers", 1)
    other = EmbeddingStore.open(casam.folder / "other" / "ct" / "tiny.zarr")
    assert other.ids == one.ids
    assert all(np.array_equal(one.read(index), other.read(index)) for index in range(len(one)))
    assert np.array_equal(one.source_sha256, other.source_sha256)


def test_a_bad_volume_is_reported_and_the_rest_encoded(casam: Casam, encode: Encode, volumes: Path) -> None:
    (volumes / "ct2.npz").write_bytes((volumes / "ct2.npz").read_bytes()[:200])
    report = encode(volumes, *READER)["tasks"][0]
    assert (report["encoded"], report["failed"]) == (15, 1)
    assert any("ct2.npz" in line for line in report["problems"])
    checked = casam.json("data", "check", volumes, *READER)
    assert casam.code == 1
    assert checked["tasks"][0]["images"] == 15
    assert checked["tasks"][0]["kinds"] == {"grey 16 bit": 15}
    assert [problem["path"] for problem in checked["tasks"][0]["problems"]] == ["ct2.npz"]
    assert Path(checked["contact_sheets"]["ct"]).exists()


def test_repair_needs_the_reader_named_again(casam: Casam, encode: Encode, volumes: Path) -> None:
    encode(volumes, *READER)
    store = casam.folder / "casam_store" / "ct" / "tiny.zarr"
    shard, whole = damage(store)
    casam("store", "repair", store, volumes)
    refused(casam, "volumes", "--reader FILE.py:CLASS")
    assert casam.json("store", "repair", store, volumes, *READER)["repaired"] == 1
    assert shard.read_bytes() == whole


def test_a_store_does_not_name_a_file_to_run(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(discs)
    store = casam.folder / "casam_store" / "discs" / "tiny.zarr"
    damage(store)
    (casam.folder / "evil.py").write_text("open('run', 'w')\n")
    told = {"name": "evil.py:Evil", "revision": 1}
    monkeypatch.setattr("casam_cache.encode.repair.recorded_reader", lambda store: told)
    casam("store", "repair", store, discs)
    refused(casam, "evil.py:Evil", "--reader")
    assert not (casam.folder / "run").exists()


def test_a_name_in_a_store_that_leaves_the_dataset_is_refused(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(discs)
    store = casam.folder / "casam_store" / "discs" / "tiny.zarr"
    damage(store)
    monkeypatch.setattr(EmbeddingStore, "paths", [f"../discs/images/p{i:03d}.png" for i in range(10)])
    casam("store", "repair", store, discs)
    refused(casam, "'../discs/images/p000.png'", "outside the dataset folder")
    for name in ("/etc/passwd", "a/../../b.png", ""):
        with pytest.raises(DatasetError, match="outside the dataset folder"):
            check_inside(name)
    check_inside("images/a..b.png")


class Other(FolderReader):
    """Recognises folders of scans."""

    name = "other"

    def recognises(self, path: Path) -> bool:
        return (path / "scans").is_dir()


class Second(Other):
    name = "second"


class Outside(FolderReader):
    name = "outside"

    def read(self, path: Path, task: str, options: Any, progress: Any = None) -> Dataset:
        return Dataset(task, path, (Sample("a", "../a.png", "train", "a"),), "binary")


def test_readers_are_chosen_by_the_folder_or_by_name(
    tmp_path: Path, casam: Casam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(READERS, "_registered", {})
    (tmp_path / "set" / "scans").mkdir(parents=True)
    assert find_reader(tmp_path / "set") is None
    READERS.register(Other)
    assert isinstance(find_reader(tmp_path / "set"), Other)
    READERS.register(Second)
    casam("data", "check", tmp_path / "set")
    refused(casam, "several readers: other, second", "--reader other")
    assert type(find_reader(tmp_path / "set", "second")) is Second
    with pytest.raises(OptionError, match="unknown reader 'thrid'") as unknown:
        find_reader(tmp_path / "set", "thrid")
    assert {"folder", "other", "second"} <= set(re.split(r"[ ,]+", unknown.value.hint))
    (tmp_path / "set" / "images").mkdir()  # images alone, whose masks another reader may know
    monkeypatch.setattr(READERS, "_registered", {"other": Other})
    assert type(find_reader(tmp_path / "set")) is Other
    shutil.rmtree(tmp_path / "set" / "images")
    draw_dataset(tmp_path / "set")
    with pytest.raises(DatasetError, match="several readers: folder, other") as several:
        find_reader(tmp_path / "set")
    assert several.value.hint == "choose one: --reader folder or --reader other"
    monkeypatch.setattr(Other, "precedence", 2)  # the layout of one data set
    assert type(find_reader(tmp_path / "set")) is Other
    casam("encode", tmp_path, "--reader", "folder", "--model", "small", "--name", "tiny", "--dry-run")
    assert casam.code == 0, casam.err
    casam("encode", tmp_path / "set" / "masks", "--reader", "other")
    refused(casam, "no dataset of the reader 'other'")


@pytest.mark.parametrize("reason", ["no such thing here", ""], ids=["fails", "is gone"])
def test_an_installed_reader_that_cannot_be_imported(
    casam: Casam, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """It may be the one that a folder is meant for: no other is taken in its place, unless by name."""
    if reason:
        Path("lost_readers.py").write_text(f"raise RuntimeError({reason!r})\n")
        monkeypatch.syspath_prepend(str(casam.folder))
    lost = EntryPoint("lost", "lost_readers:Lost", READERS.group)
    installed = READERS._installed()
    monkeypatch.setattr(READERS, "_installed", lambda: {**installed, "lost": lost})
    draw_dataset(casam.folder / "set")
    casam("data", "check", "set")
    refused(
        casam, f"reader 'lost' (lost_readers:Lost) cannot be imported: {'RuntimeError' if reason else 'Module'}",
        "--reader folder",
    )  # fmt: skip
    casam("data", "check", "set", "--reader", "folder")
    assert casam.code == 0, casam.err


def test_what_no_store_could_keep_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(READERS, "_registered", {})
    with pytest.raises(DatasetError, match="outside the dataset folder"):
        read_dataset(draw_dataset(tmp_path / "set"), reader=Outside())

    class Unfinished(Reader):
        name = "unfinished"

    with pytest.raises(CasamError, match="does not define image, masks, read, recognises"):
        READERS.register(Unfinished)
