"""Objects without prompts: what is learnt, what is found, how it is scored, and what people are told."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Casam
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from volume_files import oblique, phantom, write_nifti

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.bench.found_objects import InstancePredictor
from casam_cache.cutout import Cutout
from casam_cache.encode.sources import decoder_of
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.metrics.instances import (
    average_precision,
    hits,
    jackknife,
    mask_ious,
    segmentation_accuracy,
)
from casam_cache.metrics.intervals import mean_interval
from casam_cache.report.instances import run_lengths
from casam_cache.segmenters.files import WEIGHTS, build_proposals, load_proposals, save_segmenter
from casam_cache.segmenters.instances import Instance, label_map, masks_of
from casam_cache.segmenters.options import ProposalOptions
from casam_cache.segmenters.proposals import Boxes, Proposals, propose
from casam_cache.store import EmbeddingStore
from casam_cache.training import image_loop
from casam_cache.training.instance_scores import (
    box_precision,
    image_scores,
    instance_scores,
    read_instances,
    score_instances,
    write_instances,
)
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays, open_split
from casam_cache.training.proposals import Objects, proposal_loss, targets_of

FIT = ("fit", "--task", "blobs", "--head", "proposals")
SHORT = ("--set", "min_steps=6", "--set", "max_steps=6", "--set", "epochs=1")


def draw_blobs(root: Path, images: int = 12, seed: int = 0, side: int = 64) -> Path:
    """Discs apart from each other, one to four an image, a label each; an image a patient, every third one is test."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rows, (y, x) = ["id,split"], np.mgrid[:side, :side]
    for index in range(images):
        labels = np.zeros((side, side), np.uint8)
        for _ in range(12):
            cy, cx, radius = rng.integers(9, side - 9), rng.integers(9, side - 9), rng.integers(5, 9)
            around = (y - cy) ** 2 + (x - cx) ** 2
            if labels.max() < 4 and not (labels[around < (radius + 3) ** 2]).any():
                labels[around < radius**2] = labels.max() + 1
        picture = rng.integers(0, 60, (side, side, 3)) + 150 * (labels > 0)[..., None]
        Image.fromarray(picture.astype(np.uint8)).save(root / "images" / f"b{index:03d}.png")
        Image.fromarray(labels).save(root / "masks" / f"b{index:03d}.png")
        rows.append(f"b{index:03d},{'test' if index % 3 == 2 else 'train'}")
    (root / "split.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return draw_blobs(tmp_path / "data" / "blobs")


def rectangle(y: slice, x: slice, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    bitmap = np.zeros(size, bool)
    bitmap[y, x] = True
    return bitmap


def a_mask(bitmap: np.ndarray, class_id: int = 1, instance: int = 1) -> ItemMask:
    return ItemMask(bitmap, class_id, instance, Cutout.of(bitmap).tight().box, np.zeros(2, np.float32))


def random_objects(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    found = []
    for _ in range(count):
        y, x = rng.integers(0, 40, 2)
        high, wide = rng.integers(4, 20, 2)
        found.append(rectangle(slice(y, y + high), slice(x, x + wide), (60, 60)))
    return found


def by_pycocotools(truth: list[Any], found: list[Any], sizes: tuple[int, int]) -> np.ndarray:
    """AP at each of the ten thresholds, mean over classes."""

    def entry(number: int, image: int, bitmap: np.ndarray, class_id: int) -> dict[str, Any]:
        runs = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
        return {
            "id": number, "image_id": image, "category_id": class_id, "segmentation": runs, "iscrowd": 0,
            "area": float(bitmap.sum()), "bbox": coco_mask.toBbox(runs).tolist(),
        }  # fmt: skip

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": n, "height": sizes[0], "width": sizes[1]} for n in range(len(truth))],
            "categories": [
                {"id": number} for number in sorted({number for masks in truth for _, number in masks})
            ],
            "annotations": [
                entry(1 + len(truth) * n + image, image, bitmap, number)
                for image, masks in enumerate(truth)
                for n, (bitmap, number) in enumerate(masks)
            ],
        }
        coco.createIndex()
        answers = [
            {**entry(0, image, bitmap, number), "score": score}
            for image, masks in enumerate(found)
            for bitmap, number, score in masks
        ]
        run = COCOeval(coco, coco.loadRes(answers), "segm")
        run.params.maxDets = [1, 10, 1000]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, 2]  # (T, R, K)
    return precision.mean(axis=(1, 2))


@pytest.mark.parametrize("classes", [1, 2])
def test_ap_of_a_split_is_that_of_pycocotools(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, images = np.random.default_rng(classes), 8
    truth = [
        [(one, int(rng.integers(1, classes + 1))) for one in random_objects(rng, 6)] for _ in range(images)
    ]
    found = []
    for masks in truth:
        near = [
            (np.roll(bitmap, rng.integers(0, 4, 2), (0, 1)), number, round(float(rng.random()), 1))
            for bitmap, number in masks
            if rng.random() < 0.8
        ]
        wrong = [
            (one, int(rng.integers(1, classes + 1)), float(rng.random())) for one in random_objects(rng, 2)
        ]
        found.append(sorted([*near, *wrong], key=lambda one: -one[2]))
    found[3] = []
    expected = by_pycocotools(truth, found, (60, 60))

    geometry, backbone = Geometry.fit(60, 60, 64, 8), seeded_backbone(TINY, 7)
    masks = [[a_mask(bitmap, number, n + 1) for n, (bitmap, number) in enumerate(one)] for one in truth]
    items = items_from_arrays(
        "drawn",
        [Item(f"i{n}", "drawn", f"g{n}", geometry, len(one)) for n, one in enumerate(masks)],
        np.zeros((images, 16, 8, 8), np.float16),
        masks,
    )
    told = [
        [Instance(Cutout.of(one).tight(), number, score, np.zeros(4)) for one, number, score in objects]
        for objects in found
    ]
    head = build_proposals("proposals", {"threshold": 0.5}, backbone, range(1, classes + 1), 0)
    answers = iter(told)
    monkeypatch.setattr("casam_cache.training.instance_scores.find_instances", lambda *_: next(answers))
    outcomes = score_instances(head, backbone, items)
    whole, *each = instance_scores(outcomes)
    assert whole["ap"].mean == pytest.approx(expected.mean(), abs=1e-9)
    assert whole["ap50"].mean == pytest.approx(expected[0], abs=1e-9)
    assert whole["ap75"].mean == pytest.approx(expected[5], abs=1e-9)
    assert 0.05 < whole["ap"].mean < 0.9
    assert whole["ap"].low < whole["ap"].mean < whole["ap"].high
    assert whole.objects == sum(map(len, truth))
    assert whole.found == sum(score >= 0.5 for objects in found for _, _, score in objects)
    assert len(each) == classes


def test_msa_is_what_the_definition_gives_by_hand() -> None:
    # Three found, two true: one is exact, one has an IoU of 0.6, one is nowhere. At 0.50, 0.55 and 0.60 both are found:
    # 2 / (2 + 1 + 0). At the other seven one is: 1 / (1 + 2 + 1).
    exact, half = rectangle(slice(0, 10), slice(0, 10)), rectangle(slice(20, 30), slice(0, 10))
    found = [exact, rectangle(slice(20, 26), slice(0, 10)), rectangle(slice(0, 4), slice(20, 24))]
    ious = mask_ious([Cutout.of(one).tight() for one in found], [Cutout.of(one) for one in (exact, half)])
    assert ious.tolist() == [[1, 0], [0, 0.6], [0, 0]]
    assert segmentation_accuracy(ious) == pytest.approx((3 * 2 / 3 + 7 * 1 / 4) / 10)
    # The first found one fits both, the second only what the first would take: as many as can be match.
    assert segmentation_accuracy(np.array([[0.9, 0.6], [0.8, 0.0]]), (0.5,)) == 1
    assert segmentation_accuracy(np.zeros((2, 0))) == 0
    assert segmentation_accuracy(np.zeros((0, 2))) == 0
    assert np.isnan(segmentation_accuracy(np.zeros((0, 0))))


def test_ap_by_hand_and_an_image_alone_with_false_alarms() -> None:
    # Found: right, wrong, right, of two true ones. Recall 0.5 at precision 1, 1 at 2/3: 51 and 50 of 101 recalls.
    matched = hits(np.array([[0.9, 0.0], [0.3, 0.2], [0.0, 0.9]]), (0.5,))
    assert matched.tolist() == [[True, False, True]]
    assert average_precision(matched, 2)[0] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert np.isnan(average_precision(matched, 0)).all()


def test_the_jackknife_of_a_mean_is_the_interval_of_the_mean() -> None:
    values, groups = np.random.default_rng(0).normal(0.5, 0.1, 9), [f"g{n}" for n in range(9)]
    found, wanted = jackknife(lambda rows: float(values[rows].mean()), groups), mean_interval(values, groups)
    assert (found.mean, found.low, found.high) == pytest.approx((wanted.mean, wanted.low, wanted.high))


def items_of(
    masks: list[list[ItemMask]], ignored: list[Any] | None = None, size: tuple[int, int] = (32, 32)
) -> Items:
    geometry = Geometry.fit(*size, 64, 8)
    return items_from_arrays(
        "drawn",
        [Item(f"i{n}", "drawn", f"g{n}", geometry, len(own)) for n, own in enumerate(masks)],
        np.zeros((len(masks), 16, 8, 8), np.float16),
        masks,
        ignored=ignored,
    )


def test_targets_are_at_the_centres_and_what_is_ignored_is_no_mistake() -> None:
    big, small = (
        rectangle(slice(0, 30), slice(0, 16), (32, 16)),
        rectangle(slice(14, 18), slice(6, 10), (32, 16)),
    )
    ignored = rectangle(slice(0, 4), slice(0, 16), (32, 16))
    items = items_of([[a_mask(big, 3), a_mask(small, 7)]], [ignored], (32, 16))  # the right half is padding
    objects = Objects.prepare(items, (3, 7), 16)
    found = targets_of(objects, [0], 2, 64)
    assert [(one == 1).nonzero().tolist() for one in found.centres[0]] == [[[7, 3]], [[7, 3]]]
    assert not found.counted[0, :, 8:].any(), "padding"
    assert not found.counted[0, :2].any(), "ignored"
    assert found.boxes[0, :, :, 7, 3].tolist() == [[0, 0, 30, 58], [12, 28, 18, 34]], "each class its own"
    (same,) = targets_of(Objects(objects.boxes, [np.zeros(2, int)], objects.counted), [0], 1, 64).boxes[0]
    assert same[:, 7, 3].tolist() == [12, 28, 18, 34], "of one class the smaller one has the cell"
    assert float(found.weights.sum()) == pytest.approx(2)
    right = torch.where(found.centres == 1, 20.0, -20.0)
    assert float(proposal_loss(right, found.boxes, found, 2.0)) < 1e-3
    wrong = right.clone()
    wrong[:, :, :, 8:], wrong[:, :, :2] = 20.0, 20.0
    assert float(proposal_loss(wrong, found.boxes, found, 2.0)) < 1e-3
    wrong[0, 1, 12, 3] = 20.0
    assert float(proposal_loss(wrong, found.boxes, found, 2.0)) > 1
    moved = found.boxes + 4
    assert float(proposal_loss(right, moved, found, 2.0)) > 0.5


class Fixed(Proposals):
    """Says of every image what its buffers hold."""

    name = "fixed"
    said: tuple[torch.Tensor, torch.Tensor]

    def maps(self, backbone: Any, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(one.expand(len(embedding), *one.shape[1:]) for one in self.said)  # type: ignore[return-value]


def fixed(backbone: Any, objects: list[tuple[int, int, float, list[float]]], **options: Any) -> Fixed:
    """A head with (row, column, score, box) on a grid of 8 cells a side."""
    head = Fixed(ProposalOptions(**options), backbone, (4,), 0).eval()
    logits, boxes = torch.full((1, 1, 8, 8), -10.0), torch.zeros((1, 1, 4, 8, 8))
    for row, column, score, box in objects:
        logits[0, 0, row, column] = torch.tensor(score).logit()
        boxes[0, 0, :, row, column] = torch.tensor(box)
    head.said = (logits, boxes)
    return head


def test_proposals_are_peaks_inside_the_image_and_no_box_is_proposed_twice() -> None:
    backbone, geometry = seeded_backbone(TINY, 7), Geometry.fit(32, 16, 64, 8)  # cells 4 and on are padding
    told = [
        (1, 1, 0.6, [8.0, 8, 16, 16]),
        (1, 2, 0.5, [8.0, 8, 24, 16]),  # beside a surer centre
        (5, 1, 0.9, [-9.0, 40, 90, 50]),
        (7, 3, 0.8, [-9.0, 40, 90, 50]),  # the same box
        (3, 6, 0.95, [40.0, 8, 60, 16]),  # padding
        (3, 0, 0.04, [0.0, 8, 8, 16]),
    ]
    head = fixed(backbone, told)
    embeddings = torch.zeros((2, 16, 8, 8))
    first, second = propose(head, backbone, embeddings, [geometry, Geometry.fit(32, 32, 64, 8)])
    assert first.scores.tolist() == pytest.approx([0.9, 0.6])
    assert first.boxes.tolist() == [[0, 40, 31, 50], [8, 8, 16, 16]]
    assert second.scores.tolist() == pytest.approx([0.95, 0.9, 0.6])
    (best,) = propose(fixed(backbone, told, most=1), backbone, embeddings[:1], [geometry])
    assert best.scores.tolist() == pytest.approx([0.9])


def test_of_masks_that_overlap_the_surer_one_is_kept_and_the_label_map_is_by_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone, geometry = seeded_backbone(TINY, 7), Geometry.fit(32, 32, 64, 8)
    spans = [(0, 16), (0, 14), (10, 26), (0, 0)]  # of 32 columns; the last mask is empty
    logits = torch.full((4, 1, 32, 32), -5.0)
    for row, (first, last) in enumerate(spans):
        logits[row, 0, 8:24, first:last] = 5.0
    estimates = torch.tensor([[0.5], [0.9], [1.5], [1.0]])
    monkeypatch.setattr(backbone, "decode", lambda *_, **__: (logits, estimates))
    boxes = torch.tensor([[0.0, 16, 31, 47]]).repeat(4, 1)
    proposed = Boxes(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4, dtype=torch.long))
    head = fixed(backbone, [])
    found = masks_of(head, backbone, torch.zeros((16, 8, 8)), geometry, proposed)
    assert [round(one.score, 3) for one in found] == [0.9, 0.7]
    assert found[0].box.tolist() == [0, 8, 15.5, 23.5]
    assert {one.class_id for one in found} == {4}
    labels = label_map(found, 32, 32)
    assert set(labels[16, :15]) == {1}
    assert labels[16, 20] == 2
    other = Fixed(ProposalOptions(), backbone, (4, 6), 0)
    numbers = Boxes(boxes, proposed.scores, torch.tensor([0, 1, 0, 0]))
    assert [
        one.class_id for one in masks_of(other, backbone, torch.zeros((16, 8, 8)), geometry, numbers)
    ] == [4, 6, 4]
    sure = masks_of(
        fixed(backbone, [], score="centre-iou"), backbone, torch.zeros((16, 8, 8)), geometry, proposed, 0.5
    )
    assert [round(one.score, 3) for one in sure] == [0.72, 0.7], "0.9 times 0.5 is not sure enough"


def test_what_is_ignored_belongs_to_no_object_and_tables_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = seeded_backbone(TINY, 7)
    left, right = rectangle(slice(0, 8), slice(0, 8)), rectangle(slice(0, 8), slice(20, 28))
    ignored = rectangle(slice(0, 32), slice(16, 32))
    items = items_of([[a_mask(left)], [], [a_mask(left), a_mask(right)], []], [ignored, ignored, None, None])
    both = [Instance(Cutout.of(one).tight(), 1, 0.9, np.zeros(4)) for one in (left, right)]
    answers = iter([both, both[1:], both[:1], both[1:]])
    monkeypatch.setattr("casam_cache.training.instance_scores.find_instances", lambda *_: next(answers))
    outcomes = score_instances(build_proposals("proposals", {}, backbone, (1,), 0), backbone, items)
    assert outcomes.images.msa[0] == 1, "what is found in the ignored half is no false alarm"
    assert np.isnan(outcomes.images.msa[1]), "nothing is there and nothing that counts was found"
    assert outcomes.images.msa[2:] == [0.5, 0]
    assert outcomes.images.ap50[2] == pytest.approx(51 / 101)
    assert image_scores(outcomes)["i3"] == 0
    write_instances(tmp_path, outcomes)
    read = read_instances(tmp_path)
    assert repr(read) == repr(outcomes)
    (whole, _) = instance_scores(outcomes)
    assert (whole.objects, whole.found, whole.images) == (3, 3, 4)
    assert whole["msa"].undefined == 1


@pytest.mark.parametrize("options", [{}, {"blocks": 1, "depth": 1}])
def test_a_head_comes_back_from_disk_and_gives_boxes_around_its_cells(
    options: dict[str, int], tmp_path: Path
) -> None:
    backbone = seeded_backbone(TINY, 7)
    embedding = torch.randn((2, *backbone.feature_shape("embedding")), generator=torch.manual_seed(0))
    made = build_proposals("proposals", options, backbone, (2, 5), seed=1).eval()
    logits, boxes = made.maps(backbone, embedding)
    side = made.side(backbone)
    assert logits.shape == (2, 2, side, side)
    assert boxes.shape == (2, 2, 4, side, side)
    assert (boxes[:, :, 2:] > boxes[:, :, :2]).all()
    with torch.no_grad():  # nothing said: a box of a cell around the middle of each
        made.network.out.weight.zero_()
    stride = 64 / side
    nothing = made.maps(backbone, embedding)[1][0, 1, :, 1, 2]
    assert nothing.tolist() == pytest.approx([2 * stride, stride, 3 * stride, 2 * stride])
    made.threshold.fill_(0.45)
    save_segmenter(made, tmp_path)
    again = load_proposals(tmp_path, backbone)
    assert again.classes == (2, 5)
    assert float(again.threshold) == pytest.approx(0.45)
    assert torch.equal(again.maps(backbone, embedding)[0], made.maps(backbone, embedding)[0])


def test_a_fitted_head_finds_objects_and_predicts_what_was_scored(casam: Casam, tmp_path: Path) -> None:
    """By the bundled SAM: random weights answer no box."""
    data = draw_blobs(tmp_path / "many" / "blobs", images=30)
    casam("encode", data, "--model", "small", "--masks", "instances")
    report = casam.json(*FIT, *(f"--set={one}" for one in ("min_steps=90", "max_steps=90", "checks=2")))
    store = EmbeddingStore.open(casam.folder / "casam_store" / "blobs" / "small.zarr")
    backbone = decoder_of(casam.folder / "casam_store", store.identity["backbone"]["weights"])
    items = open_split(store, "test")
    fitted = load_proposals(casam.folder / report["run"], backbone)
    untrained = build_proposals("proposals", fitted.options, backbone, fitted.classes, seed=0).eval()
    assert box_precision(untrained, backbone, items) < 0.05
    assert box_precision(fitted, backbone, items) > 0.3
    whole = report["scores"][0]
    assert whole["ap50"]["mean"] > 0.6
    assert whole["msa"]["mean"] > 0.3
    assert report["fit"]["chosen"] == max(report["fit"]["checks"], key=lambda check: check["box_ap"])
    assert report["threshold"] == pytest.approx(float(fitted.threshold))
    with Image.open(casam.folder / report["pictures"]) as picture:
        assert picture.size > (3 * 240, 2 * 240)

    found = casam.json("predict", data / "images" / "b005.png", "--run", report["run"])
    labels = np.asarray(Image.open(casam.folder / "instances.png"))
    assert labels.dtype == np.uint16
    assert found == json.loads((casam.folder / "instances.json").read_text())
    assert len(found["objects"]) == labels.max() > 0
    outcomes = read_instances(casam.folder / report["outcomes"])
    assert outcomes.images.found[outcomes.images.item.index("b005")] == len(found["objects"])
    first = found["objects"][0]
    runs = first["segmentation"]
    bitmap = coco_mask.decode(coco_mask.frPyObjects(runs, *runs["size"])) > 0
    assert (labels[bitmap] == 1).all(), "the surest object is on top"
    assert bitmap.sum() == first["area"] == (labels == 1).sum()
    assert all(one["score"] >= found["threshold"] for one in found["objects"])
    stored = InstancePredictor(casam.folder / report["run"]).predict_item(store, "b005")
    assert (stored.labels == labels).all()
    for path in list((data / "images").iterdir()):
        if path.stem not in ("b005", "b006"):
            path.unlink()
    many = casam.json("predict", data / "images", "--run", report["run"], "--out", "all")
    assert len(many["images"]) == 2
    assert (casam.folder / "all" / "b006_overlay.png").is_file()
    again = casam.json(
        "predict",
        "--store",
        "casam_store",
        "--task",
        "blobs",
        "--id",
        "b005",
        "--run",
        report["run"],
        "--overwrite",
    )
    assert again["objects"] == found["objects"]
    assert again["overlay"] is None


def test_run_lengths_begin_with_what_is_no_object() -> None:
    for bitmap in (rectangle(slice(0, 3), slice(0, 2), (5, 4)), rectangle(slice(2, 5), slice(1, 4), (5, 4))):
        runs = run_lengths(Cutout.of(bitmap).tight())
        assert (coco_mask.decode(coco_mask.frPyObjects(runs, *runs["size"])) == bitmap).all()


def test_masks_that_are_no_objects_and_what_a_run_cannot_do_are_refused(
    casam: Casam, encode: Callable[..., Any], blobs: Path, discs: Path
) -> None:
    encode(discs)
    casam("fit", "--task", "discs", "--head", "proposals")
    assert casam.code == 1
    assert "masks of discs were read as binary" in casam.err
    assert "--masks components" in casam.err
    encode(blobs, "--masks", "instances")
    table = casam(*FIT, *SHORT)
    for words in (
        "AP50",
        "mSA",
        "objects",
        "no prompts",
        "jackknife",
        "one object",
        "of objects with a score of",
    ):
        assert words in table
    run = next((casam.folder / "casam_runs" / "proposals").iterdir())
    image = blobs / "images" / "b001.png"
    ct = write_nifti(casam.folder / "ct.nii.gz", phantom()[0], oblique(flip="i"))
    refused = {
        (image, "--box", "1,1,9,9"): "without prompts",
        (image, "--each"): "one label map",
        (ct,): "is a volume",
    }
    for given, words in refused.items():
        casam("predict", *given, "--run", run)
        assert casam.code == 1
        assert words in casam.err
    casam(*FIT[:-1], "proposal")
    assert casam.code == 1
    assert "class-prompts, fcn, proposals" in casam.err
    from casam_cache.bench.class_maps import ClassMapPredictor

    with pytest.raises(OptionError, match="no map of classes"):
        ClassMapPredictor(run)


def test_interrupted_and_run_again_gives_the_same_bytes_also_of_a_users_head(
    casam: Casam, encode: Callable[..., Any], blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(blobs, "--masks", "instances")
    (casam.folder / "mine.py").write_text(
        "from casam_cache.segmenters.proposals import Proposals\n\n\nclass Mine(Proposals):\n    name = 'mine'\n"
    )
    fit = ("fit", "--task", "blobs", "--head", "mine.py:Mine", *SHORT)
    whole = casam.json(*fit, "--runs", "whole")
    write, written = image_loop.write_checkpoint, []

    def interrupt(*arguments: Any) -> None:
        write(*arguments)
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(image_loop, "write_checkpoint", interrupt)
    casam(*fit)
    assert casam.code == 130
    again = casam.json(*fit)
    assert again["head"] == "mine"
    assert again["fit"]["resumed_from"] == 2
    assert (casam.folder / again["run"] / WEIGHTS).read_bytes() == (
        casam.folder / whole["run"] / WEIGHTS
    ).read_bytes()
    assert casam.json("predict", blobs / "images" / "b001.png", "--run", again["run"])["head"] == "mine"
