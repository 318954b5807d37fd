"""Segmentation networks in the place of SAM: the items of the cache, with and without the box."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Casam, draw_dataset
from PIL import Image
from test_image_mode import assert_predicted_as_scored

from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError, OptionError
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head, predict_low_res
from casam_cache.heads.files import build_head, load_head, save_head
from casam_cache.heads.networks import ARCHITECTURES
from casam_cache.heads.testing import TINY
from casam_cache.training.epochs import TrainingMasks
from casam_cache.training.evaluate import evaluate
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays
from casam_cache.training.loop import fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.selection import Chosen

LIGHT, QUICK = "mobilenet_v2", "resnet18"  # cheap steps; few steps until it has learned something
SET = ("--set", f"encoder={LIGHT}", "--set", "held_out=0")
SIDE = TINY.image_size


def network(seed: int = 0, **options: Any) -> Head:
    return build_head("image-network", {"encoder": LIGHT, **options}, seeded_backbone(TINY, 0), seed)


def drawn(squares: list[list[tuple[int, int, int]]]) -> Items:
    """An image for each list of squares (x, y, class) of 16 pixels, brighter by class."""
    rng = np.random.default_rng(0)
    items, masks, pixels = [], [], []
    for index, own in enumerate(squares):
        image = rng.integers(0, 60, (3, SIDE, SIDE)).astype(np.uint8)
        found = []
        for x, y, kind in own:
            bitmap = np.zeros((SIDE, SIDE), dtype=bool)
            bitmap[y : y + 16, x : x + 16] = True
            image[:, bitmap] += np.uint8(60 * kind)
            box = np.array([x, y, x + 15, y + 15], dtype=np.float32)
            found.append(ItemMask(bitmap, kind, len(found) + 1, box, box[:2] + 8))
        pixels.append(image)
        masks.append(found)
        items.append(Item(f"i{index}", "squares", f"g{index}", Geometry.fit(SIDE, SIDE, SIDE, 8), len(own)))
    embedding = np.zeros((len(items), TINY.channels, 8, 8), dtype=np.float16)
    sizes = np.full((len(items), 2), SIDE, dtype=np.int64)
    return items_from_arrays(
        "squares", items, embedding, masks, {"pixels": np.stack(pixels), "input_size": sizes}
    )


def trained(head: Head, items: Items, steps: int = 30, **more: Any) -> Any:
    options = TrainingOptions(epochs=steps, max_steps=steps, batch_size=4, learning_rate=1e-3, **more)
    return fit_head(head, seeded_backbone(TINY, 0), items, options)


@pytest.mark.parametrize("method", [pytest.param("unet", marks=pytest.mark.slow), "unet-box"])
def test_a_network_is_fitted_to_the_items_of_the_store(
    casam: Casam, encode: Callable[..., Any], discs: Path, method: str
) -> None:
    encode(discs)
    asked = ("fit", "--task", "discs", "--method", method, "--epochs", 1, *SET)
    report = casam.json(*asked)
    assert casam.code == 0, casam.err
    assert not casam.json(*asked)["computed"]
    cached = casam.json(
        "fit", "--task", "discs", "--method", "alignment", "--epochs", 1, "--set", "held_out=0"
    )
    assert (report["frozen"], report["steps"]) == (cached["frozen"], cached["steps"])
    assert report["test"]["masks"] == cached["test"]["masks"]
    assert report["test"]["iou"] != report["frozen"]["iou"]
    assert report["parameters"] == network(box=method == "unet-box").trained_parameters()
    assert_predicted_as_scored(casam, report, discs)
    casam("encode", discs, "--run", report["run"], "--store", "tuned")
    assert casam.code == 1
    assert "trains a network in the place of SAM" in " ".join(casam.err.split())


@pytest.mark.slow
def test_networks_stand_beside_cached_heads_in_a_bench(
    casam: Casam, encode: Callable[..., Any], discs: Path, tmp_path: Path
) -> None:
    encode(discs)
    recipe = tmp_path / "recipe.yaml"
    rows = [f"  - {{method: {name}, set: {{encoder: {LIGHT}}}}}" for name in ("unet", "unet-box")]
    recipe.write_text(
        "title: all\ntable: bench\ntraining: {max_steps: 1}\nmethods:\n  - frozen\n  - alignment\n"
        + "\n".join(rows)
    )
    found = casam("bench", "--recipe", recipe)
    assert casam.code == 0, casam.err
    lines = [line.split() for line in found.splitlines() if line.strip()]
    assert {"frozen", "alignment", "unet", "unet-box"} <= {line[0] for line in lines}


def test_maps_of_classes_are_told_apart_and_a_mask_is_scored_on_its_own() -> None:
    items = drawn([[(4, 4, 1), (30, 30, 2)], [(40, 8, 1), (8, 40, 2)], [(20, 2, 1), (24, 44, 2)]])
    head = network(classes=2, encoder=QUICK)
    trained(head, items, 30)
    found = evaluate(head, seeded_backbone(TINY, 0), items)
    assert min(found.scores["iou"]) > 0.6
    assert sorted(set(found.class_id)) == [1, 2]
    with pytest.raises(CasamError, match="a prompt does not say which is meant"):
        predict_low_res(head, seeded_backbone(TINY, 0), features(), Prompts(boxes=torch.zeros(2, 4)))
    with pytest.raises(
        CasamError, match="squares/i0 has a mask of class 2, and the network predicts 1 map"
    ) as told:
        trained(network(), items, 1)
    assert "--set classes=2" in told.value.hint


def test_several_masks_of_a_class_need_a_box_or_a_cut() -> None:
    items = drawn([[(4, 4, 1), (36, 30, 1)], [(40, 8, 1), (8, 40, 1)]])
    with pytest.raises(CasamError, match="squares/i0 has several masks of one class") as told:
        trained(network(), items, 1)
    assert "cut=box" in told.value.hint
    masks = TrainingMasks.prepare(items, side=SIDE).united()
    assert np.array_equal(masks.targets[0], masks.targets[1])
    assert np.unpackbits(masks.targets[0]).sum() == 2 * 16 * 16
    head = network(cut="box", encoder=QUICK)
    trained(head, items, 25)
    backbone = seeded_backbone(TINY, 0)
    assert min(evaluate(head, backbone, items).scores["iou"]) > 0.6
    boxes = torch.tensor([[4.0, 4, 19, 19], [40, 8, 55, 23]])
    cut, _ = predict_low_res(head.eval(), backbone, features(), Prompts(boxes=boxes))
    outside = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    outside[0, 4:20, 4:20] = outside[1, 8:24, 40:56] = False
    assert (cut[:, 0][outside] <= 0).all()


@pytest.mark.slow
def test_a_box_tells_a_network_which_of_several_masks_is_meant() -> None:
    items = drawn([[(4, 4, 1), (36, 30, 1)], [(40, 8, 1), (8, 40, 1)]])
    boxed = network(box=True, encoder=QUICK)
    trained(boxed, items, 60, box_share=1.0, masks_per_image=2)
    assert min(evaluate(boxed, seeded_backbone(TINY, 0), items).scores["iou"]) > 0.7


def features() -> dict[str, torch.Tensor]:
    items = drawn([[(4, 4, 1)], [(30, 20, 1)]])
    names = ("pixels", "input_size")
    return {name: torch.from_numpy(np.stack([items.feature(name, k) for k in (0, 1)])) for name in names}


def test_a_box_is_a_channel_and_a_point_a_small_one() -> None:
    backbone, seen = seeded_backbone(TINY, 0), []
    head = network(box=True)
    head.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, 3]))
    boxes = torch.tensor([[3.0, 4.0, 10.0, 20.0], [0.0, 0.0, 63.0, 63.0]])
    predict_low_res(head, backbone, features(), Prompts(boxes=boxes))
    assert seen[0].sum((1, 2)).tolist() == [8 * 17, SIDE * SIDE]
    assert seen[0][0, 4:21, 3:11].all()
    point = Prompts(points=torch.tensor([[[8.0, 9.0]]] * 2), labels=torch.ones(2, 1, dtype=torch.long))
    predict_low_res(head, backbone, features(), point)
    assert seen[1][0, 7:12, 6:11].all()
    assert seen[1].sum((1, 2)).tolist() == [25, 25]
    two = Prompts(points=torch.zeros(2, 2, 2), labels=torch.ones(2, 2, dtype=torch.long))
    with pytest.raises(CasamError, match="one box or one point"):
        predict_low_res(head, backbone, features(), two)
    low_res, _ = predict_low_res(network(), backbone, features(), two)
    assert low_res.shape == (2, 1, SIDE, SIDE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("box", [False, True])
def test_weights_belong_to_the_seed_and_come_back_from_disk(
    architecture: str, box: bool, tmp_path: Path
) -> None:
    backbone, prompts = seeded_backbone(TINY, 0), Prompts(boxes=torch.tensor([[3.0, 4, 30, 20]] * 2))
    small = {
        "encoder": "mit_b0"
        if architecture == "segformer"
        else "mobilenet_v2"
        if architecture == "unetpp"
        else LIGHT
    }
    torch.manual_seed(1)
    before = torch.get_rng_state()
    head = network(seed=3, architecture=architecture, box=box, **small)
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (
        predict_low_res(one.eval(), backbone, features(), prompts)
        for one in (head, *(network(seed=s, architecture=architecture, box=box, **small) for s in (3, 4)))
    )
    assert torch.equal(first[0], again[0])
    assert not torch.allclose(first[0], other[0])
    assert first[0].shape == (2, 1, SIDE, SIDE)
    assert ((first[1] >= 0) & (first[1] <= 1)).all()
    save_head(head, tmp_path)
    loaded = load_head(tmp_path, backbone)
    assert torch.equal(predict_low_res(loaded, backbone, features(), prompts)[0], first[0])


def test_inputs_of_any_side_are_padded_to_the_stride() -> None:
    head: Any = network().eval()
    with torch.no_grad():
        assert head._maps(torch.zeros(1, 3, 40, 40)).shape == (1, 1, 40, 40)


def test_an_unknown_encoder_is_one_line() -> None:
    with pytest.raises(OptionError, match="unknown encoder 'resnet19'"):
        network(encoder="resnet19")


def test_a_network_never_gives_way_to_the_frozen_sam(
    casam: Casam, encode: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where groups are held out a head worse than none gives way to the frozen SAM; a network is no head of SAM's."""
    monkeypatch.setattr(Chosen, "below_frozen", True)
    encode(draw_dataset(tmp_path / "data" / "discs", images=24))
    short = ("fit", "--task", "discs", "--set", "max_steps=1", "--set", "held_out=0.3")
    network_kept = casam.json(*short, "--method", "unet", "--set", f"encoder={LIGHT}")
    assert network_kept["test"]["iou"] != network_kept["frozen"]["iou"]
    head_kept = casam.json(*short, "--method", "decoder")
    assert head_kept["test"]["iou"] == head_kept["frozen"]["iou"]


def test_a_fit_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    items = drawn([[(4, 4, 1)], [(40, 8, 1)], [(20, 2, 1)]])
    backbone, options = seeded_backbone(TINY, 0), TrainingOptions(epochs=3, batch_size=2)

    def fit(folder: Path | None, stop: bool = False) -> Head:
        def on_epoch(record: Any, progress: Any) -> None:
            if stop and record.epoch == 1:
                raise KeyboardInterrupt

        return fit_head(network(), backbone, items, options, checkpoint_dir=folder, on_epoch=on_epoch).head

    whole = fit(None)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop=True)
    resumed = fit(tmp_path).state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.state_dict().items())


def test_class_numbers_of_masks_reach_the_network(
    casam: Casam, encode: Callable[..., Any], discs: Path
) -> None:
    for path in (discs / "masks").iterdir():
        mask = np.array(Image.open(path))
        classes = np.where(mask > 0, 1 + (np.arange(mask.shape[1]) > 20)[None], 0)
        Image.fromarray(classes.astype(np.uint8)).save(path)
    encode(discs, "--masks", "classes")
    casam("fit", "--task", "discs", "--method", "unet", "--epochs", 1, *SET)
    assert casam.code == 1
    assert "--set classes=2" in casam.err
    assert "Traceback" not in casam.err
    casam.json("fit", "--task", "discs", "--method", "unet", "--epochs", 1, "--set", "classes=2", *SET)
    assert casam.code == 0, casam.err
