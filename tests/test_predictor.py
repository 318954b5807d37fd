"""Prompts on one image as often as wanted: equal to SamPredictor, from pixels and from a store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Casam, draw_dataset
from PIL import Image
from upstream_sam import TINY, official_sam, predictor, relative_difference, upstream_sam

from casam_cache.backbones.architecture import ARCHITECTURES, Architecture
from casam_cache.backbones.sam import SamBackbone, backbone_state, seeded_backbone
from casam_cache.bench.predict import PROMPTS_AT_ONCE, Predictor
from casam_cache.errors import OptionError, StoreError
from casam_cache.heads.base import Head
from casam_cache.store import EmbeddingStore

Encode = Callable[..., Any]
TOLERANCE = 1e-5
HEIGHT, WIDTH = 61, 83


def written(backbone: SamBackbone, path: Path) -> Path:
    """A checkpoint of it that states its architecture."""
    from safetensors.torch import save_file

    state = {key: value.contiguous() for key, value in backbone_state(backbone).items()}
    save_file(state, path, metadata={"architecture": json.dumps(backbone.architecture.to_json())})
    return path


def random_image(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (5 + 9 * k)) * np.cos(columns / (7 + 5 * k)) for k in range(3)], axis=-1)
    return np.clip(128 + 80 * waves + rng.normal(0, 30, waves.shape), 0, 255).astype(np.uint8)


def forms(height: int, width: int, low_res: int) -> dict[str, dict[str, Any]]:
    """Every kind of prompt of one object, as `predict` of segment_anything takes it."""
    rng = np.random.default_rng(3)
    size = np.array([width - 1, height - 1])
    box = (np.sort(rng.uniform(0, 1, (2, 2)), axis=0) * size).reshape(4)
    points, labels = rng.uniform(0, 1, (3, 2)) * size, np.array([1, 0, 1])
    mask = rng.normal(0, 5, (1, low_res, low_res)).astype(np.float32)
    return {
        "point": {"point_coords": points[:1], "point_labels": labels[:1]},
        "background": {"point_coords": points[1:2], "point_labels": labels[1:2]},
        "points": {"point_coords": points, "point_labels": labels},
        "box": {"box": box},
        "box and points": {"box": box, "point_coords": points, "point_labels": labels},
        "mask": {"mask_input": mask},
        "box and mask": {"box": box, "mask_input": mask},
        "points and mask": {"point_coords": points, "point_labels": labels, "mask_input": mask},
    }


OURS = {"point_coords": "points", "point_labels": "labels", "box": "boxes", "mask_input": "mask_input"}


def check_against(ours: Predictor, reference: Any, form: dict[str, Any], multimask: bool) -> None:
    """Low-res logits and scores to 1e-5; masks equal but for pixels whose logit is as good as zero."""
    expected, scores, low_res = reference.predict(**form, multimask_output=multimask, return_logits=True)
    found = ours.predict(**{OURS[name]: value for name, value in form.items()}, multimask=multimask)
    count = 3 if multimask else 1
    assert found.masks.shape == (1, count, *ours.size)
    assert found.low_res.shape == (1, count, ours.low_res, ours.low_res)
    assert relative_difference(torch.from_numpy(found.low_res[0]), torch.from_numpy(low_res)) <= TOLERANCE
    np.testing.assert_allclose(found.scores[0], scores, rtol=1e-5, atol=1e-5)
    flipped = np.abs(expected[found.masks[0] != (expected > 0)])
    assert float(flipped.max(initial=0)) <= TOLERANCE * float(np.abs(expected).max())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Predictor, Any]:
    """Ours and upstream's, with the same image set."""
    backbone = seeded_backbone(TINY, seed=1)
    path = written(backbone, tmp_path_factory.mktemp("tiny") / "tiny.safetensors")
    image = random_image(HEIGHT, WIDTH)
    reference = predictor(upstream_sam(backbone))
    reference.set_image(image)
    ours = Predictor(model="small", checkpoint=path, device="cpu", dtype="float32")
    return ours.set_image(image), reference


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("form", list(forms(HEIGHT, WIDTH, 1)))
def test_every_prompt_equals_sam_predictor(tiny: tuple[Predictor, Any], form: str, multimask: bool) -> None:
    check_against(*tiny, forms(HEIGHT, WIDTH, tiny[0].low_res)[form], multimask)


@pytest.mark.parametrize("multimask", [False, True])
def test_several_boxes_equal_sam_predictor(tiny: tuple[Predictor, Any], multimask: bool) -> None:
    ours, reference = tiny
    rng = np.random.default_rng(4)
    corners = rng.uniform(0, 1, (PROMPTS_AT_ONCE + 3, 2, 2)) * [WIDTH, HEIGHT]
    boxes = np.sort(corners, axis=1).reshape(-1, 4).astype(np.float32)
    moved = reference.transform.apply_boxes_torch(torch.from_numpy(boxes), (HEIGHT, WIDTH))
    expected, scores, low_res = reference.predict_torch(None, None, moved, multimask_output=multimask)
    found = ours.predict(boxes=boxes, multimask=multimask)
    assert len(found) == len(boxes)
    assert relative_difference(torch.from_numpy(found.low_res), low_res) <= TOLERANCE
    np.testing.assert_allclose(found.scores, scores.numpy(), rtol=1e-5, atol=1e-5)
    assert (found.masks != expected.numpy()).mean() < 1e-4
    assert found.objects.shape == (len(boxes), HEIGHT, WIDTH)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_prompt_equals_sam_predictor_at_vit_b_size(tmp_path: Path) -> None:
    backbone = seeded_backbone(ARCHITECTURES["vit_b"], seed=2)
    torch.save(backbone_state(backbone), tmp_path / "vit_b.pth")
    image = random_image(333, 500)
    reference = predictor(official_sam("vit_b", backbone))
    reference.set_image(image)
    ours = Predictor(model="vit_b", checkpoint=tmp_path / "vit_b.pth", device="cpu", dtype="float32")
    ours.set_image(image)
    for form in forms(333, 500, ours.low_res).values():
        for multimask in (False, True):
            check_against(ours, reference, form, multimask)


def test_a_round_of_refinement(tiny: tuple[Predictor, Any]) -> None:
    """The logits of one round are a mask input of the next, and decide something."""
    ours, reference = tiny
    first = ours.predict(points=[[30, 20]])
    assert first.masks.shape[1] == 3  # one point alone is ambiguous
    assert first.predicted_iou == first.scores.max()
    again = ours.predict(points=[[30, 20], [5, 50]], labels=[1, 0], mask_input=first.logits)
    assert again.masks.shape[1] == 1
    _, _, low_res = reference.predict(
        np.array([[30, 20], [5, 50]]), np.array([1, 0]), mask_input=first.logits[0], multimask_output=False
    )
    assert relative_difference(torch.from_numpy(again.low_res[0]), torch.from_numpy(low_res)) <= TOLERANCE
    assert not np.array_equal(again.low_res, ours.predict([[30, 20], [5, 50]], [1, 0]).low_res)


def test_an_image_is_encoded_and_aligned_once(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(discs)
    report = casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")
    calls: list[str] = []
    align, encoded = Head.align, SamBackbone.encoding

    def counted_align(self: Head, features: Any) -> Any:
        calls.append("align")
        return align(self, features)

    def counted_encoding(self: SamBackbone, settings: Any) -> Any:
        forward = encoded(self, settings)

        def counted(*arguments: Any) -> Any:
            calls.append("encode")
            return forward(*arguments)

        return counted

    monkeypatch.setattr(Head, "align", counted_align)
    monkeypatch.setattr(SamBackbone, "encoding", counted_encoding)
    ours = Predictor(casam.folder / report["run"], device="cpu").set_image(discs / "images" / "p004.png")
    for box in ((5, 5, 20, 20), (8, 8, 30, 30)):
        ours.predict(boxes=box)
    assert calls == ["encode", "align"]


@pytest.fixture
def fitted(casam: Casam, encode: Encode, discs: Path) -> tuple[Path, Path, Path]:
    """A run, its store, and the folder of its images."""
    encode(discs)
    report = casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")
    return (
        casam.folder / report["run"],
        casam.folder / "casam_store" / "discs" / "tiny.zarr",
        discs / "images",
    )


@pytest.mark.parametrize("kind", ["fit", "frozen"])
def test_a_stored_item_equals_its_image_and_needs_no_encoder(
    fitted: tuple[Path, Path, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, store, images = fitted
    given: dict[str, Any] = {"run": run} if kind == "fit" else {"store": store}
    from_image = Predictor(**given, device="cpu").set_image(images / "p004.png").predict(boxes=(5, 5, 30, 30))
    monkeypatch.setattr(
        SamBackbone, "load", classmethod(lambda *a, **b: pytest.fail("the encoder was loaded"))
    )
    ours = Predictor(**given, device="cpu").set_item(store, "p004")
    assert ours.size == (48, 40)
    from_store = ours.predict(boxes=(5, 5, 30, 30))
    np.testing.assert_array_equal(from_store.low_res, from_image.low_res)
    np.testing.assert_array_equal(from_store.masks, from_image.masks)
    assert from_store.mask.any()
    assert from_store.image is None
    assert from_image.image is not None


def test_exact_embeddings_are_asked_for(fitted: tuple[Path, Path, Path]) -> None:
    run, _, images = fitted
    rounded, exact = (
        Predictor(run, device="cpu", dtype=dtype).set_image(images / "p004.png").predict(boxes=(5, 5, 30, 30))
        for dtype in (None, "float32")
    )
    assert not np.array_equal(rounded.low_res, exact.low_res)
    np.testing.assert_allclose(rounded.low_res, exact.low_res, atol=0.02 * np.abs(exact.low_res).max())
    with pytest.raises(OptionError, match="float64"):
        Predictor(run, device="cpu", dtype="float64")


def test_a_store_of_another_backbone_is_refused(
    casam: Casam, fitted: tuple[Path, Path, Path], discs: Path, tmp_path: Path
) -> None:
    run, store, _ = fitted
    other = Architecture.from_json({**TINY.to_json(), "image_size": 64})
    path = written(seeded_backbone(other, seed=9), tmp_path / "other.safetensors")
    casam("encode", discs, "--model", "small", "--checkpoint", path, "--name", "other")
    assert casam.code == 0, casam.err
    ours = Predictor(run, device="cpu")
    with pytest.raises(StoreError, match="another backbone"):
        ours.set_item(store.with_name("other.zarr"), "p004")
    with pytest.raises(StoreError, match="no item 'p999'"):
        ours.set_item(store, "p999")
    with pytest.raises(OptionError, match="no image"):
        ours.predict(boxes=(5, 5, 20, 20))


def test_a_store_of_another_preprocessing_is_refused(
    casam: Casam, fitted: tuple[Path, Path, Path], encode: Encode, tmp_path: Path
) -> None:
    run, _, _ = fitted
    encode(draw_dataset(tmp_path / "data" / "stretched"), "--resize", "stretch")
    assert casam.code == 0, casam.err
    store = casam.folder / "casam_store" / "stretched" / "tiny.zarr"
    with pytest.raises(StoreError, match=r"another preprocessing .*: resize"):
        Predictor(run, device="cpu").set_item(store, "p004")
    frozen = Predictor(store=store, device="cpu").set_item(EmbeddingStore.open(store), "p004")
    assert frozen.predict(boxes=(5, 5, 20, 20)).mask.shape == (48, 40)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({}, "no prompt"),
        ({"boxes": (5, 5, np.nan, 20)}, "box .*finite"),
        ({"boxes": (5, 5, np.inf, 20)}, "box .*finite"),
        ({"boxes": (20, 5, 5, 20)}, "box .*reversed: x0 > x1"),
        ({"boxes": (5, 20, 20, 5)}, "box .*reversed: y0 > y1"),
        ({"boxes": (5, 5, WIDTH + 1, 20)}, f"box .*not inside the image of {WIDTH} x {HEIGHT}"),
        ({"boxes": (-1, 5, 20, 20)}, "box .*not inside"),
        ({"boxes": (5.5, 5, 5.5, 20)}, "box .*no area"),
        ({"boxes": (5, HEIGHT, 9, HEIGHT)}, "box .*no area"),
        ({"boxes": (5, 5, 5.5, 5)}, "box .*no area"),
        ({"boxes": [(5, 5, 20, 20), (9, 9, 3, 20)]}, "box 2 of 2 .*reversed"),
        ({"boxes": (5, 5, 20)}, "boxes have the shape 3"),
        ({"points": [(WIDTH + 1, 5)]}, "point .*outside"),
        ({"points": [(np.nan, 5)]}, "point .*finite"),
        ({"points": [(5, 5)], "labels": [2]}, "label 2"),
        ({"points": [(5, 5)], "labels": [0.5]}, "whole numbers"),
        ({"points": [(5, 5)], "labels": [1, 0]}, "one label"),
        ({"points": (5, 5)}, "points have the shape"),
        ({"labels": [1]}, "labels without points"),
        ({"boxes": (5, 5, 20, 20), "points": [[(5, 5)], [(6, 6)]]}, "1 and 2 objects"),
        ({"mask_input": np.zeros((3, 3))}, "mask_input have the shape 3 x 3"),
    ],
)
def test_a_wrong_prompt_is_named(tiny: tuple[Predictor, Any], prompt: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tiny[0].predict(**prompt)


def test_a_mask_input_that_is_not_finite(tiny: tuple[Predictor, Any]) -> None:
    mask = np.zeros((tiny[0].low_res, tiny[0].low_res))
    mask[3, 3] = np.nan
    with pytest.raises(OptionError, match=r"mask_input .*not finite"):
        tiny[0].predict(mask_input=mask)


def test_the_box_of_one_pixel_is_a_prompt(casam: Casam, encode: Encode, tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data" / "dots")
    dot = np.zeros((48, 40), np.uint8)
    dot[47, 39] = 255
    Image.fromarray(dot).save(root / "masks" / "p004.png")
    encode(root)
    store = EmbeddingStore.open(casam.folder / "casam_store" / "dots" / "tiny.zarr")
    annotations = store.annotations
    row = next(r for r in range(len(annotations)) if int(annotations.item[r]) == store.index("p004"))
    (mask,) = annotations.masks_of(row)
    box = annotations.box[mask]
    assert box.tolist() == [39, 47, 39, 47]
    found = Predictor(store=store.path, device="cpu").set_item(store, "p004").predict(boxes=box)
    assert found.mask.shape == (48, 40)


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32)])
def test_an_array_that_is_no_image(tiny_checkpoint: Path, image: np.ndarray) -> None:
    with pytest.raises(OptionError, match="uint8"):
        Predictor(model="small", checkpoint=tiny_checkpoint, device="cpu").set_image(image)


def test_several_objects_have_no_single_mask(tiny: tuple[Predictor, Any]) -> None:
    found = tiny[0].predict(boxes=[(5, 5, 20, 20), (9, 9, 30, 30)])
    with pytest.raises(ValueError, match="2 prompts"):
        _ = found.mask
    assert found.object_scores.shape == (2,)
