"""SAMs that train through the image: the items of the cache, and its numbers where the encoder is frozen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Casam
from safetensors.torch import load_file
from test_tinyvit import seeded_tiny

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.heads.base import run_head
from casam_cache.heads.files import WEIGHTS, build_head, load_head, save_head
from casam_cache.heads.testing import TINY
from casam_cache.metrics.overlap import iou
from casam_cache.training import loop
from casam_cache.training.outcomes import read_outcomes

SHORT = ("--task", "discs", "--epochs", 2, "--set", "learning_rate=0.001", "--set", "held_out=0")
BACKBONES = {"vit": lambda: seeded_backbone(TINY, 0), "tiny-vit": seeded_tiny}


@pytest.fixture
def encoded(encode: Callable[..., Any], discs: Path) -> Path:
    encode(discs)
    return discs


def test_the_decoder_through_the_image_equals_the_decoder_from_the_cache(casam: Casam, encoded: Path) -> None:
    cached = casam.json("fit", *SHORT, "--method", "decoder")
    through = casam.json("fit", *SHORT, "--method", "sam-decoder")
    assert through["frozen"] == cached["frozen"]
    assert (through["steps"], through["parameters"]) == (cached["steps"], cached["parameters"])
    own, other = (load_file(casam.folder / each["run"] / WEIGHTS) for each in (through, cached))
    assert own.keys() == other.keys()
    start = build_head("decoder", None, start_of(casam), 0).state_dict()
    moved = {name: float((other[name] - start[name]).abs().max()) for name in other}
    apart = {name: float((own[name] - other[name]).abs().max()) for name in other}
    # The cache rounds to float16. Adam makes a whole step of any gradient, however small, so the bulk is compared.
    assert max(moved.values()) > 1e-3
    assert np.mean(list(apart.values())) < 0.1 * np.mean(list(moved.values()))
    mine, theirs = (read_outcomes(casam.folder / each["outcomes"]) for each in (through, cached))
    assert mine.item == theirs.item
    assert mine.scores["iou"] == pytest.approx(theirs.scores["iou"], abs=0.01)
    assert through["flops"] - cached["flops"] == pytest.approx(start_of(casam).encoder_flops(), rel=0.05)
    assert f"{through['step_seconds']:.3g} s a step" in casam("fit", *SHORT, "--method", "sam-decoder")


def start_of(casam: Casam) -> Backbone:
    from casam_cache.bench.tasks import Tasks

    return Tasks.open(casam.folder / "casam_store", None, "cpu").place.backbone("discs")


def test_pixels_are_what_the_store_was_encoded_from(casam: Casam, encoded: Path) -> None:
    from casam_cache.bench.tasks import Tasks

    tasks = Tasks.open(casam.folder / "casam_store", None, "cpu")
    backbone = tasks.place.backbone("discs", ("pixels",))
    items = tasks.place.items(tasks.split("discs", "train").ref)
    head = build_head("image-sam", {"encoder": "none"}, backbone, 0)
    for index in range(len(items)):
        features = {name: torch.from_numpy(items.feature(name, index))[None].float() for name in head.needs}
        stored = items.feature("embedding", index).astype(np.float32)
        assert np.allclose(head.align(features)[0].numpy(), stored, atol=5e-3)


@pytest.mark.parametrize("method", ["sam-full", "sam-lora", "sam-med2d", "msa"])
def test_fits_that_train_the_encoder_are_shared_and_evaluated(
    casam: Casam, encoded: Path, method: str
) -> None:
    report = casam.json("fit", *SHORT, "--method", method)
    assert casam.code == 0, casam.err
    assert report["computed"]
    assert report["test"]["iou"] != report["frozen"]["iou"]
    assert not casam.json("fit", *SHORT, "--method", method)["computed"]
    tuned = load_file(casam.folder / report["run"] / WEIGHTS)
    assert any(name.startswith("encoder.") for name in tuned)
    if method != "sam-full":
        part = "parametrizations" if method == "sam-lora" else "adapter"
        assert all(part in name for name in tuned if name.startswith("encoder."))
        assert sum(tensor.numel() for tensor in tuned.values()) == report["parameters"]
    assert_predicted_as_scored(casam, report, encoded)
    casam("export", report["run"], "--onnx", "graphs")
    assert casam.code == 1
    assert "was trained through the image" in " ".join(casam.err.split())


def assert_predicted_as_scored(casam: Casam, report: Any, dataset: Path) -> None:
    """`casam predict` gives what was scored, from an image and from an item."""
    from casam_cache.bench.predict import Predictor
    from casam_cache.bench.tasks import Tasks

    outcomes = read_outcomes(casam.folder / report["outcomes"])
    tasks = Tasks.open(casam.folder / "casam_store", None, "cpu")
    items = tasks.place.items(tasks.split("discs", "test").ref)
    predictor = Predictor(casam.folder / report["run"], device="cpu")
    for index, item in enumerate(items):
        for mask in items.masks(index) if item.masks else ():
            expected = outcomes.scores["iou"][outcomes.item.index(item.id)]
            shown = predictor.set_image(dataset / "images" / f"{item.id}.png").predict(boxes=mask.box)
            assert iou(shown.mask, mask.bitmap) == pytest.approx(expected, abs=1e-6)
            stored = predictor.set_item(tasks.store("discs"), item.id).predict(boxes=mask.box)
            assert np.array_equal(stored.mask, shown.mask)
    casam(
        "predict",
        dataset / "images" / "p004.png",
        "--box",
        "5,5,20,20",
        "--run",
        report["run"],
        "--out",
        "shown.png",
    )
    assert casam.code == 0, casam.err


@pytest.mark.parametrize("encoder", ["lora", "sam-med2d", "msa", "all"])
@pytest.mark.parametrize("made", BACKBONES.values(), ids=BACKBONES)
def test_all_that_is_trained_has_a_gradient_and_begins_as_the_frozen_sam(
    made: Callable[[], Any], encoder: str, tmp_path: Path
) -> None:
    backbone = made()
    side, grid = backbone.image_size, backbone.grid
    generator = torch.Generator().manual_seed(0)
    features = {
        "pixels": torch.randint(0, 256, (2, 3, side, side), generator=generator).float(),
        "input_size": torch.tensor([[side, side], [side, side // 2]]).float(),
    }
    sparse = torch.randn(2, 2, backbone.channels, generator=generator)
    dense = torch.randn(2, backbone.channels, grid, grid, generator=generator)
    head = build_head("image-sam", {"encoder": encoder, "rank": 2}, backbone, 0)
    frozen = build_head("image-sam", {"encoder": "none"}, backbone, 0)
    aligned, low_res, iou = run_head(head, backbone, features, None, sparse, dense)
    # Where weights want gradients torch takes other kernels, whose last bits are others.
    assert torch.allclose(aligned, frozen.align(features), rtol=1e-4, atol=1e-4)
    (low_res.square().sum() + iou.sum()).backward()
    own = dict(head.encoder.named_parameters())
    without = [name for name, p in own.items() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # A has none while B is zero, and nothing in front of a norm whose gain is.
    silent = {
        "lora": (".a",),
        "msa": ("down.weight", "down.bias"),
        "sam-med2d": ("e.weight", "down.weight", "up.weight"),
    }
    expected = [
        name for name in own if own[name].requires_grad and name.endswith(silent.get(encoder, ("nothing",)))
    ]
    assert without == expected
    assert len(expected) < sum(parameter.requires_grad for parameter in own.values())
    assert all(p.grad is None for p in backbone.encoder.parameters())
    with torch.no_grad():
        for parameter in head.trained():
            parameter += 0.01
    save_head(head, tmp_path)
    loaded = load_head(tmp_path, backbone)
    with torch.no_grad():
        changed = head.align(features)
        assert torch.equal(loaded.align(features), changed)
        assert not torch.allclose(changed, aligned)


def test_low_rank_matrices_leave_the_keys_alone() -> None:
    for backbone in (made() for made in BACKBONES.values()):
        head = build_head("image-sam", {"encoder": "lora", "rank": 2}, backbone, 0)
        with torch.no_grad():
            for parameter in head.encoder.parameters():
                if parameter.requires_grad:
                    parameter += 1
        theirs = dict(backbone.encoder.named_modules())
        for name, module in head.encoder.named_modules():
            if hasattr(module, "qkv"):
                heads = len(module.attention_biases) if hasattr(module, "attention_biases") else 1
                moved = (module.qkv.weight - theirs[name].qkv.weight).unflatten(0, (heads, 3, -1)).abs()
                assert moved[:, 1].max() == 0
                assert moved[:, 0].min() > 0
                assert moved[:, 2].min() > 0


def test_a_fit_through_the_image_goes_on_to_the_same_weights(
    casam: Casam, encoded: Path, tmp_path: Path
) -> None:
    from casam_cache.bench.tasks import Tasks
    from casam_cache.training.options import TrainingOptions

    tasks = Tasks.open(casam.folder / "casam_store", None, "cpu")
    backbone = tasks.place.backbone("discs", ("pixels",))
    items = tasks.place.items(tasks.split("discs", "train").ref)
    options = TrainingOptions(epochs=3, held_out=0)

    def fit(folder: Path | None, stop: bool = False) -> Any:
        def on_epoch(record: Any, progress: Any) -> None:
            if stop and record.epoch == 1:
                raise KeyboardInterrupt

        head = build_head("image-sam", {"encoder": "all"}, backbone, 0)
        return loop.fit_head(head, backbone, items, options, checkpoint_dir=folder, on_epoch=on_epoch)

    whole = fit(None)
    assert (
        "stream" in whole.residency
    )  # pixels are never all held: memory does not depend on how many images there are
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop=True)
    resumed = fit(tmp_path)
    assert resumed.resumed_from == 2
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(resumed.head.state_dict()[name], tensor)


def test_a_changed_image_and_a_folder_that_is_gone_are_one_line(casam: Casam, encoded: Path) -> None:
    picture = encoded / "images" / "p000.png"
    shutil.copy(encoded / "images" / "p001.png", picture)
    casam("fit", *SHORT, "--method", "sam-full")
    assert casam.code == 1
    assert "p000.png is missing or not the image that was encoded" in " ".join(casam.err.split())
    assert "Traceback" not in casam.err
    shutil.rmtree(encoded)
    casam("fit", *SHORT, "--method", "sam-full")
    assert casam.code == 1
    assert "needs the images of discs" in " ".join(casam.err.split())
    assert "Traceback" not in casam.err


def test_views_of_the_cache_are_refused(casam: Casam, encode: Callable[..., Any], discs: Path) -> None:
    encode(discs, "--views", "flip_h")
    casam("fit", *SHORT, "--method", "sam-full", "--set", "views=flip_h")
    assert casam.code == 1
    assert "train this method with views=none" in " ".join(casam.err.split())
