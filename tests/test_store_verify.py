"""`verify` finds every flipped bit, truncation, missing and unknown file; repair gives the old bytes back."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from store_fakes import ITEMS, encode, feature, fill, open_writer, samples, tree

from casam_cache.errors import StoreError
from casam_cache.store import EmbeddingStore, ItemResult, StoreWriter, write_annotations
from casam_cache.store.repair import damaged, mend, open_for_repair, replace_items
from casam_cache.store.verify import verify


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "x.zarr"
    fill(path)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    target = tmp_path / "x.zarr"
    shutil.copytree(original, target)
    return target


def repair(path: Path) -> None:
    """What the encoder does: mend, encode again, go on where a record was lost, refresh the annotations."""
    with open_for_repair(path) as writer:
        for damage in mend(writer):
            replace_items(writer, damage, {batch: encode(batch) for batch in damage.batches})
        for batch in writer.pending(["embedding", "early"]):
            writer.append(batch, encode(batch), ["embedding", "early"])
        write_annotations(path, samples(), {"mask_mode": "instances"}, lock=writer.lock)


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(data)


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_a_whole_store_is_sound(original: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(original, lambda done, total: seen.append((done, total)))
    assert report.sound
    assert report.complete
    assert report.to_json() == {
        "items": 13,
        "bad": [],
        "committed": {"early": 13, "embedding": 13},
        "unfinished": [],
    }
    assert seen[-1] == (4, 4)
    assert "13 items, sound" in report.describe()[-1]


def flip_everything(path: Path, flips: int, repair_each: int) -> None:
    """Flip bits of each file in turn; all are found, and every `repair_each`-th file is mended by repair."""
    whole = tree(path)
    chance = random.Random(5)
    for number, file in enumerate(files(path)):
        name = file.relative_to(path).as_posix()
        data = whole[name]
        bits = [
            (0, 8 * len(data) - 1)[number % 2],
            *(chance.randrange(8 * len(data)) for _ in range(flips - 1)),
        ]
        for bit in bits:
            flip(file, bit)
            report = verify(path)
            assert not report.sound, f"bit {bit} of {name} flipped unseen"
            assert any(name.startswith(problem.file) for problem in report.problems), (
                name,
                report.describe(),
            )
            assert report.to_json()["bad"]
            file.write_bytes(data)
        if number % repair_each == 0:
            flip(file, bits[0])
            repair(path)
            assert tree(path) == whole, f"{name} was not repaired"


def cut_everything(path: Path, each: int) -> None:
    """Truncate and delete each file in turn; all is found and, every `each`-th time, mended."""
    whole = tree(path)
    for number, file in enumerate(files(path)):
        name = file.relative_to(path).as_posix()
        data = whole[name]
        for what in ("truncated", "deleted"):
            file.write_bytes(data[: len(data) // 2]) if what == "truncated" else file.unlink()
            report = verify(path)
            assert not (report.sound and report.complete), f"{name} {what} unseen"
            if what == "truncated":
                assert not report.sound
            if number % each == 0:
                repair(path)
                assert tree(path) == whole, f"{name} was not repaired when {what}"
            else:
                file.write_bytes(data)


def test_every_file_is_covered(path: Path) -> None:
    flip_everything(path, flips=1, repair_each=7)


def test_truncated_and_missing_files(path: Path) -> None:
    cut_everything(path, each=9)


@pytest.mark.slow
def test_every_file_is_covered_at_many_bits(path: Path) -> None:
    flip_everything(path, flips=8, repair_each=1)


@pytest.mark.slow
def test_every_truncated_or_missing_file_is_mended(path: Path) -> None:
    cut_everything(path, each=1)


def test_only_lost_items_are_encoded_again(original: Path, path: Path) -> None:
    file = path / "embedding" / "c.1.0.0.0"
    flip(file, 8 * 10)  # in the first item of the shard
    report = verify(path)
    assert damaged(report) == {"embedding": [(1, (4,))]}
    assert report.to_json()["bad"][0]["items"] == [ITEMS[4][0]]
    with pytest.raises(StoreError, match=r"checksum[\s\S]*casam store verify"):
        EmbeddingStore.open(path).read(4)
    np.testing.assert_array_equal(EmbeddingStore.open(path).read(5), feature("embedding", 5))
    with open_for_repair(path) as writer:
        (damage,) = mend(writer)
        assert [(batch.start, batch.stop) for batch in damage.batches] == [(4, 7)]
        assert damage.arrays == ("embedding",)
        wrong = [ItemResult({"embedding": np.zeros((6, 4, 4))}, None, b"changed")] * 3
        with pytest.raises(StoreError, match=r"'pat2/slice é4' is not the one that was encoded"):
            replace_items(writer, damage, {damage.batches[0]: wrong})
        replace_items(writer, damage, {damage.batches[0]: encode(damage.batches[0])})
    assert tree(path) == tree(original)


def test_a_lost_index_costs_no_encoding(original: Path, path: Path) -> None:
    file = path / "embedding" / "c.0.0.0.0"
    flip(file, 8 * (file.stat().st_size - 20))
    with open_for_repair(path) as writer:
        (damage,) = mend(writer)
        assert damage.batches == ()
        replace_items(writer, damage, {})
    assert tree(path) == tree(original)


def test_a_lost_record_costs_no_encoding(original: Path, path: Path) -> None:
    flip(path / "commit" / "embedding" / "c.2", 3)
    flip(path / "commit" / "early" / "c.0", 3)
    with pytest.raises(StoreError, match="checksum differs"):
        StoreWriter.open(path)
    with open_for_repair(path) as writer:
        assert mend(writer) == []
    assert tree(path) == tree(original)


def test_a_damaged_root_is_refused_and_mended(original: Path, path: Path) -> None:
    flip(path / "zarr.json", 8 * 200)
    with pytest.raises(StoreError, match="damaged"):
        EmbeddingStore.open(path)
    with pytest.raises(StoreError, match="damaged"):
        open_writer(path)
    open_for_repair(path).close()
    assert tree(path) == tree(original)
    flip(path / "zarr.json", 8 * 200)
    flip(path / "mirror" / "zarr.json", 8 * 200)
    with pytest.raises(StoreError):
        verify(path)


def test_both_copies_of_the_items_lost(path: Path) -> None:
    for table in ("item", "mirror"):
        flip(path / table / "id_values" / "c.0", 5)
    report = verify(path)
    assert "#0" in report.ids
    with pytest.raises(StoreError, match="delete it and encode again"), open_for_repair(path) as writer:
        mend(writer)


def test_unknown_files_are_named_and_left_alone(path: Path) -> None:
    (path / "embedding" / "notes.txt").write_text("mine")
    (path / "embedding" / "c.9.0.0.0").write_bytes(b"x")
    report = verify(path)
    assert [problem.file for problem in report.problems] == ["embedding/c.9.0.0.0", "embedding/notes.txt"]
    repair(path)
    assert (path / "embedding" / "notes.txt").exists()


def test_an_unfinished_store_is_sound_but_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    with open_writer(path) as writer:
        writer.plan(ITEMS, 3)
        batch = writer.pending()[0]
        writer.append(batch, encode(batch))
    report = verify(path)
    assert report.sound
    assert not report.complete
    assert "embedding: 3 of 13 images encoded; `casam encode` goes on from there" in report.describe()


def test_swapped_files_are_found(path: Path) -> None:
    """Files that are whole, but in each other's place."""
    first, last = path / "status" / "c.0", path / "status" / "c.1"
    data = first.read_bytes()
    first.write_bytes(last.read_bytes())
    last.write_bytes(data)
    assert not verify(path).sound
