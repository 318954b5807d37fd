"""Prompts of evaluation: what a decoder gets of each, what is scored, and that the true box is as it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from upstream_sam import TINY, predictor, upstream_sam

from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.bench.recipe import read_recipe
from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.bench.tasks import SplitRef
from casam_cache.datasets import interior_point, mask_box
from casam_cache.errors import OptionError
from casam_cache.fingerprint import digest
from casam_cache.geometry import Geometry
from casam_cache.heads.base import predict_low_res
from casam_cache.heads.files import build_head
from casam_cache.metrics.overlap import iou
from casam_cache.training.clicks import Click, ClickOutcomes, next_click
from casam_cache.training.evaluate import evaluate
from casam_cache.training.evaluation_prompts import BOX, parse_prompt
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays, join

SIDE = 32  # of the toy images: with patches of 4 pixels a low-res mask has a pixel for each of the image


# What a decoder gets, and what is scored


class Fake:
    """A backbone that keeps the prompts it gets, and answers with what a function of them says, pixel for pixel."""

    device = torch.device("cpu")
    mask_decoder = None

    def __init__(self, answer: Any) -> None:
        self.answer, self.seen = answer, []

    def embed_prompts(self, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append({"prompts": prompts})
        return torch.zeros(len(prompts), 1, 4), torch.zeros(len(prompts), 4, 8, 8)

    def decode(
        self,
        embedding: torch.Tensor,
        image: torch.Tensor,
        sparse: torch.Tensor,
        dense: torch.Tensor,
        multimask: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of three masks the second is the answer and has the highest estimate."""
        self.seen[-1] |= {"image": image.tolist(), "multimask": multimask}
        prompts = self.seen[-1]["prompts"]
        number = embedding[image, 0, 0, 0].round().int().tolist()  # of the image, whatever the batch
        masks = torch.stack([self.answer(prompts, place, number[place]) for place in range(len(prompts))])
        logits = (masks.float() * 2 - 1)[:, None] * torch.linspace(1, 2, len(prompts))[:, None, None, None]
        if not multimask:
            return logits, torch.full((len(prompts), 1), 0.5)
        return torch.cat([-logits, logits, -logits], 1), torch.tensor([[0.2, 0.9, 0.4]]).repeat(
            len(prompts), 1
        )


def toy(bitmaps: Sequence[np.ndarray], per_item: int = 1) -> Items:
    """Masks (SIDE, SIDE), so many an item; the embedding of an item holds its number."""
    masks = [
        ItemMask(bitmap, 1, number % per_item + 1, mask_box(bitmap), interior_point(bitmap))
        for number, bitmap in enumerate(bitmaps)
    ]
    owned = [masks[start : start + per_item] for start in range(0, len(masks), per_item)]
    embeddings = np.zeros((len(owned), 4, 8, 8), np.float16)
    embeddings[:] = np.arange(len(owned))[:, None, None, None]
    geometry = Geometry.fit(SIDE, SIDE, SIDE, 4)
    items = [Item(f"image {n}", "toy", f"patient {n}", geometry, len(own)) for n, own in enumerate(owned)]
    return items_from_arrays("toy", items, embeddings, owned)


def three_discs() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    discs = [(8, 8, 6), (22, 24, 5), (26, 8, 3)]
    return np.logical_or.reduce([(y - cy) ** 2 + (x - cx) ** 2 < r**2 for cy, cx, r in discs])


IDENTITY = build_head("identity", None, seeded_backbone(TINY, 0), 0)


def test_iou_after_each_click_of_a_decoder_that_finds_what_it_is_told() -> None:
    truth = three_discs()
    numbered, found = ndimage.label(truth)
    assert found == 3
    parts = [numbered == part for part in (1, 2, 3)]

    def told(prompts: Prompts, place: int, image: int) -> torch.Tensor:
        found = np.zeros_like(truth)
        for x, y in prompts.points[place].int().tolist():
            found |= next(part for part in parts if part[y, x])
        return torch.from_numpy(found)

    fake, clicks = Fake(told), ClickOutcomes()
    outcomes = evaluate(IDENTITY, fake, toy([truth]), prompt=parse_prompt("clicks:5"), clicks=clicks)
    areas = sorted((int(part.sum()) for part in parts), reverse=True)
    expected = [sum(areas[:1]), sum(areas[:2]), sum(areas), sum(areas), sum(areas)]
    assert clicks.iou == [area / sum(areas) for area in expected]
    assert clicks.click == [1, 2, 3, 4, 5]
    assert clicks.positive == [1, 1, 1, -1, -1], "nothing was left to click on"
    assert list(zip(clicks.x, clicks.y, strict=True))[:3] == [(8, 8), (24, 22), (8, 26)]
    assert all(map(math.isnan, clicks.x[3:]))
    assert clicks.predicted_iou[:3] == pytest.approx([0.9, 0.5, 0.5])
    assert outcomes.scores["iou"] == [1.0]
    assert len(fake.seen) == 3, "a mask that is right is not decoded again"


def test_ignored_pixels_count_in_no_score_and_are_not_clicked_on() -> None:
    truth = three_discs()
    ignored = np.zeros_like(truth)
    ignored[:, 20:] = True
    truth &= ~ignored
    scores = []
    for beyond in (np.zeros_like(truth), ignored):  # what is predicted on ignored pixels does not matter

        def told(prompts: Prompts, place: int, image: int, beyond: np.ndarray = beyond) -> torch.Tensor:
            return torch.from_numpy(truth | beyond)

        items = toy([truth])
        row = replace(items.rows[0], ignored=lambda: ignored)
        clicks = ClickOutcomes()
        told_items = replace(items, rows=(row,))
        outcomes = evaluate(IDENTITY, Fake(told), told_items, prompt=parse_prompt("clicks:2"), clicks=clicks)
        scores.append(outcomes.scores)
        assert clicks.positive == [1, -1]
        boxed = evaluate(IDENTITY, Fake(told), told_items)
        assert boxed.scores == outcomes.scores
    assert scores[0] == scores[1]
    assert all(values == [1.0] for values in scores[0].values())


def test_what_each_click_gives_the_decoder() -> None:
    """Two masks of one image and one of another; whatever it is told, the decoder marks the left half."""
    truths = [three_discs(), np.eye(SIDE, dtype=bool), np.rot90(three_discs()).copy()]
    left = np.zeros((SIDE, SIDE), bool)
    left[:, : SIDE // 2] = True
    items = join([toy(truths[:2], per_item=2), toy(truths[2:])])
    fake, clicks = Fake(lambda prompts, place, image: torch.from_numpy(left)), ClickOutcomes()
    evaluate(IDENTITY, fake, items, prompt=parse_prompt("clicks:3"), clicks=clicks)
    assert [seen["multimask"] for seen in fake.seen] == [True, False, False]
    assert [seen["image"] for seen in fake.seen] == [[0, 0, 1]] * 3
    assert fake.seen[0]["prompts"].masks is None
    expected = (torch.from_numpy(left).float() * 2 - 1) * torch.linspace(1, 2, 3)[:, None, None]
    for number, seen in enumerate(fake.seen, 1):
        prompts = seen["prompts"]
        assert prompts.boxes is None
        assert prompts.points.shape == (3, number, 2)
        if number > 1:
            torch.testing.assert_close(prompts.masks[:, 0], expected)
        for place in range(3):
            made = slice(3 * place, 3 * place + number)
            assert prompts.labels[place].tolist() == clicks.positive[made]
            assert prompts.points[place].tolist() == [
                list(p) for p in zip(clicks.x[made], clicks.y[made], strict=True)
            ]
    assert set(clicks.positive) == {0, 1}
    for place, truth in enumerate(truths):
        assert clicks.iou[3 * place : 3 * place + 3] == [iou(left, truth)] * 3
        first, *later = range(3 * place, 3 * place + 3)
        assert [clicks.x[first], clicks.y[first]] == interior_point(truth).tolist()
        made = [Click(clicks.x[first], clicks.y[first], True)]
        for row in later:
            click = next_click(truth, left, made)
            assert click is not None
            assert (click.x, click.y, click.positive) == (
                clicks.x[row],
                clicks.y[row],
                bool(clicks.positive[row]),
            )
            made.append(click)


def test_a_point_is_answered_with_the_best_of_several_masks_and_a_box_with_the_single_one() -> None:
    truth = three_discs()
    for text, several, points in (("point", True, True), ("jitter:2px", False, False), ("box", False, False)):
        fake = Fake(lambda prompts, place, image: torch.from_numpy(truth))
        outcomes = evaluate(IDENTITY, fake, toy([truth, truth]), prompt=parse_prompt(text))
        [seen] = fake.seen
        assert seen["multimask"] is several
        assert (seen["prompts"].points is not None, seen["prompts"].boxes is None) == (points, points)
        assert outcomes.scores["iou"] == [1.0, 1.0]
        assert outcomes.predicted_iou == pytest.approx([0.9 if several else 0.5] * 2)


@pytest.mark.parametrize("text", ["jitter:0.3", "jitter:4px@2", "point:random", "point", "clicks:2"])
def test_prompts_do_not_depend_on_order_position_or_batch(text: str) -> None:
    rng = np.random.default_rng(5)
    bitmaps = []
    for _ in range(8):
        bitmap = np.zeros((SIDE, SIDE), bool)
        y, x = rng.integers(0, SIDE - 3, 2)
        bitmap[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
        bitmaps.append(bitmap)
    whole = toy(bitmaps, per_item=2)
    rows = whole.rows

    def seen(places: Sequence[int], at_once: int) -> dict[tuple[str, int, int], list[float]]:
        """Every number that the decoder was given, by image, mask and pass."""
        items = Items("toy", whole.embedding_shape, tuple(rows[place] for place in places))
        fake = Fake(lambda prompts, place, image: torch.from_numpy(np.roll(bitmaps[2 * image], 3)))
        outcomes = evaluate(IDENTITY, fake, items, prompt=parse_prompt(text), masks_at_once=at_once)
        names = iter(zip(outcomes.item, outcomes.instance, strict=True))
        found: dict[tuple[str, int, int], list[float]] = {}
        passes = parse_prompt(text).passes
        for start in range(0, len(fake.seen), passes):
            own = [next(names) for _ in fake.seen[start]["image"]]
            for number, each in enumerate(fake.seen[start : start + passes]):
                given = each["prompts"].boxes if each["prompts"].boxes is not None else each["prompts"].points
                for name, value in zip(own, given, strict=True):
                    found[(*name, number)] = value.flatten().tolist()
        return found

    first = seen([0, 1, 2, 3], 16)
    assert len(first) == 8 * parse_prompt(text).passes
    for values in first.values():
        assert 0 <= min(values) <= max(values) <= SIDE - 1
    assert seen([3, 1, 0, 2], 3) == first
    assert seen([2], 1).items() <= first.items()


def test_an_object_of_one_pixel_is_prompted_in_every_way() -> None:
    bitmap = np.zeros((SIDE, SIDE), bool)
    bitmap[SIDE - 1, 0] = True
    for text in ("box", "jitter:0.5", "jitter:9px", "point", "point:random", "clicks:3"):
        fake = Fake(lambda prompts, place, image: torch.from_numpy(bitmap))
        assert evaluate(IDENTITY, fake, toy([bitmap]), prompt=parse_prompt(text)).scores["iou"] == [1.0]
        given = fake.seen[0]["prompts"]
        x, y = (given.points[0, 0] if given.boxes is None else given.boxes[0, 2:]).tolist()
        assert 0 <= x <= (9 if "jitter" in text else 0)
        assert SIDE - 1 - 9 <= y <= SIDE - 1


# The frozen SAM


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Items]:
    """A SAM of random weights, and three images of 48 x 64 pixels with its own embeddings, rounded as stores do."""
    backbone = seeded_backbone(TINY, 3)
    rng = np.random.default_rng(0)
    items, owned, embeddings = [], [], []
    for number in range(3):
        pixels = torch.from_numpy(rng.standard_normal((1, 3, 64, 64)).astype(np.float32))
        with torch.no_grad():
            embeddings.append(backbone.encode(pixels, ["embedding"])["embedding"][0].numpy())
        masks = []
        for instance in (1, 2):
            bitmap = np.zeros((48, 64), bool)
            y, x = rng.integers(0, 30, 2)
            bitmap[y : y + 15, x : x + 12] = True
            masks.append(ItemMask(bitmap, 1, instance, mask_box(bitmap), interior_point(bitmap)))
        items.append(Item(f"i{number}", "toy", "g", Geometry.fit(48, 64, 64, 8), 2))
        owned.append(masks)
    return backbone, items_from_arrays("toy", items, np.stack(embeddings).astype(np.float16), owned)


def test_the_true_box_gives_the_bits_it_gave_before_there_were_other_prompts(tiny: tuple[Any, Items]) -> None:
    backbone, items = tiny
    head = build_head("identity", None, backbone, 0)
    masks = [mask for index in range(3) for mask in items.masks(index)]
    geometry = items.item(0).geometry
    features = torch.from_numpy(np.stack([items.feature("embedding", index) for index in range(3)]))
    prompts = Prompts(boxes=torch.from_numpy(geometry.boxes_to_input(np.stack([mask.box for mask in masks]))))
    low_res, estimates = predict_low_res(head, backbone, features, prompts, torch.tensor([0, 0, 1, 1, 2, 2]))
    predicted: list[np.ndarray] = []
    outcomes = evaluate(head, backbone, items, on_mask=lambda item, mask, bitmap: predicted.append(bitmap))
    assert outcomes.predicted_iou == estimates[:, 0].tolist()
    for place, bitmap in enumerate(predicted):
        assert np.array_equal(bitmap, (upscale(low_res[[place], 0], geometry)[0] > 0).numpy())
    assert outcomes == evaluate(head, backbone, items, prompt=BOX)


@pytest.mark.parametrize("text", ["box", "jitter:0.2", "point", "point:random", "clicks:4"])
def test_every_prompt_is_answered_as_by_the_predictor_of_segment_anything(
    tiny: tuple[Any, Items], text: str
) -> None:
    backbone, items = tiny
    prompt = parse_prompt(text)
    asked = predictor(upstream_sam(backbone))
    predicted: list[np.ndarray] = []
    clicks = ClickOutcomes()
    head = build_head("identity", None, backbone, 0)
    outcomes = evaluate(
        head, backbone, items, prompt=prompt, clicks=clicks,
        on_mask=lambda item, mask, bitmap: predicted.append(bitmap),
    )  # fmt: skip
    for place in range(6):
        index, mask = place // 2, items.masks(place // 2)[place % 2]
        owner = ("toy", f"i{index}", 1, place % 2 + 1)
        asked.original_size, asked.input_size = (48, 64), (48, 64)
        asked.features = torch.from_numpy(items.feature("embedding", index)).float()[None]
        asked.is_image_set = True
        if not prompt.ambiguous:
            box = prompt.box(mask.box, (48, 64), owner)
            masks, scores, logits = asked.predict(box=box, multimask_output=False)
        elif prompt.kind == "point":
            point = prompt.point(mask.bitmap, mask.point, owner)
            masks, scores, logits = asked.predict(point[None], np.array([1]), multimask_output=True)
        else:
            rows = slice(4 * place, 4 * place + 4)
            where = np.stack([clicks.x[rows], clicks.y[rows]], axis=1)
            labels, before = np.array(clicks.positive[rows]), None
            assert (labels >= 0).all()
            for number in range(1, 5):
                masks, scores, logits = asked.predict(
                    where[:number], labels[:number], mask_input=before, multimask_output=number == 1
                )
                best = int(scores.argmax())
                before = logits[[best]]
                assert clicks.iou[4 * place + number - 1] == pytest.approx(
                    iou(masks[best], mask.bitmap), abs=0.01
                )
                assert clicks.predicted_iou[4 * place + number - 1] == pytest.approx(scores[best], abs=1e-4)
        best = int(scores.argmax())
        assert outcomes.predicted_iou[place] == pytest.approx(float(scores[best]), abs=1e-4)
        assert (masks[best] != predicted[place]).mean() < 0.005, "but for pixels at 0 to the last bit"


# Keys and files


def test_scorings_from_the_true_box_keep_their_names() -> None:
    content = SplitRef("polyps", "test", "0" * 64)
    metrics = (("iou", 1), ("biou", 1), ("dice", 1))
    box = Evaluate(items=content, head=None, metrics=metrics)
    assert box.key == "db30c618b682c6144430", "results of earlier releases would be computed again"
    assert Evaluate(items=content, head=None, metrics=metrics, prompt=BOX.name).key == box.key
    texts = ["jitter:0.1", "jitter:0.1@1", "jitter:5px", "point", "point:random", "clicks:5", "clicks:4"]
    keys = {
        Evaluate(items=content, head=None, metrics=metrics, prompt=parse_prompt(text).name).key
        for text in texts
    }
    assert len(keys - {box.key}) == len(texts)


def test_recipes_with_true_boxes_keep_their_names_and_others_are_checked() -> None:
    plain = {"title": "T", "methods": ["frozen"]}
    for recipe in (plain, {**plain, "prompts": "box"}):
        named = digest(read_recipe(recipe, "of a test").model_dump(mode="json"))
        assert named.startswith("51219ed055353a27b968")
    assert (
        read_recipe({**plain, "prompts": "jitter:.10"}, "of a test").model_dump()["prompts"] == "jitter:0.1"
    )
    with pytest.raises(OptionError, match="prompts: unknown prompt 'boxes'"):
        read_recipe({**plain, "prompts": "boxes"}, "of a test")


def test_clicks_come_back_from_their_file_to_the_bit() -> None:
    clicks = ClickOutcomes()
    clicks.append("toy", 'a "b"\nc', "g", 1, 2, 1, 1, 3.0, 4.0, 1 / 3, 2 / 3)
    clicks.append("toy", 'a "b"\nc', "g", 1, 2, 2, -1, math.nan, math.nan, 1 / 3, math.nan)
    text = clicks.to_csv()
    again = ClickOutcomes.from_csv(text)
    assert again.to_csv() == text
    assert again.item == clicks.item
    assert again.after(1) == [2 / 3]
    assert math.isnan(again.after(2)[0])
    for damaged in (text[:-2], text.replace("click,", ""), "", text + "toy\r\n"):
        with pytest.raises(ValueError, match=r"clicks|columns|cut off"):
            ClickOutcomes.from_csv(damaged)
