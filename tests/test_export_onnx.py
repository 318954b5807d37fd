"""Fitted models as ONNX graphs, run by onnxruntime."""

from __future__ import annotations

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
from bench_sets import one_thread
from conftest import TINY, Casam
from export_runs import (
    forms,
    geometry_of,
    opened,
    own_forward,
    picture,
)
from PIL import Image
from torch import Tensor
from upstream_sam import declare_torchvision_operators, relative_difference

from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.backbones.decoder import SamDecoding
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.prompts import upscale
from casam_cache.backbones.sam import Small, backbone_state, seeded_backbone
from casam_cache.bench.opened_run import open_run
from casam_cache.encode.backbone_source import BackboneSource
from casam_cache.errors import CasamError
from casam_cache.export import graphs
from casam_cache.export.agreement import TOLERANCE, decoder_difference, encoder_difference, encoder_inputs
from casam_cache.export.graphs import (
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_OUTPUTS,
    DecoderGraph,
    EncoderGraph,
)
from casam_cache.export.onnx_files import _trace, decoder_inputs, export_onnx
from casam_cache.export.sam import load_sam
from casam_cache.fingerprint import digest_file
from casam_cache.geometry import RESIZE_MODES
from casam_cache.heads.files import build_head


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with one_thread():
        yield


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
    kind: str, exported_fits: dict[str, Path], stretched_run: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run, resize = (stretched_run, "stretch") if kind == "stretched" else (exported_fits[kind], "longest")
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
    exported_fits: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export_onnx(exported_fits["alignment"], tmp_path, encoder=True, single_mask=True)
    own, files = opened(exported_fits["alignment"], tiny_checkpoint), sessions(tmp_path)
    for name, form in forms(own.backbone.low_res).items():
        logits, scores, low_res = own_forward(own.backbone, own.head, picture(), form, name == "point")
        best = int(scores.argmax())
        found = run_graphs(files, own.backbone, picture(), form)
        for each, expected in zip(found, (logits, scores, low_res), strict=True):
            assert len(each) == 1
            assert relative_difference(each, expected[best : best + 1]) <= TOLERANCE


def test_the_graph_has_the_inputs_and_numbers_of_segment_anything_s_own(
    exported_fits: dict[str, Path],
) -> None:
    declare_torchvision_operators()
    from segment_anything.utils.onnx import SamOnnxModel

    assert list(inspect.signature(SamOnnxModel.forward).parameters)[1:] == list(DECODER_INPUTS)
    own = open_run(exported_fits["decoder"], device="cpu")
    graph = DecoderGraph(own.backbone, own.head, "longest", single=False)
    theirs = SamOnnxModel(load_sam(exported_fits["decoder"], device="cpu"), return_single_mask=False)
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
    exported_fits: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = graphs.bilinear
    monkeypatch.setattr(graphs, "bilinear", lambda *sides: right(*sides).roll(1, 0))
    with pytest.raises(CasamError, match=r"decoder.onnx was not left: .* by 0\.\d+ of the largest"):
        export_onnx(exported_fits["alignment"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_decoder_needs_no_checkpoint(
    exported_fits: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> Any:
        raise CasamError("the checkpoint is gone")

    monkeypatch.setattr(BackboneSource, "whole", gone)
    export_onnx(exported_fits["alignment"], tmp_path)
    with pytest.raises(CasamError, match="the checkpoint is gone"):
        export_onnx(exported_fits["alignment"], tmp_path / "with", encoder=True)


def test_what_the_command_writes(casam: Casam, exported_fits: dict[str, Path]) -> None:
    told = casam.json("export", exported_fits["alignment"], "--onnx", "out", "--encoder", "--single-mask")
    assert casam.code == 0, casam.err
    out = casam.folder / "out"
    assert {path.name for path in out.iterdir()} == {"decoder.onnx", "encoder.onnx", "export.json"}
    written = json.loads((out / "export.json").read_text())
    assert told == {"folder": "out", **written}
    assert (written["task"], written["head"], written["masks"]) == ("amber", "alignment", "one")
    assert written["run"] == "/".join(exported_fits["alignment"].parts[-2:])
    assert (written["image_size"], written["embedding"]) == (64, [16, 8, 8])
    assert written["preprocessing"]["resize"] == "longest"
    for name, file in written["files"].items():
        assert file["sha256"] == digest_file(out / name)
        assert file["bytes"] == (out / name).stat().st_size
    before = (out / "decoder.onnx").read_bytes()

    casam("export", exported_fits["alignment"], "--onnx", "out", "--encoder")
    assert casam.code == 1
    assert "decoder.onnx exists" in casam.err
    casam("export", exported_fits["alignment"], "--onnx", "out", "--overwrite")
    assert casam.code == 1
    assert "encoder.onnx is of an earlier export" in casam.err
    assert (out / "decoder.onnx").read_bytes() == before
    casam("export", exported_fits["alignment"], "--onnx", "out", "--encoder", "--single-mask", "--overwrite")
    assert casam.code == 0
    assert "agrees with torch within" in casam.err
    assert (out / "decoder.onnx").read_bytes() == before  # equal inputs, equal bytes


@pytest.mark.usefixtures("suppression")
def test_the_snippets_of_the_page_run(casam: Casam, exported_fits: dict[str, Path]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "export.md").read_text()
    as_sam, as_onnx = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Image.fromarray(picture(240, 260)).save("new.png")
    (command,) = re.findall(r"^casam (export .*)$", page, re.MULTILINE)
    casam(*command.replace("casam_runs/fit/KEY", str(exported_fits["alignment"])).split())
    assert casam.code == 0, casam.err
    first: dict[str, Any] = {}
    few = as_sam.replace("pred_iou_thresh", "points_per_side=4, pred_iou_thresh")
    exec(few.replace("casam_runs/fit/KEY", str(exported_fits["alignment"])), first)
    second: dict[str, Any] = {}
    exec(as_onnx, second)
    assert first["masks"].shape == (1, 240, 260) == (1, *second["mask"].shape)
    low_res, expected = torch.from_numpy(second["low_res"][0, :1]), torch.from_numpy(first["low_res"])
    assert relative_difference(low_res, expected) <= TOLERANCE


def test_options_that_cannot_be(
    casam: Casam, exported_fits: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    casam("export", exported_fits["alignment"], "--onnx", "out", "--opset", "9")
    assert (casam.code, "--opset 9: expected 16 to 20" in casam.err) == (1, True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    casam("export", exported_fits["alignment"], "--onnx", "out")
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
