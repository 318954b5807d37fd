"""Fitted models as segment_anything's Sam, with its own predictor and mask generator."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_sets import Reference, one_thread, row_of
from conftest import TINY
from export_runs import (
    HEIGHT,
    WIDTH,
    as_predictor_takes,
    forms,
    geometry_of,
    opened,
    own_forward,
    picture,
)
from torch import Tensor
from upstream_sam import declare_torchvision_operators, predictor, relative_difference, upstream_sam

import casam_cache as casam_package
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.sam import Small, backbone_state, seeded_backbone
from casam_cache.bench.opened_run import OpenedRun
from casam_cache.errors import CasamError, OptionError
from casam_cache.export.one_head import Aligning, one_head
from casam_cache.export.sam import load_sam
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.parametrize("kind", ["alignment", "decoder", "frozen"])
def test_sam_predictor_predicts_as_evaluation_does(
    kind: str, exported_fits: dict[str, Path], tiny_checkpoint: Path
) -> None:
    declare_torchvision_operators()
    run = exported_fits.get(kind)
    sam = casam_package.load_sam(
        run, model=None if run else "small", checkpoint=None if run else tiny_checkpoint, device="cpu"
    )
    from segment_anything.modeling import Sam

    assert isinstance(sam, Sam)
    assert not any(parameter.requires_grad for parameter in sam.parameters())
    own = opened(run, tiny_checkpoint)
    frozen = build_head("identity", None, own.backbone, 0)
    image, through = picture(), predictor(sam)
    through.set_image(image)
    for form in forms(own.backbone.low_res).values():
        for multimask in (False, True):
            logits, scores, low_res = through.predict_torch(
                **as_predictor_takes(form), multimask_output=multimask, return_logits=True
            )
            expected = own_forward(own.backbone, own.head, image, form, multimask)
            for found, wanted in zip((logits[0], scores[0], low_res[0]), expected, strict=True):
                assert relative_difference(found, wanted) <= 1e-5
            unfitted = own_forward(own.backbone, frozen, image, form, multimask)[2]
            assert (relative_difference(low_res[0], unfitted) > 1e-3) is (run is not None)


def test_a_tuned_decoder_is_a_checkpoint_of_segment_anything(
    exported_fits: dict[str, Path], tiny_checkpoint: Path
) -> None:
    declare_torchvision_operators()
    sam = load_sam(exported_fits["decoder"], device="cpu")
    own = opened(exported_fits["decoder"], tiny_checkpoint)
    upstream = upstream_sam(own.backbone)
    upstream.load_state_dict(sam.state_dict(), strict=True)
    image = picture()
    found = []
    for each in (sam, upstream, copy.deepcopy(sam)):
        through = predictor(each)
        through.set_image(image)
        found.append(
            through.predict(box=np.array([4, 9, 50, 44]), multimask_output=False, return_logits=True)[2]
        )
    assert relative_difference(torch.from_numpy(found[1]), torch.from_numpy(found[0])) <= 1e-5
    np.testing.assert_array_equal(found[2], found[0])


def test_what_the_fitted_layer_adds_to_a_state_dict_has_a_name_of_its_own(
    exported_fits: dict[str, Path],
) -> None:
    declare_torchvision_operators()
    sam = load_sam(exported_fits["alignment"], device="cpu")
    state = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    added = {name for name in state if name.startswith("image_encoder.fitted.")}
    assert added
    assert set(state) - added == set(backbone_state(seeded_backbone(TINY, 7)))
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.zero_()
    assert sam.load_state_dict(state, strict=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in sam.state_dict().items())


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.usefixtures("suppression")
def test_the_automatic_mask_generator_runs_on_a_fitted_model(
    single: bool, exported_fits: dict[str, Path], tiny_checkpoint: Path
) -> None:
    from segment_anything import SamAutomaticMaskGenerator

    image = picture()
    sam = load_sam(exported_fits["alignment"], single_mask=single, device="cpu")
    made = SamAutomaticMaskGenerator(
        sam, points_per_side=4, pred_iou_thresh=-100.0, stability_score_thresh=0.0, box_nms_thresh=0.9
    ).generate(image)
    assert made
    own = opened(exported_fits["alignment"], tiny_checkpoint)
    scale = own.backbone.image_size / WIDTH
    for one in made:
        assert one["segmentation"].shape == (HEIGHT, WIDTH)
        assert one["area"] == one["segmentation"].sum() > 0
        ((x, y),) = one["point_coords"]
        form = {"points": [[x * scale, y * round(HEIGHT * scale) / HEIGHT], [0, 0]], "labels": [1, -1]}
        logits, scores, _ = own_forward(own.backbone, own.head, image, form, multimask=not single)
        index = int((scores - one["predicted_iou"]).abs().argmin())
        assert float(scores[index]) == pytest.approx(one["predicted_iou"], abs=1e-5)
        wrong = (logits[index] > 0).numpy() != one["segmentation"]
        assert np.abs(logits[index].numpy()[wrong]).max(initial=0) <= 1e-4


class OwnRange(Small):
    """The tiny SAM with each image's own range instead of a mean and a deviation."""

    def normalise(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        found = torch.zeros(pixels.shape)
        for image, (height, width), place in zip(pixels.float(), sizes.tolist(), found, strict=True):
            inner = image[:, :height, :width]
            place[:, :height, :width] = (inner - inner.min()) / (inner.max() - inner.min())
        return found


def test_the_preprocessing_is_that_of_the_backbone() -> None:
    declare_torchvision_operators()
    from casam_cache.backbones.adapted_sam import AdaptedSam

    plain = seeded_backbone(TINY, 7)
    for backbone in (plain, OwnRange.of_state(TINY, backbone_state(plain))):
        head = build_head("identity", None, backbone, 0)
        sam = AdaptedSam(backbone, Aligning(head))
        image = resize_for_encoder(picture(), geometry_of(backbone, picture()))
        batch, sizes = stack_inputs([image], backbone.image_size)
        expected = backbone.normalise(torch.from_numpy(batch), torch.from_numpy(sizes))
        given = torch.from_numpy(image.copy()).permute(2, 0, 1)
        assert torch.equal(sam.preprocess(given[None]), expected)
        assert torch.equal(sam.preprocess(given), expected[0])
        assert torch.equal(sam.preprocess(given.float()), expected[0])
        assert sam.image_encoder.img_size == backbone.image_size


def test_a_run_of_stretched_images_takes_squares_alone(stretched_run: Path, tiny_checkpoint: Path) -> None:
    declare_torchvision_operators()
    with pytest.warns(UserWarning, match="stretched to a square"):
        sam = load_sam(stretched_run, device="cpu")
    through = predictor(sam)
    with pytest.raises(OptionError, match="stretched to 64 x 64 pixels; an image resized to 64 x 47"):
        through.set_image(picture())
    image = picture(64, 64)
    through.set_image(image)
    own = opened(stretched_run, tiny_checkpoint)
    form = forms(own.backbone.low_res)["box"]
    found = through.predict_torch(**as_predictor_takes(form), multimask_output=False, return_logits=True)[0][
        0
    ]
    assert relative_difference(found, own_forward(own.backbone, own.head, image, form, False)[0]) <= 1e-5


def test_a_routed_model_goes_elsewhere_as_one_of_its_heads(
    reference: Reference, tiny_checkpoint: Path
) -> None:
    declare_torchvision_operators()
    run = Path(row_of(reference.results, "ca-sam", ("amber", "cobalt", "moss"))["run"])
    with pytest.raises(OptionError, match="ca-sam is routed") as refused:
        load_sam(run, device="cpu")
    assert "amber, cobalt, moss" in refused.value.hint
    with pytest.raises(OptionError, match="unknown task of this run 'ghost'"):
        load_sam(run, task="ghost", device="cpu")
    through = predictor(load_sam(run, task="moss", device="cpu"))
    through.set_image(picture())
    own = opened(run, tiny_checkpoint)
    assert own.routed is not None
    form = forms(own.backbone.low_res)["box"]
    found = through.predict_torch(**as_predictor_takes(form), multimask_output=False)[2][0]
    same, other = (
        own_forward(own.backbone, own.routed.head(task), picture(), form, False)[2]
        for task in ("moss", "amber")
    )
    assert relative_difference(found, same) <= 1e-5 < relative_difference(found, other)


def test_a_task_is_chosen_only_where_there_is_a_choice(
    exported_fits: dict[str, Path], tiny_checkpoint: Path
) -> None:
    own = opened(exported_fits["alignment"], tiny_checkpoint)
    assert one_head(own, None)[1] == one_head(own, "amber")[1] == "amber"
    with pytest.raises(OptionError, match="no task 'moss' to choose: it was fitted to amber"):
        one_head(own, "moss")


class Decoding(Head):
    """A head with a way of decoding of its own, as a user might write one."""

    name = "decoding"

    def decode(self, *parts: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hq-sam", "reads 'early' of an image"),
        ("prompt-pool", "reads 'valid' of an image"),
        ("decoding", "decodes in a way of its own"),
    ],
)
def test_heads_that_a_sam_has_no_place_for(name: str, reason: str) -> None:
    backbone = seeded_backbone(TINY, 7)
    made = Decoding(build_head("identity", None, backbone, 0).options)
    head = made if name == "decoding" else build_head(name, None, backbone, 0)
    with pytest.raises(CasamError, match=f"the head {name} {reason}") as refused:
        one_head(OpenedRun(backbone, head, None, "amber", {}), None)
    assert "casam predict" in refused.value.hint


def test_without_torchvision_one_line_says_what_to_install(
    exported_fits: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("segment_anything", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "casam_cache.backbones.adapted_sam", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        CasamError, match="segment_anything cannot be imported, which needs torchvision"
    ) as refused:
        load_sam(exported_fits["alignment"], device="cpu")
    assert "pip install" in refused.value.hint
    assert not [name for name in sys.modules if name.split(".")[0] == "segment_anything"]
