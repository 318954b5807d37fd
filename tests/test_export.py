"""Fitted models elsewhere: as segment_anything's Sam with its own predictor and mask generator, and as ONNX graphs."""

from __future__ import annotations

import copy
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_sets import Reference, one_thread, row_of
from conftest import TINY, Casam, draw_dataset
from PIL import Image
from torch import Tensor
from upstream_sam import declare_torchvision_operators, predictor, relative_difference, upstream_sam

import casam_cache as casam_package
from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.backbones.decoder import SamDecoding
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.backbones.sam import Small, backbone_state, seeded_backbone
from casam_cache.bench.fit import fit_task
from casam_cache.bench.opened_run import OpenedRun, open_run
from casam_cache.encode.backbone_source import BackboneSource
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.errors import CasamError, OptionError
from casam_cache.export import graphs
from casam_cache.export.agreement import TOLERANCE, decoder_difference, encoder_difference, encoder_inputs
from casam_cache.export.graphs import (
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_OUTPUTS,
    DecoderGraph,
    EncoderGraph,
)
from casam_cache.export.one_head import Aligning, one_head
from casam_cache.export.onnx_files import _trace, decoder_inputs, export_onnx
from casam_cache.export.sam import load_sam
from casam_cache.fingerprint import digest_file
from casam_cache.geometry import RESIZE_MODES, Geometry
from casam_cache.heads.base import Head, run_head
from casam_cache.heads.files import build_head

FITS = {
    "alignment": ("blocks=1", "init=random", "epochs=1"),  # random, so that the layer does something
    "decoder": ("epochs=2", "learning_rate=0.01"),
}
HEIGHT, WIDTH = 61, 83


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def fits(bench_stores: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind of head on `amber`, and the frozen SAM's among them as None would be."""
    runs = tmp_path_factory.mktemp("export") / "runs"
    with one_thread():
        return {
            method: Path(
                fit_task("amber", bench_stores, runs, method=method, options=options, model="tiny").run
            )
            for method, options in FITS.items()
        }


@pytest.fixture(scope="module")
def stretched(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A run on a store whose images were stretched to a square."""
    folder = tmp_path_factory.mktemp("stretched")
    data = draw_dataset(folder / "data" / "discs", images=6)
    chosen = {
        "model": "small",
        "checkpoint": tiny_checkpoint,
        "name": "tiny",
        "resize": "stretch",
        "workers": 0,
    }
    with one_thread():
        encode_dataset(data, folder / "stores", EncodeOptions.model_validate({**chosen, "device": "cpu"}))
        report = fit_task("discs", folder / "stores", folder / "runs", options=FITS["alignment"])
    return Path(report.run)


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (5 + 9 * k)) * np.cos(columns / (7 + 5 * k)) for k in range(3)], axis=-1)
    return np.clip(128 + 80 * waves + rng.normal(0, 30, waves.shape), 0, 255).astype(np.uint8)


def forms(low_res: int) -> dict[str, dict[str, Any]]:
    """Prompts in the input's pixels: points with their labels as SAM's list of tokens, and a mask."""
    rng = np.random.default_rng(1)
    mask = torch.from_numpy(rng.normal(0, 5, (1, 1, low_res, low_res)).astype(np.float32))
    return {
        "box": {"points": [[7, 5], [40, 31]], "labels": [2, 3]},
        "point": {"points": [[20, 30], [0, 0]], "labels": [1, -1]},
        "points": {"points": [[20, 30], [11, 6], [50, 40], [0, 0]], "labels": [1, 0, 1, -1]},
        "box, point and mask": {"points": [[20, 30], [7, 5], [40, 31]], "labels": [0, 2, 3], "mask": mask},
    }


def geometry_of(backbone: SamDecoding, image: np.ndarray, resize: str = "longest") -> Geometry:
    return Geometry.fit(*image.shape[:2], backbone.image_size, backbone.patch_size, resize)


def embedded(backbone: SamDecoding, image: np.ndarray, geometry: Geometry) -> Tensor:
    """The frozen encoder's embedding, not rounded."""
    batch, sizes = stack_inputs([resize_for_encoder(image, geometry)], backbone.image_size)
    images = backbone.normalise(torch.from_numpy(batch), torch.from_numpy(sizes))
    with torch.no_grad():
        return backbone.encode(images, ("embedding",))["embedding"]


def own_forward(
    backbone: SamDecoding,
    head: Head,
    image: np.ndarray,
    form: dict[str, Any],
    multimask: bool,
    resize: str = "longest",
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at the image's size (m, H, W), scores (m,) and low-res logits, as evaluation computes them."""
    geometry = geometry_of(backbone, image, resize)
    prompts = Prompts(
        points=torch.tensor([form["points"]], dtype=torch.float32), labels=torch.tensor([form["labels"]]),
        masks=form.get("mask"), packed=True,
    )  # fmt: skip
    with torch.no_grad():
        features = {"embedding": embedded(backbone, image, geometry)}
        _, low_res, iou = run_head(
            head, backbone, features, None, *backbone.embed_prompts(prompts), multimask
        )
    return upscale(low_res[0], geometry), iou[0], low_res[0]


def as_predictor_takes(form: dict[str, Any]) -> dict[str, Any]:
    """The same prompt as `SamPredictor.predict_torch` takes it."""
    points, labels = torch.tensor([form["points"]], dtype=torch.float32), torch.tensor([form["labels"]])
    corner, real = labels[0] >= 2, (labels[0] == 0) | (labels[0] == 1)
    return {
        "point_coords": points[:, real] if real.any() else None,
        "point_labels": labels[:, real] if real.any() else None,
        "boxes": points[:, corner].reshape(1, 4) if corner.any() else None,
        "mask_input": form.get("mask"),
    }


def opened(run: Path | None, tiny_checkpoint: Path) -> OpenedRun:
    return open_run(
        run, model=None if run else "small", checkpoint=None if run else tiny_checkpoint, device="cpu"
    )


@pytest.mark.parametrize("kind", ["alignment", "decoder", "frozen"])
def test_sam_predictor_predicts_as_evaluation_does(
    kind: str, fits: dict[str, Path], tiny_checkpoint: Path
) -> None:
    declare_torchvision_operators()
    run = fits.get(kind)
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
    fits: dict[str, Path], tiny_checkpoint: Path
) -> None:
    declare_torchvision_operators()
    sam = load_sam(fits["decoder"], device="cpu")
    own = opened(fits["decoder"], tiny_checkpoint)
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


def test_what_the_fitted_layer_adds_to_a_state_dict_has_a_name_of_its_own(fits: dict[str, Path]) -> None:
    declare_torchvision_operators()
    sam = load_sam(fits["alignment"], device="cpu")
    state = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    added = {name for name in state if name.startswith("image_encoder.fitted.")}
    assert added
    assert set(state) - added == set(backbone_state(seeded_backbone(TINY, 7)))
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.zero_()
    assert sam.load_state_dict(state, strict=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in sam.state_dict().items())


def non_maximum_suppression(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """What torchvision's compiled operator computes, slowly."""
    corners, left = boxes.double(), scores.argsort(descending=True).tolist()
    kept = []
    while left:
        first = left.pop(0)
        kept.append(first)
        low = torch.maximum(corners[first, :2], corners[left, :2])
        shared = (torch.minimum(corners[first, 2:], corners[left, 2:]) - low).clamp(min=0).prod(1)
        area = (corners[:, 2:] - corners[:, :2]).prod(1)
        overlap = (shared / (area[first] + area[left] - shared)).tolist()
        left = [index for index, share in zip(left, overlap, strict=True) if not share > threshold]
    return torch.tensor(kept, dtype=torch.int64)


@pytest.fixture
def suppression(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torchvision's nms, where its compiled operators do not fit the installed torch."""
    declared = declare_torchvision_operators()
    if declared is None:
        yield
        return
    library = torch.library.Library("torchvision", "IMPL", "CPU")
    library.impl("nms", non_maximum_suppression)
    import torchvision.extension

    monkeypatch.setattr(torchvision.extension, "_has_ops", lambda: True)
    yield
    library._destroy()


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.usefixtures("suppression")
def test_the_automatic_mask_generator_runs_on_a_fitted_model(
    single: bool, fits: dict[str, Path], tiny_checkpoint: Path
) -> None:
    from segment_anything import SamAutomaticMaskGenerator

    image = picture()
    sam = load_sam(fits["alignment"], single_mask=single, device="cpu")
    made = SamAutomaticMaskGenerator(
        sam, points_per_side=4, pred_iou_thresh=-100.0, stability_score_thresh=0.0, box_nms_thresh=0.9
    ).generate(image)
    assert made
    own = opened(fits["alignment"], tiny_checkpoint)
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


def test_a_run_of_stretched_images_takes_squares_alone(stretched: Path, tiny_checkpoint: Path) -> None:
    declare_torchvision_operators()
    with pytest.warns(UserWarning, match="stretched to a square"):
        sam = load_sam(stretched, device="cpu")
    through = predictor(sam)
    with pytest.raises(OptionError, match="stretched to 64 x 64 pixels; an image resized to 64 x 47"):
        through.set_image(picture())
    image = picture(64, 64)
    through.set_image(image)
    own = opened(stretched, tiny_checkpoint)
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


def test_a_task_is_chosen_only_where_there_is_a_choice(fits: dict[str, Path], tiny_checkpoint: Path) -> None:
    own = opened(fits["alignment"], tiny_checkpoint)
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
    fits: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("segment_anything", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "casam_cache.backbones.adapted_sam", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        CasamError, match="segment_anything cannot be imported, which needs torchvision"
    ) as refused:
        load_sam(fits["alignment"], device="cpu")
    assert "pip install" in refused.value.hint
    assert not [name for name in sys.modules if name.split(".")[0] == "segment_anything"]


def sessions(folder: Path) -> tuple[Any, Any]:
    """Encoder and decoder, as onnxruntime runs them."""
    import onnxruntime

    encoder, decoder = (
        onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "decoder.onnx")
    )
    return encoder, decoder


def run_graphs(
    files: tuple[Any, Any],
    backbone: SamDecoding,
    image: np.ndarray,
    form: dict[str, Any],
    resize: str = "longest",
) -> tuple[Tensor, ...]:
    """Encoder and decoder as a program without this package would run them."""
    geometry = geometry_of(backbone, image, resize)
    batch, sizes = stack_inputs([resize_for_encoder(image, geometry)], backbone.image_size)
    (embedding,) = files[0].run(None, {"pixels": batch, "input_size": sizes[0]})
    low = backbone.low_res
    given = {
        "image_embeddings": embedding,
        "point_coords": np.array([form["points"]], np.float32),
        "point_labels": np.array([form["labels"]], np.float32),
        "mask_input": form["mask"].numpy() if "mask" in form else np.zeros((1, 1, low, low), np.float32),
        "has_mask_input": np.array([float("mask" in form)], np.float32),
        "orig_im_size": np.array(image.shape[:2], np.float32),
    }
    return tuple(torch.from_numpy(found)[0] for found in files[1].run(None, given))


@pytest.mark.parametrize("kind", ["alignment", "decoder", "stretched"])
def test_onnx_files_predict_as_evaluation_does(
    kind: str, fits: dict[str, Path], stretched: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run, resize = (stretched, "stretch") if kind == "stretched" else (fits[kind], "longest")
    made = export_onnx(run, tmp_path / "out", encoder=True)
    assert made.description["files"]["decoder.onnx"]["largest_difference"] <= TOLERANCE
    own, files = opened(run, tiny_checkpoint), sessions(tmp_path / "out")
    for image in (picture(), picture(50, 21), picture(200, 150)):
        for form in forms(own.backbone.low_res).values():
            found = run_graphs(files, own.backbone, image, form, resize)
            alone, several = (
                own_forward(own.backbone, own.head, image, form, many, resize) for many in (False, True)
            )
            for each, parts in zip(found, zip(alone, several, strict=True), strict=True):
                assert relative_difference(each, torch.cat(parts)) <= TOLERANCE


def test_a_single_mask_is_the_one_for_boxes_or_the_best_for_a_point(
    fits: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export_onnx(fits["alignment"], tmp_path, encoder=True, single_mask=True)
    own, files = opened(fits["alignment"], tiny_checkpoint), sessions(tmp_path)
    for name, form in forms(own.backbone.low_res).items():
        logits, scores, low_res = own_forward(own.backbone, own.head, picture(), form, name == "point")
        best = int(scores.argmax())
        found = run_graphs(files, own.backbone, picture(), form)
        for each, expected in zip(found, (logits, scores, low_res), strict=True):
            assert len(each) == 1
            assert relative_difference(each, expected[best : best + 1]) <= TOLERANCE


def test_the_graph_has_the_inputs_and_numbers_of_segment_anything_s_own(fits: dict[str, Path]) -> None:
    declare_torchvision_operators()
    from segment_anything.utils.onnx import SamOnnxModel

    assert list(inspect.signature(SamOnnxModel.forward).parameters)[1:] == list(DECODER_INPUTS)
    own = open_run(fits["decoder"], device="cpu")
    graph = DecoderGraph(own.backbone, own.head, "longest", single=False)
    theirs = SamOnnxModel(load_sam(fits["decoder"], device="cpu"), return_single_mask=False)
    for inputs in decoder_inputs(own.backbone):
        with torch.no_grad():
            found, expected = graph(*inputs.values()), theirs(*inputs.values())
        assert len(found) == len(DECODER_OUTPUTS)
        for each, wanted in zip(found, expected, strict=True):
            assert relative_difference(each, wanted) <= 1e-5


@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_masks_at_any_size(resize: str) -> None:
    backbone = seeded_backbone(TINY, 7)
    graph = DecoderGraph(backbone, build_head("identity", None, backbone, 0), resize, single=False)
    low_res = torch.randn(
        (1, 4, backbone.low_res, backbone.low_res), generator=torch.Generator().manual_seed(0)
    )
    # Among them sides whose resized length is half a pixel more than a whole number.
    for height, width in ((1, 1), (1, 300), (64, 64), (384, 9), (27, 384), (97, 31), (130, 257), (192, 33)):
        expected = upscale(low_res[0], geometry_of(backbone, np.empty((height, width)), resize))
        found = graph.at_size(low_res, torch.tensor([height, width], dtype=torch.float32))[0]
        assert relative_difference(found, expected) <= 1e-5, (height, width)


def test_a_graph_with_other_numbers_is_not_left(
    fits: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = graphs.bilinear
    monkeypatch.setattr(graphs, "bilinear", lambda *sides: right(*sides).roll(1, 0))
    with pytest.raises(CasamError, match=r"decoder.onnx was not left: .* by 0\.\d+ of the largest"):
        export_onnx(fits["alignment"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_decoder_needs_no_checkpoint(
    fits: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> Any:
        raise CasamError("the checkpoint is gone")

    monkeypatch.setattr(BackboneSource, "whole", gone)
    export_onnx(fits["alignment"], tmp_path)
    with pytest.raises(CasamError, match="the checkpoint is gone"):
        export_onnx(fits["alignment"], tmp_path / "with", encoder=True)


def test_what_the_command_writes(casam: Casam, fits: dict[str, Path]) -> None:
    told = casam.json("export", fits["alignment"], "--onnx", "out", "--encoder", "--single-mask")
    assert casam.code == 0, casam.err
    out = casam.folder / "out"
    assert {path.name for path in out.iterdir()} == {"decoder.onnx", "encoder.onnx", "export.json"}
    written = json.loads((out / "export.json").read_text())
    assert told == {"folder": "out", **written}
    assert (written["task"], written["head"], written["masks"]) == ("amber", "alignment", "one")
    assert written["run"] == "/".join(fits["alignment"].parts[-2:])
    assert (written["image_size"], written["embedding"]) == (64, [16, 8, 8])
    assert written["preprocessing"]["resize"] == "longest"
    for name, file in written["files"].items():
        assert file["sha256"] == digest_file(out / name)
        assert file["bytes"] == (out / name).stat().st_size
    before = (out / "decoder.onnx").read_bytes()

    casam("export", fits["alignment"], "--onnx", "out", "--encoder")
    assert casam.code == 1
    assert "decoder.onnx exists" in casam.err
    casam("export", fits["alignment"], "--onnx", "out", "--overwrite")
    assert casam.code == 1
    assert "encoder.onnx is of an earlier export" in casam.err
    assert (out / "decoder.onnx").read_bytes() == before
    casam("export", fits["alignment"], "--onnx", "out", "--encoder", "--single-mask", "--overwrite")
    assert casam.code == 0
    assert "agrees with torch within" in casam.err
    assert (out / "decoder.onnx").read_bytes() == before  # equal inputs, equal bytes


@pytest.mark.usefixtures("suppression")
def test_the_snippets_of_the_page_run(casam: Casam, fits: dict[str, Path]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "export.md").read_text()
    as_sam, as_onnx = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Image.fromarray(picture(240, 260)).save("new.png")
    (command,) = re.findall(r"^casam (export .*)$", page, re.MULTILINE)
    casam(*command.replace("casam_runs/fit/KEY", str(fits["alignment"])).split())
    assert casam.code == 0, casam.err
    first: dict[str, Any] = {}
    few = as_sam.replace("pred_iou_thresh", "points_per_side=4, pred_iou_thresh")
    exec(few.replace("casam_runs/fit/KEY", str(fits["alignment"])), first)
    second: dict[str, Any] = {}
    exec(as_onnx, second)
    assert first["masks"].shape == (1, 240, 260) == (1, *second["mask"].shape)
    low_res, expected = torch.from_numpy(second["low_res"][0, :1]), torch.from_numpy(first["low_res"])
    assert relative_difference(low_res, expected) <= TOLERANCE


def test_options_that_cannot_be(casam: Casam, fits: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    casam("export", fits["alignment"], "--onnx", "out", "--opset", "9")
    assert (casam.code, "--opset 9: expected 16 to 20" in casam.err) == (1, True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    casam("export", fits["alignment"], "--onnx", "out")
    assert casam.code == 1
    assert "pip install 'casam-cache[onnx]'" in casam.err
    assert not (casam.folder / "out").exists()


def test_an_encoder_with_a_preprocessing_of_its_own(tmp_path: Path) -> None:
    class Halved(Small):
        def normalise(self, pixels: Tensor, sizes: Tensor) -> Tensor:
            inner = torch.arange(pixels.shape[-1]) < sizes[:, 1, None]
            values = pixels.float().masked_fill(~inner[:, None, None], 0.0)
            return values / (values.amax((1, 2, 3), keepdim=True) * torch.tensor([0.5]))

    backbone = Halved.of_state(TINY, backbone_state(seeded_backbone(TINY, 7)))
    path = tmp_path / "encoder.onnx"
    _trace(EncoderGraph(backbone), encoder_inputs(backbone, 1.0, 0.75), path, ENCODER_OUTPUTS, 17)
    assert encoder_difference(path, backbone) <= TOLERANCE


class Unspeakable(Small):
    """A backbone whose normalisation makes a constant on the way, and whose encoder has no like in ONNX."""

    def normalise(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        return pixels.float() / torch.tensor([255.0])

    def plain_encoding(self) -> Any:
        return lambda images, names: {"embedding": torch.special.bessel_j0(images)}


def test_an_encoder_that_onnx_cannot_express(tmp_path: Path) -> None:
    backbone = Unspeakable.of_state(TINY, backbone_state(seeded_backbone(TINY, 7)))
    inputs = encoder_inputs(backbone, 1.0, 0.75)
    with pytest.raises(CasamError, match=r"encoder.onnx cannot be written as ONNX of opset 17: .*bessel_j0"):
        _trace(EncoderGraph(backbone), inputs, tmp_path / "encoder.onnx", ENCODER_OUTPUTS, 17)


def test_a_graph_that_onnxruntime_cannot_run(tmp_path: Path) -> None:
    backbone = seeded_backbone(TINY, 7)
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(CasamError, match=r"encoder.onnx was not left: onnxruntime cannot run it"):
        encoder_difference(tmp_path / "encoder.onnx", backbone)


@pytest.mark.slow
def test_onnx_of_the_dimensions_of_vit_b(tmp_path: Path) -> None:
    """Random weights, prompt encoder and decoder; three blocks of the Alignment Layer."""
    architecture = ARCHITECTURES["vit_b"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Small(
            architecture.to_json(), None, *architecture.build_decoder(), fingerprint="0" * 64, flops=0
        )
    head = build_head("alignment", {"init": "random"}, backbone, 0).eval()
    for single in (False, True):
        graph = DecoderGraph(backbone, head, "longest", single=single)
        _trace(graph, next(decoder_inputs(backbone)), tmp_path / "decoder.onnx", DECODER_OUTPUTS, 17)
        path = tmp_path / "decoder.onnx"
        assert decoder_difference(path, backbone, head, "longest", single=single) <= TOLERANCE
