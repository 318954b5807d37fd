"""Volumes through `casam encode`: what the store keeps of them, what it was begun with, and what they cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam
from refusals import tiny
from volume_files import oblique, phantom, write_nifti

from casam_cache.datasets import read_dataset, read_image, read_masks
from casam_cache.datasets.volumes import layout_of, read_volume
from casam_cache.datasets.volumes.held import HELD, Held
from casam_cache.datasets.volumes.slices import SliceName
from casam_cache.store import EmbeddingStore

Encode = Callable[..., Any]


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "CT é"
    for seed in range(2):
        image, label = phantom(seed)
        write_nifti(root / "images" / f"p {seed}.nii.gz", image, oblique(flip="i"))
        write_nifti(root / "labels" / f"p {seed}.nii.gz", label, oblique(flip="i"))
    return root


def test_the_store_knows_where_slices_lie(casam: Casam, encode: Encode, volumes: Path) -> None:
    report = encode(volumes, "--window", "ct:soft")["tasks"][0]
    assert (report["encoded"], report["failed"]) == (10, 0)
    assert "2 volumes (2 nifti), slices axial" in casam.err
    store = EmbeddingStore.open(casam.folder / report["store"])
    assert store.identity["preprocessing"]["intensity"] == "-160,240"
    records = {record["name"]: record for record in store.annotations.attributes["volumes"]}
    assert np.allclose(records["p 0"]["affine"], oblique(flip="i"), atol=1e-6)
    again = np.zeros((*records["p 1"]["shape"],), np.uint8)
    for row, item in enumerate(store.annotations.item):
        name = SliceName.parse(store.paths[int(item)])
        if store.annotations.group(row) == "p 1":
            _, layout = name.open(volumes)
            shown = np.zeros(store.annotations.size[0], np.uint8)
            for mask in store.annotations.masks_of(row):
                shown[store.annotations.mask(int(mask))] = store.annotations.class_id[mask]
            layout.place(again, name.index, shown)
    assert np.array_equal(again, phantom(1)[1])
    assert encode(volumes)["tasks"][0]["encoded"] == 0, "goes on with the window that it was begun with"
    more = encode(volumes, "--slices", "all")["tasks"][0]
    assert more["encoded"] == 4
    other = encode(volumes, "--slices", "all", "--axis", "sagittal")["tasks"][0]
    assert other["encoded"] == 40, "other slices have other ids"


def test_a_changed_window_is_refused(
    casam: Casam, encode: Encode, volumes: Path, tiny_checkpoint: Path
) -> None:
    encode(volumes)
    casam("encode", volumes, "--window", "full", *tiny(tiny_checkpoint))
    assert casam.code == 1
    assert "preprocessing.intensity" in casam.err


def test_slices_cost_themselves_and_not_the_volume(tmp_path: Path) -> None:
    """A volume is decoded once, at the depth of its file; nothing else is as large."""
    shape = (96, 90, 120)
    image, label = phantom(0, shape)
    write_nifti(tmp_path / "images" / "a.nii.gz", image, oblique(), slope=0.5, inter=-10.0)
    write_nifti(tmp_path / "labels" / "a.nii.gz", label, oblique())
    dataset = read_dataset(tmp_path)
    HELD.clear()
    tracemalloc.start()
    for sample in dataset.samples[:3]:
        list(read_masks(dataset, sample, read_image(dataset, sample).shape[:2]))
    held = tracemalloc.get_traced_memory()[0]
    assert held < 1.3 * (image.nbytes + label.nbytes)
    tracemalloc.reset_peak()
    for sample in dataset.samples[3:20]:
        list(read_masks(dataset, sample, read_image(dataset, sample).shape[:2]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - held < 0.3 * image.nbytes


def test_an_uncompressed_file_is_mapped(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", phantom(0)[0], np.eye(4))
    assert isinstance(read_volume(path).stored, np.memmap)
    assert layout_of(read_volume(path)).plane == "axial"


def test_old_volumes_are_given_up() -> None:
    held, made = Held(limit=100), []

    def array(name: str) -> np.ndarray:
        made.append(name)
        return np.zeros(60, np.uint8)

    for name in "aabba":
        held.get(name, lambda name=name: array(name))
    assert made == ["a", "b", "a"]
    held.get("large", lambda: np.zeros(1000, np.uint8))
    assert held.get("large", lambda: pytest.fail("the last one is kept")).size == 1000
