"""A split of a real store as training sees it: complete, and with no way to anything else."""

import numpy as np
import pytest

from casam_cache.errors import StoreError
from casam_cache.geometry import Geometry
from casam_cache.store import AnnotatedMask, AnnotatedSample, EmbeddingStore, ItemResult, StoreWriter
from casam_cache.store.annotations import Annotations, write_annotations
from casam_cache.training.items import open_split

SPLIT = {"a": "train", "b": "test", "c": "train", "d": "train", "e": "val"}
GEOMETRY = Geometry.fit(48, 64, 64, 8)


def bitmap_of(name: str, number: int) -> np.ndarray:
    bitmap = np.zeros((48, 64), dtype=bool)
    bitmap[ord(name) - 95 : 20, 3 + number : 30] = True
    return bitmap


def annotate(path, splits=SPLIT, shift=0) -> None:
    samples = [
        AnnotatedSample(
            item,
            split,
            f"patient {name}",
            tuple(
                AnnotatedMask.from_bitmap(bitmap_of(name, number + shift * (split == "test")), 1, number,
                                          (3, 2, 29, 19), (10, 10))
                for number in range(item % 3)
            ),
        )
        for item, (name, split) in enumerate(splits.items())
    ]  # fmt: skip
    write_annotations(path, samples, {"mask_mode": "instances"})


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "toy" / "tiny.zarr"
    with StoreWriter.open_or_create(
        path, {"weights": "none"}, embedding_shape=(4, 8, 8), image_size=64, patch_size=8
    ) as writer:
        writer.plan([(name, f"images/{name}.png") for name in SPLIT], 5)
        (batch,) = writer.pending()
        results = [
            ItemResult(failure="text, not an image")
            if index == 3
            else ItemResult(
                {"embedding": np.full((4, 8, 8), index, np.float16)}, GEOMETRY, bytes([index] * 32)
            )
            for index in range(5)
        ]
        writer.append(batch, results)
    annotate(path)
    return EmbeddingStore.open(path)


def test_a_split_holds_its_items_and_no_failed_ones(store):
    view = open_split(store, "train")
    assert (view.task, view.embedding_shape) == ("toy", (4, 8, 8))
    assert [view.item(i).id for i in range(len(view))] == ["a", "c"]
    second = view.item(1)
    assert (second.group, second.masks, second.geometry) == ("patient c", 2, GEOMETRY)
    embedding = view.feature("embedding", 1)
    assert embedding.dtype == np.float16
    assert (embedding == 2).all()
    masks = view.masks(1)
    assert [mask.instance for mask in masks] == [0, 1]
    np.testing.assert_array_equal(masks[1].bitmap, bitmap_of("c", 1))
    assert masks[0].box.tolist() == [3, 2, 29, 19]
    assert list(view.masks(0)) == []


def test_no_index_reaches_another_split(store):
    view = open_split(store, "train")
    for index in (-1, 2, 100):
        for read in (view.item, lambda i: view.feature("embedding", i), view.masks):
            with pytest.raises(IndexError, match="of the 2 of toy"):
                read(index)
    ids = {item.id for item in view}
    assert ids.isdisjoint({"b", "e"})


def test_nothing_is_read_before_it_is_asked_for(store, monkeypatch):
    read: list[str] = []
    for owner, name in ((Annotations, "runs"), (EmbeddingStore, "read")):
        honest = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, n=name, f=honest: (read.append(n), f(*a))[1])
    items = open_split(store, "train")
    assert [item.masks for item in items] == [0, 2]
    assert items.feature("valid", 1).any()
    assert read == []
    items.masks(1)
    items.masks(1)
    items.feature("embedding", 0)
    assert read == ["runs"] * 4 + ["read"]


def test_content_names_what_the_split_holds_and_nothing_else(store):
    train, test = open_split(store, "train").content, open_split(store, "test").content
    assert train != test
    annotate(store.path, shift=5)  # only the test mask changes
    changed = EmbeddingStore.open(store.path)
    assert open_split(changed, "train").content == train
    assert open_split(changed, "test").content != test


def test_a_split_without_images_is_said(store):
    annotate(store.path, dict.fromkeys(SPLIT, "train"))
    with pytest.raises(StoreError, match="toy has no test images"):
        open_split(EmbeddingStore.open(store.path), "test")


def test_an_unfinished_store_is_refused(tmp_path):
    path = tmp_path / "toy" / "tiny.zarr"
    with StoreWriter.open_or_create(
        path, {}, embedding_shape=(4, 8, 8), image_size=64, patch_size=8
    ) as writer:
        writer.plan([("a", "images/a.png")], 1)
    with pytest.raises(StoreError, match="0 of 1 images"):
        open_split(EmbeddingStore.open(path), "train")
