"""`casam predict`: one image, one prompt, one mask, the same one that evaluation scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Casam
from PIL import Image

from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.bench.predict import Predictor
from casam_cache.encode.sources import decoder_of
from casam_cache.heads.base import predict_low_res
from casam_cache.heads.files import load_head
from casam_cache.metrics.overlap import iou
from casam_cache.store import EmbeddingStore
from casam_cache.training.evaluate import evaluate
from casam_cache.training.items import open_split
from casam_cache.training.outcomes import read_outcomes

Encode = Callable[..., Any]


@pytest.fixture
def fitted(casam: Casam, encode: Encode, discs: Path) -> dict[str, Any]:
    """The report of a short fit to `discs`."""
    encode(discs)
    report: dict[str, Any] = casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")
    return report


def read_mask(path: Path) -> np.ndarray:
    array = np.asarray(Image.open(path))
    assert set(np.unique(array)) <= {0, 255}
    return array > 0


def test_a_mask_and_an_overlay_at_the_images_size(
    casam: Casam, discs: Path, fitted: dict[str, Any], tmp_path: Path
) -> None:
    Image.open(discs / "images" / "p004.png").resize((83, 61)).save(tmp_path / "odd.png")
    report = casam.json("predict", tmp_path / "odd.png", "--box", "10,12,50.5,40", "--run", fitted["run"])
    mask = read_mask(casam.folder / "mask.png")
    assert mask.shape == (61, 83) == (report["height"], report["width"])
    assert mask.sum() == report["area"]
    assert (report["mask"], report["overlay"]) == ("mask.png", "mask_overlay.png")
    assert (report["head"], report["task"]) == ("alignment", "discs")
    with Image.open(casam.folder / "mask_overlay.png") as overlay:
        assert overlay.size == (83, 61)


def test_a_prediction_is_the_mask_that_evaluation_scores(
    casam: Casam, discs: Path, fitted: dict[str, Any]
) -> None:
    store = EmbeddingStore.open(casam.folder / "casam_store" / "discs" / "tiny.zarr")
    backbone = decoder_of(casam.folder / "casam_store", store.identity["backbone"]["weights"])
    scored: dict[str, np.ndarray] = {}
    boxes: dict[str, np.ndarray] = {}
    evaluate(
        load_head(casam.folder / fitted["run"], backbone),
        backbone,
        open_split(store, "test"),
        on_mask=lambda item, mask, bitmap: (
            scored.update({item.id: bitmap}),
            boxes.update({item.id: mask.box}),
        ),
    )
    outcomes = read_outcomes(casam.folder / fitted["outcomes"])
    assert outcomes.item == list(scored) == ["p004", "p005"]
    for name, value, estimate in zip(
        outcomes.item, outcomes.scores["iou"], outcomes.predicted_iou, strict=True
    ):
        box = ",".join(f"{edge:g}" for edge in boxes[name])
        report = casam.json(
            "predict", discs / "images" / f"{name}.png", "--box", box, "--run", fitted["run"],
            "--out", f"{name}.png",
        )  # fmt: skip
        mask = read_mask(casam.folder / f"{name}.png")
        assert mask.any()
        np.testing.assert_array_equal(mask, scored[name])
        assert iou(mask, np.asarray(Image.open(discs / "masks" / f"{name}.png")) > 0) == value
        assert report["predicted_iou"] == pytest.approx(estimate, abs=1e-5)


def test_one_point_takes_the_best_of_three_masks(casam: Casam, discs: Path, fitted: dict[str, Any]) -> None:
    store = EmbeddingStore.open(casam.folder / "casam_store" / "discs" / "tiny.zarr")
    backbone = decoder_of(casam.folder / "casam_store", store.identity["backbone"]["weights"])
    index = store.index("p004")
    geometry = store.geometry(index)
    best = []
    for x, y in ((20, 30), (7, 5), (33, 41)):
        point = torch.from_numpy(geometry.to_input(np.array([[[x, y]]], np.float32)))
        low_res, estimates = predict_low_res(
            load_head(casam.folder / fitted["run"], backbone),
            backbone,
            torch.from_numpy(store.read(index)[None].copy()),
            Prompts(points=point, labels=torch.ones((1, 1), dtype=torch.long)),
            multimask=True,
        )
        assert low_res.shape[1] == 3
        best.append(int(estimates[0].argmax()))
        casam(
            "predict", discs / "images" / "p004.png", "--point", f"{x},{y}", "--run", fitted["run"], "--overwrite"
        )  # fmt: skip
        expected = upscale(low_res[:, best[-1]], geometry)[0] > 0
        np.testing.assert_array_equal(read_mask(casam.folder / "mask.png"), expected.numpy())


def test_without_a_run_it_is_the_frozen_sam(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    report = casam.json(
        "predict",
        discs / "images" / "p004.png",
        "--box",
        "5,5,20,20",
        "--model",
        "small",
        "--checkpoint",
        tiny_checkpoint,
    )
    assert (report["head"], report["task"]) == ("identity", "")


def test_several_prompts_belong_to_one_mask(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    image, outs = discs / "images" / "p004.png", []
    for number, prompt in enumerate(
        (("--point", "9,9", "--point", "12,14"), ("--box", "5,5,20,20", "--point", "9,9"))
    ):
        casam(
            "predict",
            image,
            *prompt,
            "--model",
            "small",
            "--checkpoint",
            tiny_checkpoint,
            "--out",
            f"{number}.png",
        )
        assert casam.code == 0
        outs.append(read_mask(casam.folder / f"{number}.png"))
    assert outs[0].shape == outs[1].shape == (48, 40)


def test_the_api_takes_arrays_and_files(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    predictor = Predictor(model="small", checkpoint=tiny_checkpoint)
    path = discs / "images" / "p004.png"
    from_file = predictor.set_image(path).predict(boxes=(3, 3, 30, 30))
    from_array = predictor.set_image(np.asarray(Image.open(path))).predict(boxes=(3, 3, 30, 30))
    np.testing.assert_array_equal(from_file.mask, from_array.mask)
    assert from_file.mask.dtype == np.bool_


def test_coordinates_are_those_of_the_upright_image(
    casam: Casam, discs: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    upright = Image.open(discs / "images" / "p004.png")  # 40 x 48
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    masks = []
    for path in (discs / "images" / "p004.png", tmp_path / "turned.png"):
        casam(
            "predict",
            path,
            "--box",
            "5,5,20,47",
            "--model",
            "small",
            "--checkpoint",
            tiny_checkpoint,
            "--overwrite",
        )
        assert casam.code == 0, casam.err
        masks.append(read_mask(casam.folder / "mask.png"))
    np.testing.assert_array_equal(*masks)


def test_nothing_is_overwritten_unless_asked(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    command = (
        "predict", discs / "images" / "p004.png", "--box", "5,5,20,20", "--model", "small",
        "--checkpoint", tiny_checkpoint
    )  # fmt: skip
    (casam.folder / "mask_overlay.png").write_text("mine")
    casam(*command)
    assert casam.code == 1
    assert "mask_overlay.png exists" in casam.err
    assert "--overwrite" in casam.err
    assert not (casam.folder / "mask.png").exists()
    assert (casam.folder / "mask_overlay.png").read_text() == "mine"
    casam(*command, "--overwrite")
    assert casam.code == 0
    assert read_mask(casam.folder / "mask.png").shape == (48, 40)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ((), ("no prompt", "--box")),
        (("--box", "5,5,41,20"), ("5,5,41,20", "40 x 48")),
        (("--box", "20,5,5,20"), ("20,5,5,20", "x0 < x1")),
        (("--box=-1,5,5,20",), ("-1,5,5,20", "40 x 48")),
        (("--box", "nan,5,5,20"), ("nan,5,5,20",)),
        (("--box", "5,5,20"), ("--box 5,5,20", "4 or 6 numbers")),
        (("--box", "a,b,c,d"), ("--box a,b,c,d", "4 or 6 numbers")),
        (("--point", "41,5"), ("41,5", "40 x 48")),
        (("--point", "5"), ("--point 5", "2 or 3 numbers")),
        (("--point", "5,5,2"), ("--point 5,5,2", "label 2")),
        (("--point", "inf,5"), ("--point (inf,5)", "finite")),
        (("--box", "5,5,5.5,5"), ("5,5,5.5,5", "no area")),
        (("--box", "5,5,20,20", "--box", "9,9,3,20"), ("--box (9,9,3,20)", "reversed")),
        (("--box", "5,5,20,20", "--box", "9,9,13,20", "--point", "6,6"), ("--point", "which object")),
        (("--box", "5,5,20,20", "--prompts", "p.csv"), ("--prompts beside --box",)),
        (("--prompts", "p.csv"), ("p.csv", "cannot be read")),
        (("--box", "5,5,20,20", "--id", "p004"), ("--id without --store",)),
        (("--mask", "missing.png"), ("missing.png",)),
        (("--box", "5,5,20,20", "--out", "mask.jpg"), ("mask.jpg", ".png")),
        (("--box", "5,5,20,20", "--out", "missing/mask.png"), ("missing",)),
        (("--box", "5,5,20,20", "--run", "nowhere"), ("nowhere", "casam fit")),
        (("--box", "5,5,20,20", "--device", "gpu"), ("gpu",)),
        (("--box", "5,5,20,20", "--model", "vit_x"), ("vit_x", "vit_b")),
    ],
)
def test_a_wrong_prompt_or_option_is_said(
    casam: Casam, discs: Path, tiny_checkpoint: Path, prompt: tuple[str, ...], words: tuple[str, ...]
) -> None:
    casam(
        "predict", discs / "images" / "p004.png", "--model", "small", "--checkpoint", tiny_checkpoint, *prompt
    )
    assert casam.code == 1
    for word in words:
        assert word in casam.err
    assert "Traceback" not in casam.err
    assert not list(casam.folder.iterdir())


def test_a_stage_that_is_no_fit(casam: Casam, discs: Path, fitted: dict[str, Any]) -> None:
    image = discs / "images" / "p004.png"
    casam("predict", image, "--box", "5,5,20,20", "--run", fitted["outcomes"])
    assert casam.code == 1
    assert "holds no head" in casam.err


def test_an_image_that_is_none(casam: Casam, tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    for name in ("text.png", "missing.png"):
        casam(
            "predict",
            tmp_path / name,
            "--box",
            "5,5,20,20",
            "--model",
            "small",
            "--checkpoint",
            tiny_checkpoint,
        )
        assert casam.code == 1
        assert name in casam.err


ROUTED = """
from casam_cache.heads.options import HQOptions
from casam_cache.methods.routed import Routed
from casam_cache.routers.choice import RoutingOptions


class Options(HQOptions, RoutingOptions):
    fallback: bool = True


class RoutedHQ(Routed):
    name = "routed-hq"
    Options = Options
    expert = "hq-sam"
    needs = ("embedding", "early")
"""


def test_a_routed_head_reads_more_than_the_embedding(casam: Casam, encode: Encode, discs: Path) -> None:
    encode(discs, "--with", "early")
    (casam.folder / "mine.py").write_text(ROUTED)
    options = ("--set", "max_steps=1", "--set", "router=centroid", "--set", "threshold=none")
    report = casam.json("bench", "--methods", "mine.py:RoutedHQ", *options, "--jobs", 1)
    assert casam.code == 0, casam.err
    image = discs / "images" / "p004.png"
    found = casam.json("predict", image, "--box", "5,5,20,20", "--run", report["results"][0]["run"])
    assert casam.code == 0, casam.err
    assert (found["head"], found["task"]) == ("hq-sam", "discs")
