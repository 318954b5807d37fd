"""Pixels that count nowhere: read from masks, kept in the store, and left out of the loss and of every score."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from casam_cache.backbones.prompts import Prompts
from casam_cache.datasets import DatasetOptions, read_dataset, read_ignored, read_masks
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.geometry import Geometry
from casam_cache.metrics.base import Metric, scored
from casam_cache.store import EmbeddingStore
from casam_cache.store.annotations import AnnotatedSample, Annotations
from casam_cache.store.runs import encode_runs
from casam_cache.store.verify import verify
from casam_cache.training.epochs import TrainingMasks, draw_epoch, low_res_counted, low_res_target
from casam_cache.training.feed import Feed
from casam_cache.training.items import Item, ItemMask, add_views, items_from_arrays, open_split
from casam_cache.training.losses import segmentation_loss
from casam_cache.training.options import TrainingOptions
from casam_cache.views import View

SIDE = 64


def voc(seed: int, objects: int = 2) -> np.ndarray:
    """A label map with a ring of 255 round each object, as Pascal VOC has it."""
    y, x = np.mgrid[:SIDE, :SIDE]
    found = np.zeros((SIDE, SIDE), np.uint8)
    for number in range(objects):
        row, column = 16 + 30 * number, 20 + 3 * seed
        distance = np.hypot(y - row, x - column)
        found[distance < 13] = 255
        found[distance < 10] = number + 1
    return found


def write(root: Path, count: int = 4) -> Path:
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        for kind, array in (("images", image), ("masks", voc(number))):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / kind / f"{number}.png")
    return root


def test_a_ring_is_recognised_and_asked_about(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    dataset = read_dataset(root)
    (line,) = dataset.problems
    assert (line.severity, "--ignore 255" in line.hint) == ("warning", True)
    assert dataset.values.foreground == (1, 2, 255)
    told = read_dataset(root, DatasetOptions(ignore="255"))
    assert not told.problems
    assert "count nowhere" in "".join(told.notes)
    for number, sample in enumerate(told.samples):
        masks = list(read_masks(told, sample))
        assert [mask.class_id for mask in masks] == [1, 2]
        np.testing.assert_array_equal(read_ignored(told, sample), voc(number) == 255)
    assert read_ignored(dataset, dataset.samples[0]) is None


def test_a_class_inside_another_is_no_ring(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    for number in range(4):
        found = np.where(voc(number) > 0, 128, 0).astype(np.uint8)
        found[20:24, 20:24] = 255
        Image.fromarray(found).save(root / "masks" / f"{number}.png")
    assert not read_dataset(root).problems


def test_ignored_pixels_of_one_thing_with_other_codings(tmp_path: Path) -> None:
    root = write(tmp_path / "set", 2)
    for number, white in ((0, 1), (1, 255)):
        found = np.where(voc(number) == 255, 9, np.where(voc(number) > 0, white, 0)).astype(np.uint8)
        Image.fromarray(found).save(root / "masks" / f"{number}.png")
    dataset = read_dataset(root, DatasetOptions(ignore="9"))
    assert dataset.mask_mode == "binary"
    for number, sample in enumerate(dataset.samples):
        (mask,) = read_masks(dataset, sample)
        inside = (voc(number) > 0) & (voc(number) != 255)
        np.testing.assert_array_equal(mask.bitmap, inside)


def encoded(root: Path, out: Path, **options: str) -> EmbeddingStore:
    asked = EncodeOptions(model="small", device="cpu", dataset=DatasetOptions(test_fraction=0.5, **options))
    encode_dataset(root, out, asked)
    return EmbeddingStore.open(next(out.glob("*/*.zarr")))


def test_a_store_keeps_one_region_a_sample(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    plain, store = encoded(root, tmp_path / "plain"), encoded(root, tmp_path / "out", ignore="255")
    arrays = [
        sorted(entry.name for entry in one.annotations.path.iterdir() if entry.is_dir())
        for one in (plain, store)
    ]
    assert not any(name.startswith("ignored") for name in arrays[0])
    assert {name for name in arrays[1] if name not in arrays[0]} == {
        "ignored_sample", "ignored_size", "ignored_rle_values", "ignored_rle_offsets",
    }  # fmt: skip
    assert not verify(store.path).problems
    annotations: Annotations = store.annotations
    for row in range(len(annotations)):
        number = int(store.ids[annotations.item[row]])
        np.testing.assert_array_equal(annotations.ignored(row), voc(number) == 255)
        assert plain.annotations.ignored(row) is None
    items = open_split(store, "test")
    for index, item in enumerate(items):
        np.testing.assert_array_equal(items.ignored(index), voc(int(item.id)) == 255)
    turned = add_views(items, [View("rot90")])
    np.testing.assert_array_equal(
        turned.ignored(len(items)), View("rot90").image(voc(int(items.item(0).id)) == 255)
    )


def test_the_digest_of_a_sample_tells_what_is_ignored() -> None:
    plain = AnnotatedSample(0, "train", "a")
    region = np.zeros((4, 5), bool)
    region[1:3, 2] = True
    ignored = replace(plain, ignored=(encode_runs(region), (4, 5)))
    assert plain.digest() == AnnotatedSample(7, "test", "b").digest()
    assert plain.digest() != ignored.digest()


GEOMETRY = Geometry.fit(SIDE, SIDE, 256, 16)


def test_targets_and_weights_leave_ignored_pixels_out() -> None:
    ignored = np.zeros((SIDE, SIDE), bool)
    ignored[:, :21] = True
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:30, 21:40] = True
    counted = low_res_counted(ignored, GEOMETRY)
    assert counted.min() == 0
    assert counted.max() == 1
    target = low_res_target(mask, GEOMETRY, counted)
    assert not target[counted == 0].any()
    # Whether ignored pixels are of the mask or not changes no cell that counts.
    np.testing.assert_array_equal(target, low_res_target(mask, GEOMETRY, counted))
    whole = low_res_target(mask | (ignored & (np.arange(SIDE)[:, None] // 20 == 0)), GEOMETRY)
    assert (target[counted == 1] == low_res_target(mask, GEOMETRY)[counted == 1]).all()
    assert whole.sum() > target.sum()


def test_the_feed_gives_ignored_cells_no_weight() -> None:
    ignored = np.zeros((SIDE, SIDE), bool)
    ignored[:, :32] = True
    mask = np.zeros((SIDE, SIDE), bool)
    mask[20:40, 32:50] = True
    items = [Item(name, "t", name, GEOMETRY, 1) for name in "ab"]
    owned = [[ItemMask(mask, 1, 1, np.zeros(4), np.zeros(2))]] * 2
    view = items_from_arrays("t", items, np.zeros((2, 4, 16, 16)), owned, ignored=[None, ignored])
    masks = TrainingMasks.prepare(view)

    class Fake:
        device = torch.device("cpu")

        def embed_prompts(self, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(len(prompts), 2, 4), torch.zeros(len(prompts), 4, 16, 16)

    class Kept:
        def batches(self, batches: object) -> Iterator[torch.Tensor]:
            return iter([torch.zeros(2, 4, 16, 16)])

    options = TrainingOptions(batch_size=2)
    (pairs,) = Feed(masks, {"embedding": Kept()}, Fake()).epoch(draw_epoch(masks, options, 0, 0))  # type: ignore
    weight = {item.id: one for item, one in zip(pairs.items, pairs.weight, strict=True)}
    assert weight["a"].min() == 1
    assert weight["b"][:, :32].max() == 0
    assert weight["b"][:, 32:].min() == 1
    logits = torch.zeros(2, 64, 64)
    changed = torch.where(pairs.weight == 0, 9.0, logits)
    losses = [
        segmentation_loss(one, torch.zeros(2), pairs.target, pairs.weight, options).total
        for one in (logits, changed)
    ]
    assert losses[0] == losses[1]


class Specificity(Metric):
    """Counts true background, so that it has to be told what is ignored."""

    name, label, better, takes_ignored = "specificity", "Specificity", "high", True

    def __call__(self, predicted: np.ndarray, truth: np.ndarray, ignored: np.ndarray | None = None) -> float:
        outside = ~truth if ignored is None else ~truth & ~ignored
        return float((outside & ~predicted).sum() / outside.sum())


def test_a_metric_can_ask_for_what_is_ignored() -> None:
    truth, predicted, ignored = np.zeros((3, 4, 4), bool)
    predicted[0], ignored[2:] = True, True
    assert scored(Specificity(), predicted, truth, ignored) == 0.5
    assert scored(Specificity(), predicted, truth, None) == 0.75
