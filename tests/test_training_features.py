"""Features beside the embedding: from a store, from arrays, from the geometry, and in each step."""

import numpy as np
import pytest
import torch
from test_training import TINY, toy_view
from toy_sequences import with_feature

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import StoreError
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head
from casam_cache.heads.options import IdentityOptions
from casam_cache.store import AnnotatedMask, AnnotatedSample, EmbeddingStore, ItemResult, StoreWriter
from casam_cache.store.annotations import write_annotations
from casam_cache.training.evaluate import evaluate
from casam_cache.training.items import items_from_arrays, open_split
from casam_cache.training.loop import fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.step import Penalty


@pytest.fixture
def store(tmp_path):
    """Four images of which the second is for testing, with embeddings and tokens that tell their index."""
    path = tmp_path / "toy" / "tiny.zarr"
    geometry = Geometry.fit(48, 64, 64, 8)
    with StoreWriter.open_or_create(
        path, {}, embedding_shape=(4, 8, 8), image_size=64, patch_size=8
    ) as writer:
        writer.plan([(name, f"{name}.png") for name in "abcd"], 4)
        writer.add_array("tokens", (3,))
        for batch in writer.pending(("embedding", "tokens")):
            writer.append(
                batch,
                [
                    ItemResult(
                        {"embedding": np.full((4, 8, 8), i, np.float16), "tokens": np.full(3, 10 + i, np.float16)},
                        geometry,
                        bytes(32),
                    )
                    for i in range(4)
                ],
                ("embedding", "tokens"),
            )  # fmt: skip
    bitmap = np.ones((48, 64), dtype=bool)
    masks = (AnnotatedMask.from_bitmap(bitmap, 1, 1, (0, 0, 63, 47), (5, 5)),)
    samples = [AnnotatedSample(i, "test" if i == 1 else "train", f"p{i}", masks) for i in range(4)]
    write_annotations(path, samples, {"mask_mode": "binary"})
    return EmbeddingStore.open(path)


def test_a_split_gives_any_array_of_its_own_items(store):
    view = open_split(store, "train")
    assert [view.feature("tokens", i)[0] for i in range(3)] == [10, 12, 13]
    assert [view.feature("embedding", i)[0, 0, 0] for i in range(3)] == [0, 2, 3]
    with pytest.raises(IndexError, match="of the 3 of toy"):
        view.feature("tokens", 3)
    with pytest.raises(StoreError, match="--with early"):
        view.feature("early", 0)


def test_valid_cells_hold_image():
    cells = Geometry.fit(40, 64, 64, 8).valid_cells()
    assert cells.shape == (8, 8)
    assert cells[:5].all()
    assert not cells[5:].any()
    assert Geometry.fit(40, 64, 64, 8, "stretch").valid_cells().all()


def test_items_in_memory_hold_what_they_are_given():
    described, masks = list(toy_view()), [toy_view().masks(i) for i in range(7)]
    embeddings = np.random.default_rng(0).standard_normal((7, 4, 8, 8)).astype(np.float16)
    items = items_from_arrays("toy", described, embeddings, masks, {"tokens": np.arange(7.0)[:, None]})
    assert (items.task, items.embedding_shape, len(items), list(items)) == ("toy", (4, 8, 8), 7, described)
    assert items.feature("tokens", 4) == [4]
    assert items.feature("valid", 0).sum() == 6 * 8
    np.testing.assert_array_equal(items.feature("embedding", 1), embeddings[1])
    assert items.masks(2) is masks[2]
    with pytest.raises(StoreError, match="no feature 'early'"):
        items.feature("early", 0)
    for read in (items.item, items.masks, lambda i: items.feature("valid", i)):
        for index in (-1, 7):
            with pytest.raises(IndexError, match="of the 7 of toy"):
                read(index)
    with pytest.raises(ValueError, match="as many"):
        items_from_arrays("toy", described, embeddings, masks, {"tokens": np.zeros((2, 1))})
    with pytest.raises(ValueError, match="as many"):
        items_from_arrays("toy", described, embeddings, masks[:6])


class Reader(Head):
    """Adds the image's token to every cell that holds image."""

    name = "reader"
    needs = ("embedding", "tokens", "valid")

    def __init__(self):
        super().__init__(IdentityOptions())
        self.scale = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def align(self, features):
        assert {name: tensor.dtype for name, tensor in features.items()} == dict.fromkeys(
            self.needs, torch.float32
        )
        for token, embedding, valid in zip(
            *(features[n] for n in ("tokens", "embedding", "valid")), strict=True
        ):
            self.seen[int(token)] = (embedding, valid)
        return (
            features["embedding"]
            + self.scale * features["tokens"][:, :, None, None] * features["valid"][:, None]
        )


class Expects(Penalty):
    def term(self, step):
        assert set(step.pairs.features) == set(step.head.needs)
        assert len(step.pairs.features["tokens"]) == len(step.pairs.items)


@pytest.mark.parametrize("residency", ["device", "stream"])
def test_each_step_has_every_feature_of_its_images(residency):
    backbone, view = seeded_backbone(TINY, 0), toy_view()
    tokens = np.arange(7, dtype=np.float16)[:, None]
    view = with_feature(view, "tokens", tokens)
    options = TrainingOptions(epochs=1, batch_size=4)
    for run in (
        lambda head: fit_head(head, backbone, view, options, penalty=Expects(), residency=residency),
        lambda head: evaluate(head, backbone, view),
    ):
        head = Reader()
        run(head)
        assert head.seen.keys() == set(range(6)), "the last image has no mask"
        for index, (embedding, valid) in head.seen.items():
            np.testing.assert_array_equal(
                embedding.detach().numpy(), view.feature("embedding", index).astype(np.float32)
            )
            np.testing.assert_array_equal(valid.numpy(), view.item(index).geometry.valid_cells())
