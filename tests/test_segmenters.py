"""Heads without prompts: targets of all masks at once, what is learnt from them, scores, and what people are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import TINY, Casam, draw_dataset
from PIL import Image
from volume_files import oblique, phantom, write_nifti

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.bench.class_maps import ClassMapPredictor
from casam_cache.datasets.volumes import layout_of, read_volume
from casam_cache.datasets.volumes.windows import volume_window
from casam_cache.encode.sources import decoder_of
from casam_cache.geometry import Geometry
from casam_cache.metrics.intervals import mean_interval
from casam_cache.metrics.overlap import dice
from casam_cache.report.volume_predictions import slice_image
from casam_cache.segmenters.base import Segmenter
from casam_cache.segmenters.files import WEIGHTS, build_segmenter, load_segmenter, save_segmenter
from casam_cache.segmenters.registry import SEGMENTERS
from casam_cache.store import EmbeddingStore
from casam_cache.training import image_loop
from casam_cache.training.class_maps import UNCOUNTED, grid_target, true_map, with_background
from casam_cache.training.items import Item, ItemMask, items_from_arrays, open_split
from casam_cache.training.outcomes import read_outcomes
from casam_cache.training.segmentation import segmentation_loss
from casam_cache.training.segmentation_options import SegmentationOptions
from casam_cache.training.segmentation_scores import class_scores, macro_interval, score_segmenter

Encode = Callable[..., Any]
FIT = ("fit", "--task", "discs", "--head")
SHORT = ("--set", "min_steps=6", "--set", "max_steps=6", "--set", "epochs=1")


def a_mask(bitmap: np.ndarray, class_id: int, instance: int = 1) -> ItemMask:
    return ItemMask(bitmap, class_id, instance, np.zeros(4, np.float32), np.zeros(2, np.float32))


def rectangle(size: tuple[int, int], y: slice, x: slice) -> np.ndarray:
    bitmap = np.zeros(size, bool)
    bitmap[y, x] = True
    return bitmap


def test_where_classes_overlap_the_smaller_mask_has_the_pixel_in_any_order() -> None:
    geometry = Geometry.fit(32, 32, 64, 8)
    organ = a_mask(rectangle((32, 32), slice(4, 28), slice(4, 28)), 7)
    tumour = a_mask(rectangle((32, 32), slice(10, 16), slice(10, 16)), 3)
    second = a_mask(rectangle((32, 32), slice(20, 32), slice(20, 32)), 7, 2)
    for masks in ([organ, tumour, second], [tumour, second, organ]):
        found = true_map(masks, geometry, (3, 7))
        assert (found[10:16, 10:16] == 1).all()
        assert (found == 1).sum() == 36
        assert ((found == 2) == ((organ.bitmap | second.bitmap) & ~tumour.bitmap)).all()


def test_targets_leave_out_padding_and_what_is_ignored_and_keep_what_is_thin() -> None:
    geometry = Geometry.fit(32, 16, 64, 8)  # the right half of the input is padding
    labels = np.zeros((32, 16), np.uint16)
    labels[:8, :8], labels[20, 3] = 1, 2
    ignored = rectangle((32, 16), slice(24, 32), slice(0, 16))
    target = grid_target(labels, ignored, geometry, 16)
    assert (target[:, 8:] == UNCOUNTED).all()
    assert (target[12:, :8] == UNCOUNTED).all()
    assert (target[:4, :4] == 1).all()
    assert (target == 2).sum() == 1, "one pixel fills a quarter of a cell, and is not lost"
    assert target[10, 1] == 2
    assert (target[:12, :8] == 0).sum() == 12 * 8 - 16 - 1


def test_what_is_not_counted_has_no_part_in_the_loss() -> None:
    options = SegmentationOptions()
    target = torch.zeros((2, 4, 4), dtype=torch.uint8)
    target[:, :2], target[:, 3] = 1, UNCOUNTED
    right = torch.zeros((2, 2, 4, 4))
    right[:, 0], right[:, 1] = 20.0 * (target == 0), 20.0 * (target == 1)
    assert float(segmentation_loss(right, target, options)) == pytest.approx(0, abs=1e-4)
    wrong_there = right.clone()
    wrong_there[:, :, 3] = torch.tensor([-30.0, 30.0])[None, :, None]
    assert segmentation_loss(wrong_there, target, options) == segmentation_loss(right, target, options)
    for term in ({"ce_weight": 0.0}, {"dice_weight": 0.0}):
        logits = right.flip(1).requires_grad_()
        loss = segmentation_loss(logits, target, SegmentationOptions(**term))
        loss.backward()
        assert float(loss.detach()) > 0.8
        assert logits.grad is not None
        assert not logits.grad[:, :, 3].any()


@pytest.mark.parametrize("name", SEGMENTERS.names())
def test_every_head_maps_all_classes_and_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    backbone = seeded_backbone(TINY, 7)
    embedding = torch.randn((3, *backbone.feature_shape("embedding")), generator=torch.manual_seed(0))
    made = build_segmenter(name, {}, backbone, (2, 5), seed=1)
    logits = made.logits(backbone, embedding)
    assert logits.shape == (3, 3, made.side(backbone), made.side(backbone))
    alone = made.logits(backbone, embedding[1:2])
    torch.testing.assert_close(logits[1:2], alone, rtol=1e-4, atol=1e-5)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert not any(parameter.grad is not None for parameter in backbone.mask_decoder.parameters())
    save_segmenter(made, tmp_path)
    again = load_segmenter(tmp_path, backbone)
    assert again.classes == (2, 5)
    assert torch.equal(again.logits(backbone, embedding), made.eval().logits(backbone, embedding))
    other = build_segmenter(name, {}, backbone, (2, 5), seed=2)
    assert not torch.equal(other.logits(backbone, embedding), logits)


class Constant(Segmenter):
    """Says class 4 in the upper half of every image, and background below."""

    name = "constant"

    def logits(self, backbone: Any, embedding: torch.Tensor) -> torch.Tensor:
        found = torch.zeros((len(embedding), 2, 8, 8))
        found[:, 1, :4], found[:, 1, 4:] = 1.0, -1.0
        return found

    def side(self, backbone: Any) -> int:
        return 8


def test_false_alarms_misses_and_ignored_pixels_are_scored() -> None:
    geometry, backbone = Geometry.fit(32, 32, 64, 8), seeded_backbone(TINY, 7)
    half = rectangle((32, 32), slice(0, 16), slice(0, 32))
    quarter = rectangle((32, 32), slice(0, 16), slice(0, 16))
    bitmaps = [[a_mask(half, 4)], [a_mask(quarter, 4)], [], [a_mask(quarter, 9)]]
    right = rectangle((32, 32), slice(0, 32), slice(16, 32))
    items = items_from_arrays(
        "drawn",
        [Item(f"i{n}", "drawn", f"g{n}", geometry, len(masks)) for n, masks in enumerate(bitmaps)],
        np.zeros((4, 16, 8, 8), np.float16),
        bitmaps,
        ignored=[None, right, None, None],
    )
    made = Constant(SegmentationOptions(), backbone, (4,), 0)
    outcomes = score_segmenter(made, backbone, items)
    rows = dict(zip(zip(outcomes.item, outcomes.class_id, strict=True), outcomes.scores["dice"], strict=True))
    assert rows["i0", 4] == 1
    assert rows["i1", 4] == 1, "what it says beyond the quarter is ignored there"
    assert rows["i2", 4] == 0, "an image without the class: a false alarm"
    assert rows["i3", 9] == 0, "a class that it does not know is missed"
    assert np.isnan(rows["i0", 9])
    whole, fourth, ninth = class_scores(outcomes)
    assert (fourth.class_id, fourth.images, fourth["dice"].mean) == (4, 2, pytest.approx(0.5))
    assert (ninth["dice"].mean, whole["dice"].mean, whole.images) == (0, pytest.approx(0.25), 4)
    assert [item.id for item in with_background(items, False)] == ["i0", "i1", "i3"]
    assert len(with_background(items, True)) == 4


def test_the_interval_of_the_mean_of_classes_is_by_groups() -> None:
    rng = np.random.default_rng(0)
    patient = rng.normal(0, 0.2, 10)
    groups, classes = np.repeat([f"p{n}" for n in range(10)], 3), np.tile([1, 2, 3], 10)
    values = 0.5 + np.repeat(patient, 3) + np.tile([-0.2, 0.0, 0.2], 10)
    found = macro_interval(values, classes, groups)
    means = mean_interval(values.reshape(10, 3).mean(axis=1), [f"p{n}" for n in range(10)])
    assert (found.mean, found.low, found.high) == pytest.approx((means.mean, means.low, means.high))
    assert macro_interval(values, np.ones(30), groups) == mean_interval(values, groups.tolist())
    values[classes == 3] = np.where(np.arange(10) < 8, np.nan, values[classes == 3])
    each = [np.nanmean(values[classes == number]) for number in (1, 2, 3)]
    assert macro_interval(values, classes, groups).mean == pytest.approx(np.mean(each))


@pytest.mark.parametrize(("name", "steps"), [("fcn", 70), ("class-prompts", 60)])
def test_a_fitted_head_clearly_beats_an_untrained_one(
    casam: Casam, tmp_path: Path, name: str, steps: int
) -> None:
    """Fifteen patients, so that some are held out; by the bundled SAM: what random weights decode no prompt changes."""
    casam("encode", draw_dataset(tmp_path / "many" / "discs", images=30), "--model", "small")
    lasting = ("--set", f"min_steps={steps}", "--set", f"max_steps={steps}", "--set", "checks=2")
    report = casam.json(*FIT, name, *lasting)
    store = EmbeddingStore.open(casam.folder / "casam_store" / "discs" / "small.zarr")
    backbone = decoder_of(casam.folder / "casam_store", store.identity["backbone"]["weights"])
    fitted = load_segmenter(casam.folder / report["run"], backbone)
    untrained = build_segmenter(name, fitted.options, backbone, fitted.classes, seed=0)
    before, after = (
        class_scores(score_segmenter(each, backbone, open_split(store, "test")))[0]["dice"].mean
        for each in (untrained, fitted)
    )
    assert report["scores"][0]["dice"]["mean"] == pytest.approx(after)
    assert after > before + 0.2
    assert after > 0.5
    checks = report["fit"]["checks"]
    assert checks[0]["step"] == 0
    assert report["fit"]["chosen"] == max(checks, key=lambda check: check["dice"])
    assert report["fit"]["groups"] >= 2


def test_a_prediction_is_the_map_that_is_scored_and_prompts_are_refused(
    casam: Casam, encode: Encode, discs: Path
) -> None:
    encode(discs)
    report = casam.json(*FIT, "fcn", "--set", "min_steps=40", "--set", "max_steps=40")
    with Image.open(casam.folder / report["pictures"]) as picture:
        assert picture.size > (3 * 240, 2 * 240)
    image, run = discs / "images" / "p004.png", report["run"]
    found = casam.json("predict", image, "--run", run)
    mask = np.asarray(Image.open(casam.folder / "mask.png"))
    assert set(np.unique(mask)) <= {0, 255}
    assert (mask > 0).sum() == found["area"] == found["classes"][0]["area"]
    with Image.open(casam.folder / found["overlay"]) as overlay:
        assert overlay.size == (40, 48)
    truth = np.asarray(Image.open(discs / "masks" / "p004.png")) > 0
    outcomes = read_outcomes(casam.folder / report["outcomes"])
    assert dict(zip(outcomes.item, outcomes.scores["dice"], strict=True))["p004"] == dice(mask > 0, truth)
    stored = ClassMapPredictor(casam.folder / run).predict_item(
        casam.folder / "casam_store" / "discs" / "tiny.zarr", "p004"
    )
    assert (stored.labels == (mask > 0)).all()
    many = casam.json("predict", discs / "images", "--run", run, "--out", "maps", "--each")
    assert len(many["images"]) == 10
    assert (casam.folder / "maps" / "p009_1.png").is_file()

    casam("predict", image, "--run", run, "--box", "1,1,20,20", "--overwrite")
    assert casam.code == 1
    assert "--box" in casam.err
    assert "without prompts" in casam.err
    prompted = casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")["run"]
    casam("predict", image, "--run", prompted, "--overwrite")
    assert casam.code == 1
    assert f"{prompted} needs one" in casam.err
    from casam_cache.bench.predict import Predictor
    from casam_cache.errors import OptionError

    with pytest.raises(OptionError, match="without prompts"):
        Predictor(casam.folder / run)
    with pytest.raises(OptionError, match="no run of a head without prompts"):
        ClassMapPredictor(casam.folder / prompted)


def test_a_volume_gets_the_maps_of_its_slices(casam: Casam, encode: Encode, discs: Path) -> None:
    encode(discs)
    run = casam.json(*FIT, "fcn", "--set", "min_steps=40", "--set", "max_steps=40")["run"]
    ct = write_nifti(casam.folder / "ct.nii.gz", phantom()[0], oblique(flip="i"))
    report = casam.json("predict", ct, "--run", run, "--slices", "1-4")
    volume, predictor = read_volume(ct), ClassMapPredictor(casam.folder / run)
    layout, expected = layout_of(volume, None), np.zeros(volume.shape, np.uint16)
    window = volume_window(volume, "auto")
    for index in range(1, 5):
        layout.place(expected, index, predictor.predict(slice_image(volume, layout, index, window)).labels)
    found = nibabel.load(casam.folder / "mask.nii.gz")
    assert np.array_equal(np.asarray(found.dataobj), expected)
    assert np.array_equal(found.affine, nibabel.load(ct).affine)
    assert report["classes"][0]["voxels"] == report["voxels"] == (expected > 0).sum()
    assert (casam.folder / report["overlay"]).is_file()
    for wrong, words in {("--slices", "5-7"): "7 slices", ("--each",): "one label map"}.items():
        casam("predict", ct, "--run", run, "--overwrite", *wrong)
        assert casam.code == 1
        assert words in casam.err


def test_the_table_has_no_frozen_sam_and_says_what_decides_its_numbers(
    casam: Casam, encode: Encode, discs: Path
) -> None:
    encode(discs)
    table = casam(*FIT, "fcn", *SHORT)
    for words in ("class 1", "Dice", "no prompts", "test split", "Fewer than 8 groups", "smaller", "seed 0"):
        assert words in table
    assert "frozen" not in table
    assert "box" not in table
    casam(*FIT, "fcn", *SHORT)
    assert "nothing recomputed" in casam.err
    for option in (("--prompts", "point"), ("--method", "alignment"), ("--folds", 3), ("--recipe", "paper")):
        casam(*FIT, "fcn", *option)
        assert casam.code == 1
        assert f"{option[0]} beside --head" in casam.err
    casam(*FIT, "fcm")
    assert casam.code == 1
    assert "class-prompts, fcn" in casam.err


def test_interrupted_and_run_again_gives_the_same_bytes(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(discs)
    whole = casam.json(*FIT, "fcn", *SHORT, "--runs", "whole")
    write, written = image_loop.write_checkpoint, []

    def interrupt(*arguments: Any) -> None:
        write(*arguments)
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(image_loop, "write_checkpoint", interrupt)
    casam(*FIT, "fcn", *SHORT)
    assert casam.code == 130
    again = casam.json(*FIT, "fcn", *SHORT)
    assert again["fit"]["resumed_from"] == 2
    assert (casam.folder / again["run"] / WEIGHTS).read_bytes() == (
        casam.folder / whole["run"] / WEIGHTS
    ).read_bytes()


def test_a_head_of_a_users_file(casam: Casam, encode: Encode, discs: Path) -> None:
    encode(discs)
    (casam.folder / "mine.py").write_text(
        """
from casam_cache.segmenters.fcn import FCN


class Wide(FCN):
    name = "wide"
"""
    )
    report = casam.json(*FIT, "mine.py:Wide", *SHORT)
    assert report["head"] == "wide"
    found = casam.json("predict", discs / "images" / "p004.png", "--run", report["run"])
    assert found["head"] == "wide"
    assert json.loads((casam.folder / report["run"] / "segmenter.json").read_text())["classes"] == [1]
