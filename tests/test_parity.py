"""The same numbers as `segment_anything` in float32 with random weights: modules, batches, the predictor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from upstream_sam import TINY, official_sam, predictor, relative_difference, upstream_sam

from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.backbones.base import Backbone
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.prompts import Prompts, concatenate_prompts, upscale
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.geometry import Geometry

TOLERANCE = 1e-5
SIZES = [(333, 500), (511, 97), (64, 64), (1, 40), (37, 64), (1000, 999)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return seeded_backbone(TINY, seed=1)


@pytest.fixture(scope="module")
def sam(backbone: Backbone) -> Any:
    return upstream_sam(backbone)


def embed(backbone: Backbone, images: list[np.ndarray]) -> tuple[torch.Tensor, list[Geometry]]:
    side, patch = backbone.image_size, backbone.patch_size
    geometries = [Geometry.fit(*image.shape[:2], side, patch) for image in images]
    resized = [
        resize_for_encoder(image, geometry) for image, geometry in zip(images, geometries, strict=True)
    ]
    pixels, sizes = (torch.from_numpy(array) for array in stack_inputs(resized, side))
    return FrozenEncoder(backbone)(pixels, sizes)["embedding"].clone(), geometries


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blobs and noise, so that resizing filters and padding both matter."""
    rng = np.random.default_rng([seed, height, width])
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (5 + 9 * k)) * np.cos(columns / (7 + 5 * k)) for k in range(3)], axis=-1)
    return np.clip(128 + 80 * waves + rng.normal(0, 30, waves.shape), 0, 255).astype(np.uint8)


def random_prompts(height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    corners = np.sort(rng.uniform(0, 1, (2, 2)), axis=0) * [width - 1, height - 1]
    return corners.reshape(4).astype(np.float32), rng.uniform(0, 1, (3, 2)) * [width - 1, height - 1]


@pytest.mark.parametrize("size", SIZES)
def test_preprocessed_input_is_bit_identical(backbone: Backbone, sam: Any, size: tuple[int, int]) -> None:
    reference = predictor(sam)
    image = random_image(*size)
    transformed = reference.transform.apply_image(image)
    geometry = Geometry.fit(*size, TINY.image_size, TINY.patch_size)
    ours = resize_for_encoder(image, geometry)
    assert np.array_equal(ours, transformed)
    pixels, sizes = (torch.from_numpy(array) for array in stack_inputs([ours], TINY.image_size))
    expected = sam.preprocess(torch.from_numpy(transformed).permute(2, 0, 1)[None])
    assert torch.equal(backbone.normalise(pixels, sizes), expected)


def test_encoder(backbone: Backbone, sam: Any) -> None:
    images = [random_image(64, 50), random_image(33, 64), random_image(64, 64)]
    embeddings, _ = embed(backbone, images)
    for image, ours in zip(images, embeddings, strict=True):
        with torch.no_grad():
            reference = sam.image_encoder(sam.preprocess(torch.from_numpy(image).permute(2, 0, 1)[None]))[0]
        assert relative_difference(ours, reference) <= TOLERANCE


def test_early_feature_is_the_first_global_block(backbone: Backbone, sam: Any) -> None:
    caught: list[torch.Tensor] = []
    handle = sam.image_encoder.blocks[min(TINY.global_blocks)].register_forward_hook(
        lambda _module, _input, output: caught.append(output)
    )
    image = random_image(64, 64)
    pixels, sizes = (torch.from_numpy(array) for array in stack_inputs([image], TINY.image_size))
    with torch.no_grad():
        sam.image_encoder(sam.preprocess(torch.from_numpy(image).permute(2, 0, 1)[None]))
    handle.remove()
    ours = FrozenEncoder(backbone)(pixels, sizes, ["early"])["early"]
    assert relative_difference(ours, caught[0].permute(0, 3, 1, 2)) <= TOLERANCE


FORMS = ["box", "point", "points", "box and points", "mask", "box and mask", "none"]


def prompts_of(form: str, count: int, seed: int) -> Prompts:
    side, low = TINY.image_size, 4 * TINY.grid
    rng = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=rng).sort(dim=1).values.reshape(count, 4) * side
    number = 1 if form == "point" else 3
    points = torch.rand(count, number, 2, generator=rng) * side
    labels = (
        torch.randint(-1, 2, (count, number), generator=rng) if number > 1 else torch.ones(count, 1).long()
    )
    masks = torch.randn(count, 1, low, low, generator=rng)
    return Prompts(
        boxes=corners if "box" in form else None,
        points=points if "point" in form else None,
        labels=labels if "point" in form else None,
        masks=masks if "mask" in form else None,
        count=count,
    )


def reference_decode(sam: Any, embedding: torch.Tensor, prompts: Prompts, multimask: bool) -> tuple[Any, Any]:
    points = None if prompts.points is None else (prompts.points, prompts.labels)
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)
        return sam.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )


@pytest.mark.parametrize("form", FORMS)
def test_prompt_encoder(backbone: Backbone, sam: Any, form: str) -> None:
    prompts = prompts_of(form, 1 if form == "none" else 4, seed=3)
    points = None if prompts.points is None else (prompts.points, prompts.labels)
    with torch.no_grad():
        reference = sam.prompt_encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)
    sparse, dense = backbone.embed_prompts(prompts)
    assert sparse.shape[1] == prompts.token_count
    assert torch.equal(sparse, reference[0])
    assert torch.equal(dense, reference[1])


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_decoder_over_images_and_prompts(backbone: Backbone, sam: Any, form: str, multimask: bool) -> None:
    embeddings = torch.randn(
        3, TINY.channels, TINY.grid, TINY.grid, generator=torch.Generator().manual_seed(5)
    )
    counts = [1, 1, 1] if form == "none" else [2, 1, 3]
    several = [prompts_of(form, count, seed=index) for index, count in enumerate(counts)]
    image_index = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    together = concatenate_prompts(several)
    low_res, iou = backbone.decode(embeddings, image_index, *backbone.embed_prompts(together), multimask)
    references = [
        reference_decode(sam, embedding, prompts, multimask)
        for embedding, prompts in zip(embeddings, several, strict=True)
    ]
    assert relative_difference(low_res, torch.cat([masks for masks, _ in references])) <= TOLERANCE
    assert relative_difference(iou, torch.cat([scores for _, scores in references])) <= TOLERANCE


def mixed(
    backbone: Backbone,
    embeddings: torch.Tensor,
    indexes: list[torch.Tensor],
    several: list[Prompts],
    multimask: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of several forms, those of the same tokens in one batch; in the order given."""
    forms = [(prompts.token_count, prompts.masks is not None) for prompts in several]
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for form in dict.fromkeys(forms):
        members = [i for i, own in enumerate(forms) if own == form]
        embedded = backbone.embed_prompts(concatenate_prompts([several[i] for i in members]))
        index = torch.cat([indexes[i] for i in members])
        masks, scores = backbone.decode(embeddings, index, *embedded, multimask)
        split = zip(masks.split(2), scores.split(2), strict=True)
        found.update(zip(members, split, strict=True))
    return tuple(torch.cat([found[i][part] for i in range(len(several))]) for part in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("multimask", [False, True])
def test_mixed_forms_equal_separate_runs(backbone: Backbone, sam: Any, multimask: bool) -> None:
    embeddings = torch.randn(
        2, TINY.channels, TINY.grid, TINY.grid, generator=torch.Generator().manual_seed(6)
    )
    forms = ["box", "points", "point", "none", "box and points", "box", "box and mask"]
    several = [prompts_of(form, 2, seed=index) for index, form in enumerate(forms)]
    indexes = [torch.tensor([index % 2, 1]) for index in range(len(forms))]
    low_res, iou = mixed(backbone, embeddings, indexes, several, multimask)
    masks, scores = [], []
    for index, prompts in zip(indexes, several, strict=True):
        own = reference_decode(sam, embeddings[0], prompts, multimask)
        other = reference_decode(sam, embeddings[1], prompts, multimask)
        for row, image in enumerate(index.tolist()):
            chosen = (own, other)[image]
            # Upstream's "no prompt" is a single row whatever is asked.
            masks.append(chosen[0][row % len(chosen[0])])
            scores.append(chosen[1][row % len(chosen[1])])
    assert relative_difference(low_res, torch.stack(masks)) <= TOLERANCE
    assert relative_difference(iou, torch.stack(scores)) <= TOLERANCE


def check_predictor(backbone: Backbone, sam: Any, size: tuple[int, int], seed: int = 0) -> dict[str, float]:
    """set_image + predict with a box, a point, several points, both; the largest differences from ours."""
    image = random_image(*size, seed)
    reference = predictor(sam)
    reference.set_image(image)
    embeddings, (geometry,) = embed(backbone, [image])
    worst = {"embedding": relative_difference(embeddings, reference.get_image_embedding())}
    worst |= {"low_res": 0.0, "flips": 0.0}
    box, points = random_prompts(*size, np.random.default_rng(seed))
    labels = np.array([1, 0, 1])
    cases = [(box, None, None), (None, points[:1], labels[:1]), (None, points, labels), (box, points, labels)]
    for own_box, own_points, own_labels in cases:
        for multimask in (False, True):
            expected, expected_iou, expected_low = reference.predict(
                own_points, own_labels, own_box, multimask_output=multimask, return_logits=True
            )
            prompts = Prompts(
                boxes=None if own_box is None else torch.from_numpy(geometry.boxes_to_input(own_box[None])),
                points=None if own_points is None else torch.from_numpy(geometry.to_input(own_points[None])),
                labels=None if own_labels is None else torch.from_numpy(own_labels[None]),
            )
            low_res, iou = backbone.decode(embeddings, None, *backbone.embed_prompts(prompts), multimask)
            logits = upscale(low_res[0], geometry).numpy()
            worst["low_res"] = max(
                worst["low_res"], relative_difference(low_res[0], torch.from_numpy(expected_low))
            )
            np.testing.assert_allclose(iou[0].numpy(), expected_iou, rtol=1e-4, atol=1e-5)
            assert logits.shape == expected.shape
            flipped = np.abs(expected[(logits > 0) != (expected > 0)])
            worst["flips"] = max(worst["flips"], float(flipped.max(initial=0)))
    assert worst["embedding"] <= TOLERANCE
    assert worst["low_res"] <= TOLERANCE
    assert worst["flips"] < 1e-3
    return worst


@pytest.mark.parametrize("size", SIZES)
def test_whole_predictor(backbone: Backbone, sam: Any, size: tuple[int, int]) -> None:
    check_predictor(backbone, sam, size)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [(333, 500)])
def test_whole_predictor_at_vit_b_size(size: tuple[int, int], record_property: Any) -> None:
    backbone = seeded_backbone(ARCHITECTURES["vit_b"], seed=2)
    for key, value in check_predictor(backbone, official_sam("vit_b", backbone), size).items():
        record_property(key, value)
