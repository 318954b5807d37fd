"""Proposals as a method: taught in the loop of all heads, answering for each true mask with what was found of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Casam
from test_map_heads import GRID, SIDE, TWO, drawn
from test_proposals import draw_blobs

from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head, predict_low_res, run_head
from casam_cache.heads.files import build_head, load_head, save_head
from casam_cache.heads.testing import TINY
from casam_cache.training.cost import training_flops
from casam_cache.training.evaluate import evaluate
from casam_cache.training.loop import fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.proposals import Objects, proposal_loss, targets_of
from casam_cache.training.step import Penalty

CELL = SIDE // GRID


def made(seed: int = 0, **options: Any) -> Head:
    return build_head("proposals", {"width": 16, **options}, seeded_backbone(TINY, 0), seed)


def told(
    head: Head, monkeypatch: pytest.MonkeyPatch, objects: list[tuple[int, int, int, float, list[int]]]
) -> None:
    """The head says (class, row, column, score, box) of every image."""
    logits = torch.full((1, 2, GRID, GRID), -10.0)
    boxes = torch.zeros((1, 2, 4, GRID, GRID))
    for kind, row, column, score, box in objects:
        logits[0, kind - 1, row, column] = torch.tensor(score).logit()
        boxes[0, kind - 1, :, row, column] = torch.tensor(box, dtype=torch.float32)

    def said(_: Any, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits.repeat(len(embedding), 1, 1, 1), boxes.repeat(len(embedding), 1, 1, 1, 1)

    monkeypatch.setattr(head.finder, "maps", said)


def features(images: int = 1, rows: int = GRID) -> dict[str, torch.Tensor]:
    drawn_numbers = torch.Generator().manual_seed(1)
    found = {"embedding": torch.randn(images, TINY.channels, GRID, GRID, generator=drawn_numbers)}
    valid = torch.zeros(images, GRID, GRID)
    valid[:, :rows] = 1
    return {**found, "valid": valid}


def test_a_prompt_says_which_found_object_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    head, backbone = made(classes=2, overlap=1.0).eval(), seeded_backbone(TINY, 0)
    objects = [
        (1, 1, 1, 0.9, [0, 0, 20, 20]),
        (1, 5, 5, 0.6, [36, 36, 60, 60]),
        (2, 1, 5, 0.8, [36, 0, 60, 20]),
        (1, 5, 1, 0.2, [0, 36, 20, 60]),  # below the threshold
    ]
    told(head, monkeypatch, objects)
    boxes = torch.tensor(
        [[2.0, 2, 18, 18], [38, 38, 58, 58], [38, 2, 58, 18], [38, 2, 58, 18], [2, 38, 18, 58]]
    )
    classes = torch.tensor([1, 1, 2, 1, 1])
    sparse, dense = head.embed_prompts(backbone, Prompts(boxes=boxes), classes)
    given, image = features(), torch.zeros(5, dtype=torch.long)
    with torch.no_grad():
        _, low_res, scores = run_head(head, backbone, given, image, sparse, dense)
    assert scores[:, 0].tolist() == pytest.approx([0.9, 0.6, 0.8, 0, 0])
    assert (low_res[3:] < 0).all(), "another class, or not sure enough: nothing"
    for row, (*_, box) in ((0, objects[0]), (1, objects[1]), (2, objects[2])):
        own = backbone.embed_prompts(Prompts(boxes=torch.tensor([box], dtype=torch.float32)))
        with torch.no_grad():
            answer, _ = backbone.decode(given["embedding"], torch.zeros(1, dtype=torch.long), *own, False)
        torch.testing.assert_close(
            low_res[row], answer[0], msg="the mask is SAM's answer to the proposed box"
        )
    with pytest.raises(CasamError, match="does not say which is meant"):
        predict_low_res(head, backbone, given, Prompts(boxes=boxes[:1]))


def test_nothing_is_found_in_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    head, backbone = made(classes=2).eval(), seeded_backbone(TINY, 0)
    told(head, monkeypatch, [(1, 5, 1, 0.9, [0, 36, 20, 60])])
    for rows, score in ((GRID, 0.9), (4, 0.0)):
        sparse, dense = head.embed_prompts(
            backbone, Prompts(boxes=torch.tensor([[0.0, 20, 20, 60]])), torch.tensor([1])
        )
        with torch.no_grad():
            found = run_head(head, backbone, features(rows=rows), None, sparse, dense)[2]
        assert found.item() == pytest.approx(score)


def test_it_learns_where_objects_are_in_the_loop_of_all_heads() -> None:
    """Its loss is that of all objects of an image, whichever mask a visit drew."""
    items, backbone = drawn(TWO), seeded_backbone(TINY, 0)
    head = made(classes=2)
    objects = Objects.prepare(items, (1, 2), head.finder.side(backbone))  # type: ignore[union-attr, operator]
    targets = targets_of(objects, [0, 1, 2], 2, SIDE)
    embedding = torch.from_numpy(np.stack([items.feature("embedding", index) for index in range(3)])).float()
    with torch.no_grad():
        before = float(proposal_loss(*head.finder.maps(backbone, embedding), targets, 2.0))  # type: ignore[union-attr, operator]
    options = TrainingOptions(epochs=80, batch_size=3, learning_rate=3e-3, mix=0.0)
    result = fit_head(head, backbone, items, options)
    assert result.history[0].loss == pytest.approx(before, rel=1e-4)
    assert result.history[-1].loss < before / 5
    assert (result.history[0].focal, result.history[0].dice, result.history[0].iou) == (0, 0, 0)
    found = evaluate(head, backbone, items)
    assert min(found.predicted_iou) > 0.3, "every object was found, with its score"
    assert set(evaluate(made(classes=2), backbone, items).predicted_iou) == {0}, "untrained, nothing is"


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    head, backbone = made(seed=5, classes=2, least_score=0.4), seeded_backbone(TINY, 0)
    save_head(head, tmp_path)
    loaded = load_head(tmp_path, backbone)
    assert loaded.options == head.options
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_a_training_pass_has_no_part_of_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = seeded_backbone(TINY, 0)

    def refuse(*_: Any) -> None:
        raise AssertionError("the decoder has no part in training")

    monkeypatch.setattr(type(backbone), "decode", refuse)
    costs = [
        training_flops(made(depth=depth).train(), backbone) - backbone.encoder_flops() for depth in (1, 2)
    ]
    assert 0 < costs[0] < costs[1]


def test_what_it_cannot_be_taught_is_refused() -> None:
    items, backbone = drawn(TWO), seeded_backbone(TINY, 0)
    with pytest.raises(
        CasamError, match="squares/i0 has a mask of class 2, and the head finds objects of 1 class"
    ) as no:
        fit_head(made(), backbone, items, TrainingOptions(epochs=1))
    assert "--set classes=2" in no.value.hint
    with pytest.raises(CasamError, match="there is a mask of class 2"):
        evaluate(made(), backbone, items)
    with pytest.raises(CasamError, match="compiled=true compiles the loss of masks"):
        fit_head(made(classes=2), backbone, items, TrainingOptions(epochs=1, compiled=True))
    with pytest.raises(CasamError, match="a penalty is added to the loss of masks"):
        fit_head(made(classes=2), backbone, items, TrainingOptions(epochs=1), penalty=Penalty())


def test_in_a_bench_in_ca_sam_in_a_search_and_in_a_prediction(
    casam: Casam, encode: Callable[..., Any], tmp_path: Path
) -> None:
    for number, name in enumerate(("blobs", "more")):
        encode(draw_blobs(tmp_path / "data" / name, seed=number), "--masks", "instances")
    steps = ("--set", "max_steps=3", "--set", "held_out=0", "--set", "width=16", "--set", "least_score=0.01")
    asked = ("--methods", "frozen,proposals,ca-sam,ca-sam-proposals", "--order", "random", "--orders", 1)
    rows = {row["method"]: row for row in casam.json("bench", *asked, *steps)["results"]}
    assert casam.code == 0, casam.err
    routed = rows["ca-sam"], rows["ca-sam-proposals"]
    for name in ("confusion", "thresholds", "routing_accuracy"):
        assert routed[0].get(name) == routed[1].get(name), name
    assert rows["proposals"]["parameters"] == rows["ca-sam-proposals"]["parameters"] > 0
    assert rows["ca-sam-proposals"]["last_iou"] != rows["ca-sam"]["last_iou"]
    told_of = casam("fit", "--task", "blobs", "--method", "proposals", *steps)
    assert casam.code == 0, casam.err
    run = re.findall(r"casam_runs/fit/\w+", told_of + casam.err)[0]
    found = casam.json("predict", tmp_path / "data/blobs/images/b004.png", "--box", "5,5,20,20", "--run", run)
    assert casam.code == 0, casam.err
    assert found["head"] == "proposals"
    searched = casam.json(
        "search", "--head", "proposals", "--tasks", "blobs", "--trials", 2, "--no-pruning", "--set", "max_steps=3",
        "--set", "held_out=0", "--objective", "iou,flops",
    )  # fmt: skip
    assert casam.code == 0, casam.err
    assert len(searched["trials"]) == 2
    assert all(trial["state"] == "complete" for trial in searched["trials"])
