"""Slices' masks put together to volumes: by hand, in any order, and beside the frozen SAM in a table."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from casam_cache.bench.volumes import volume_scores
from casam_cache.errors import CasamError
from casam_cache.geometry import Geometry
from casam_cache.metrics.volumes import score_volume
from casam_cache.report.formats import to_text
from casam_cache.report.layout import Table
from casam_cache.report.volume_table import volume_notes, volume_section
from casam_cache.training.items import Item, ItemMask
from casam_cache.training.outcomes import Outcomes
from casam_cache.training.slices import Slice
from casam_cache.training.volumes import VolumeMasks, read_volumes, volumes_of, write_volumes

SPACING = (3.0, 0.8, 0.5)
SHAPE = (5, 12, 14)


def slice_item(volume: str, index: int, *, spacing=SPACING, step: int = 1) -> Item:
    geometry = Geometry.fit(SHAPE[1], SHAPE[2], 64, 16)
    place = Slice(volume, index, spacing, step)
    return Item(f"{volume}/{index}", "ct", volume, geometry, 1, place=place)


def mask_of(bitmap: np.ndarray, class_id: int = 1, instance: int = 1) -> ItemMask:
    return ItemMask(bitmap, class_id, instance, np.zeros(4, np.float32), np.zeros(2, np.float32))


def volume_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) > 0.6


def outcomes_of(pairs: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]], shuffle: int = 0) -> Outcomes:
    """Of volumes and classes (name, class) with (predicted, truth), added slice by slice in a shuffled order."""
    rows = [(name, index) for name in pairs for index in range(SHAPE[0])]
    np.random.default_rng(shuffle).shuffle(rows)
    masks = VolumeMasks()
    for (volume, class_id), index in [((str(name[0]), int(name[1])), int(index)) for name, index in rows]:
        predicted, truth = pairs[volume, class_id]
        if truth[index].any():
            masks.add(slice_item(volume, index), mask_of(truth[index], class_id), predicted[index])
    return masks.outcomes()


def test_a_volume_is_its_slices_whatever_their_order():
    pairs = {("a", 1): (volume_of(1), volume_of(2)), ("b", 2): (volume_of(3), volume_of(4))}
    found = outcomes_of(pairs)
    assert outcomes_of(pairs, shuffle=9) == found
    assert (found.item, found.class_id, found.group) == (["a", "b"], [1, 2], ["a", "b"])
    for row, (predicted, truth) in enumerate(pairs.values()):
        expected = vars(score_volume(predicted, truth, SPACING))
        assert {name: values[row] for name, values in found.scores.items()} == pytest.approx(expected)
        assert found.area[row] == truth.sum()


def test_objects_of_a_class_are_one_mask_and_slices_between_are_empty():
    truth, predicted = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    truth[0, 2:4, 2:4] = truth[0, 8:10, 8:10] = truth[3, 2:6, 2:6] = True
    predicted[0, 2:4, 2:4] = predicted[3, 2:6, 2:6] = True
    masks = VolumeMasks()
    for instance, rows in enumerate((slice(2, 4), slice(8, 10)), start=1):
        own, answer = np.zeros(SHAPE[1:], bool), np.zeros(SHAPE[1:], bool)
        own[rows, rows] = True
        answer[2:4, 2:4] = instance == 1
        masks.add(slice_item("a", 0), mask_of(own, 1, instance), answer)
    masks.add(slice_item("a", 3), mask_of(truth[3]), predicted[3])
    found = masks.outcomes()
    assert found.area == [24]
    assert found.scores["dice"] == [pytest.approx(2 * 20 / 44)]
    assert found.scores["hd95"] == [pytest.approx(score_volume(predicted, truth, SPACING).hd95)]


def test_every_third_slice_is_stacked_without_gaps():
    plane = np.zeros(SHAPE[1:], bool)
    plane[3:8, 3:8] = True
    masks = VolumeMasks()
    for index in (3, 6, 9):
        masks.add(slice_item("a", index, spacing=(9.0, 1.0, 1.0), step=3), mask_of(plane), plane)
    found = masks.outcomes()
    assert found.area == [75]
    assert found.scores["assd"] == [0.0]


def test_masks_come_back_from_their_files(tmp_path: Path):
    masks = VolumeMasks()
    for index in (4, 1, 3):
        masks.add(slice_item("ä/b", index), mask_of(volume_of(1)[index], 2), volume_of(2)[index])
        masks.add(
            slice_item("c", index, spacing=None, step=1), mask_of(volume_of(3)[index]), volume_of(4)[index]
        )
    masks.write(tmp_path)
    assert VolumeMasks.read(tmp_path).outcomes().to_csv() == masks.outcomes().to_csv()
    (tmp_path / "volume_masks.npy").write_bytes((tmp_path / "volume_masks.npy").read_bytes()[:-9])
    with pytest.raises(CasamError, match="cannot be read"):
        VolumeMasks.read(tmp_path)


def test_images_that_are_no_slices_make_no_volumes():
    alone = replace(slice_item("a", 0), place=None)
    assert volumes_of([alone]) is None
    masks = VolumeMasks()
    masks.add(alone, mask_of(np.ones(SHAPE[1:], bool)), np.ones(SHAPE[1:], bool))
    assert len(masks.outcomes()) == 0


def test_slices_of_other_sizes_are_refused():
    masks = VolumeMasks()
    for index, size in enumerate(((4, 5), (5, 4))):
        masks.add(slice_item("a", index), mask_of(np.ones(size, bool)), np.ones(size, bool))
    with pytest.raises(ValueError, match="slices of a have several sizes"):
        masks.outcomes()


def test_the_table_comes_back_from_its_file(tmp_path: Path):
    found = outcomes_of(
        {("a, ü", 1): (np.zeros(SHAPE, bool), volume_of(2)), ("b", 1): (volume_of(3), volume_of(4))}
    )
    write_volumes(tmp_path, found)
    read = read_volumes(tmp_path)
    assert read.to_csv() == found.to_csv()
    assert math.isnan(read.scores["hd95"][0])


def test_fitted_beside_frozen_over_all_and_by_class():
    truth = {(name, number): volume_of(10 * ord(name) + number) for name in "ab" for number in (1, 2)}
    nothing = np.zeros(SHAPE, bool)
    frozen = outcomes_of(
        {key: (nothing if key == ("a", 1) else volume_of(5), own) for key, own in truth.items()}
    )
    fitted = outcomes_of({key: (own, own) for key, own in truth.items()})
    scores = volume_scores(fitted, frozen)
    assert [one.class_id for one in scores] == [None, 1, 2]
    assert scores[0].fitted["dice"].mean == 1
    assert scores[0].frozen["dice"].mean == pytest.approx(np.mean(frozen.scores["dice"]))
    assert scores[0].frozen["assd"].undefined == 1
    assert scores[1].gain["assd"].values == 1, "the volume without a predicted surface has no paired distance"
    table = Table("fit", "", "task", (volume_section(scores),), tuple(volume_notes(scores)))
    text = to_text(table)
    assert "HD95, mm" in text
    assert "class 2" in text
    assert "Without distances, of 4 volumes and classes: frozen 1, fitted 0." in text


def test_without_spacing_the_table_says_so():
    masks = VolumeMasks()
    plane = np.ones(SHAPE[1:], bool)
    masks.add(slice_item("a", 0, spacing=None), mask_of(plane), plane)
    found = masks.outcomes()
    notes = volume_notes(volume_scores(found, found))
    assert any("No distances" in note for note in notes)
