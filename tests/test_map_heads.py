"""Heads without prompts as methods: maps of classes from the cache, in benches and as experts of a router."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Casam, draw_dataset

from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError, OptionError
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head, predict_low_res, run_head
from casam_cache.heads.class_maps import inside
from casam_cache.heads.files import build_head, load_head, save_head
from casam_cache.heads.testing import TINY
from casam_cache.training.evaluate import evaluate
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays
from casam_cache.training.loop import fit_head
from casam_cache.training.options import TrainingOptions

SMALL = {"fcn": {"width": 16, "blocks": 1}, "class-prompts": {"tokens": 2}}
SIDE, GRID = TINY.image_size, TINY.image_size // TINY.patch_size


def made(name: str, seed: int = 0, **options: Any) -> Head:
    return build_head(name, {**SMALL[name], **options}, seeded_backbone(TINY, 0), seed)


def drawn(squares: list[list[tuple[int, int, int]]]) -> Items:
    """An image for each list of squares (x, y, class) of 16 pixels; a channel of its embedding has each class."""
    items, masks = [], []
    embedding = np.random.default_rng(0).normal(0, 0.05, (len(squares), TINY.channels, GRID, GRID))
    for index, own in enumerate(squares):
        found = []
        for x, y, kind in own:
            bitmap = np.zeros((SIDE, SIDE), dtype=bool)
            bitmap[y : y + 16, x : x + 16] = True
            cell = SIDE // GRID
            embedding[index, kind] += bitmap[cell // 2 :: cell, cell // 2 :: cell]
            box = np.array([x, y, x + 15, y + 15], dtype=np.float32)
            found.append(ItemMask(bitmap, kind, len(found) + 1, box, box[:2] + 8))
        masks.append(found)
        items.append(Item(f"i{index}", "squares", f"g{index}", Geometry.fit(SIDE, SIDE, SIDE, 8), len(own)))
    return items_from_arrays("squares", items, embedding.astype(np.float16), masks, {})


TWO = [[(0, 0, 1), (32, 32, 2)], [(40, 8, 1), (8, 40, 2)], [(24, 0, 1), (24, 40, 2)]]


@pytest.mark.parametrize("name", list(SMALL))
def test_a_map_is_the_log_odds_of_its_class(name: str) -> None:
    head, backbone = made(name, classes=3), seeded_backbone(TINY, 0)
    features = {
        "embedding": torch.randn(2, TINY.channels, GRID, GRID, generator=torch.Generator().manual_seed(1)),
        "valid": torch.ones(2, GRID, GRID),
    }
    features["valid"][:, 6:] = 0
    with torch.no_grad():
        maps = head.align(features)
        shares = head.maps.logits(backbone, features["embedding"]).softmax(dim=1)[:, 1:]  # type: ignore[union-attr, operator]
    assert maps.shape == (2, 3, head.mask_side(backbone), head.mask_side(backbone))
    torch.testing.assert_close(maps.sigmoid(), shares)
    with torch.no_grad():
        sparse, dense = head.embed_prompts(backbone, Prompts(count=2), torch.tensor([3, 1]))
        _, low_res, iou = run_head(head, backbone, features, None, sparse, dense)
    meant = torch.stack([maps[0, 2], maps[1, 0]])
    assert torch.equal(low_res[:, 0], meant)
    with pytest.raises(CasamError, match="does not say which is meant"):
        predict_low_res(head, backbone, features, Prompts(count=2))
    part = meant.sigmoid()[:, : maps.shape[-1] * 6 // GRID]
    chosen = part > 0.5
    expected = (part * chosen).sum((1, 2)) / (chosen.sum((1, 2)) + (part * ~chosen).sum((1, 2)))
    torch.testing.assert_close(iou[:, 0], expected, msg="padding counts nowhere")


@pytest.mark.parametrize("name", list(SMALL))
def test_it_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    head, backbone = made(name, seed=5, classes=2), seeded_backbone(TINY, 0)
    save_head(head, tmp_path)
    loaded = load_head(tmp_path, backbone)
    assert loaded.options == head.options
    embedding = torch.randn(1, TINY.channels, GRID, GRID, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.align({"embedding": embedding}), head.align({"embedding": embedding}))


def test_it_learns_maps_of_classes_and_each_mask_is_scored_on_its_own() -> None:
    items, backbone = drawn(TWO), seeded_backbone(TINY, 0)
    head = made("fcn", classes=2)
    options = TrainingOptions(epochs=60, max_steps=60, batch_size=4, learning_rate=3e-3, held_out=0)
    fit_head(head, backbone, items, options)
    found = evaluate(head, backbone, items)
    assert min(found.scores["iou"]) > 0.5
    assert sorted(set(found.class_id)) == [1, 2]


def test_what_it_cannot_say_is_refused() -> None:
    backbone = seeded_backbone(TINY, 0)
    with pytest.raises(
        CasamError, match="squares/i0 has a mask of class 2, and the network predicts 1 map"
    ) as told:
        evaluate(made("fcn"), backbone, drawn(TWO))
    assert "--set classes=2" in told.value.hint
    cells = drawn([[(0, 0, 1), (32, 32, 1)]])
    with pytest.raises(CasamError, match="several masks of one class") as told:
        evaluate(made("fcn"), backbone, cells)
    assert "a method that answers prompts" in told.value.hint
    assert len(evaluate(made("fcn", cut="box"), backbone, cells)) == 2
    with pytest.raises(OptionError):
        made("fcn", classes=0)


def test_a_cut_answers_nothing_outside_the_box() -> None:
    head, backbone = made("fcn", cut="box").eval(), seeded_backbone(TINY, 0)
    features = {"embedding": torch.randn(1, TINY.channels, GRID, GRID), "valid": torch.ones(1, GRID, GRID)}
    box = torch.tensor([[16.0, 16.0, 31.0, 31.0]])
    low_res, _ = predict_low_res(head, backbone, features, Prompts(boxes=box))
    side = low_res.shape[-1]
    own = inside(box, side, SIDE)[0]
    assert int(own.sum()) == (side // 4) ** 2
    assert not (low_res[0, 0][~own] > 0).any()


def test_in_a_bench_and_behind_the_router_of_ca_sam(
    casam: Casam, encode: Callable[..., Any], discs: Path, tmp_path: Path
) -> None:
    encode(discs)
    encode(draw_dataset(tmp_path / "data" / "more", seed=1))
    asked = ("--methods", "frozen,fcn,ca-sam,ca-sam-fcn", "--order", "random", "--orders", 1)
    steps = ("--set", "max_steps=2", "--set", "held_out=0")
    rows = {row["method"]: row for row in casam.json("bench", *asked, *steps)["results"]}
    assert casam.code == 0, casam.err
    routed = rows["ca-sam"], rows["ca-sam-fcn"]
    for name in ("confusion", "thresholds", "routing_accuracy"):
        values = [row.get(name) for row in routed]
        assert values[0] == values[1], name
    assert rows["ca-sam-fcn"]["last_iou"] != rows["ca-sam"]["last_iou"]
    told = casam("fit", "--task", "discs", "--method", "fcn", *steps)
    assert casam.code == 0, casam.err
    run = re.findall(r"casam_runs/fit/\w+", told + casam.err)[0]
    found = casam.json("predict", discs / "images" / "p004.png", "--box", "5,5,20,20", "--run", run)
    assert casam.code == 0, casam.err
    assert found["head"] == "fcn"
