"""Each benchmark runs in a short version, compares what it compares, and writes its table."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw_dataset
from test_proposals import draw_blobs

from casam_cache import EncodeOptions, encode_dataset
from casam_cache.datasets import DatasetOptions, phantoms
from casam_cache.store import bucket_cache

pytestmark = pytest.mark.slow  # beside the package: they tell nothing of what its users rely on

FOLDER = Path(__file__).parents[1] / "benchmarks"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
OF_STORES = (
    "store_io",
    "scaling",
    "bucket_read",
    "proposals",
    "search_speed",
    "drawn_splits",
)  # the others run a model


@pytest.fixture
def results(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a benchmark of that name, with the tiny model, into a folder of its own; returns its JSON."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(phantoms, "write_phantoms", partial(phantoms.write_phantoms, scale=0.25))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(name: str, *options: object) -> dict[str, Any]:
        out = tmp_path / "results"
        if name not in OF_STORES:
            options = (*options, "--device", "cpu", "--checkpoint", tiny_checkpoint)
        monkeypatch.setattr(sys, "argv", [str(FOLDER / f"{name}.py"), *map(str, options), "--out", str(out)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        (found,) = out.glob(f"{name}*.json")
        assert "| " in found.with_suffix(".md").read_text()
        data: dict[str, Any] = json.loads(found.read_text())
        return data

    yield run
    torch.set_num_threads(threads)


def test_store_io(results: Any, tmp_path: Path) -> None:
    (row,) = results("store_io", "--items", "small", "--count", 4, "--repeat", 1, "--folder", tmp_path)[
        "rows"
    ]
    rates = row["items_per_second"]["random"]
    assert {"numpy memmap", "our store", "our store, verified always", "our store, int8"} <= rates.keys()
    assert all(rate > 0 for rate in rates.values())
    assert row["share_of_memmap"]["sequential"]["numpy memmap"] == 1
    assert not list(tmp_path.glob("store_io-*"))


def test_items_of_a_vit_are_made_of_real_ones(results: Any) -> None:
    (row,) = results("store_io", "--items", "vit", "--count", 2, "--repeat", 1)["rows"]
    assert row["shape"] == [256, 64, 64]


def test_a_side_that_reads_other_numbers_gives_no_figures(
    results: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.setattr("safetensors.numpy.save_file", lambda items, path: _save_wrong(np, items, path))
    with pytest.raises(SystemExit, match="safetensors read other numbers"):
        results("store_io", "--items", "small", "--count", 2, "--repeat", 1)


def _save_wrong(np: Any, items: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: torch.from_numpy(item + np.float16(1)) for name, item in items.items()}, path)


def test_scaling(results: Any) -> None:
    found = results("scaling", "--images", 6, 12, "--items", 3000, "--large", 2, "--repeat", 1)
    assert [row["images"] for row in found["encode"]] == [6, 12]
    assert found["open"]["open"] < 0.2
    assert [row["items"] for row in found["verify"]] == [3000, 2]


def test_bucket_read(results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for name in ("CASAM_CACHE_DIR", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_REGION", *KEYS):
        monkeypatch.setenv(name, "")  # the script sets its own; they end with the test
    monkeypatch.setattr(bucket_cache, "AHEAD", 1)
    found = results("bucket_read", "--count", 18, "--latency", 0.1, "--work", 0, "--folder", tmp_path)
    waited = found["seconds_waited"]
    assert waited["bucket, 0 shards ahead"] > 0.2  # two shards
    assert waited["bucket, read before"] < 0.2
    assert waited.keys() >= {"on a disk", "bucket, 1 shards ahead"}


def test_encode_throughput(results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import common
    import peers

    monkeypatch.setattr(common, "matmul_gflops", partial(common.matmul_gflops, rows=64, width=64))
    short = ("encode_throughput", "--repeat", 1, "--images", 1)
    (row,) = results(*short)["rows"]
    assert row["images_per_second"].keys() >= {"ours", "segment_anything"}
    monkeypatch.setitem(peers.SIDES, "segment_anything", _encodes_something_else(peers.segment_anything))
    with pytest.raises(SystemExit, match="the sides differ"):
        results(*short)
    monkeypatch.setitem(peers.SIDES, "segment_anything", _encodes_nothing)
    with pytest.raises(SystemExit, match="the sides differ by nan"):
        results(*short)


def _encodes_something_else(peer: Any) -> Any:
    def side(*arguments: Any) -> Any:
        honest = peer(*arguments)
        return lambda images: honest([255 - image for image in images])

    return side


def _encodes_nothing(backbone: Any, bf16: bool) -> Any:
    own = backbone.architecture
    return lambda images: torch.full((len(images), own.channels, own.grid, own.grid), float("nan"))


def test_the_encoder_of_transformers_has_our_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    pytest.importorskip("transformers")
    import peers
    from upstream_sam import TINY

    from casam_cache.backbones.sam import seeded_backbone

    backbone = seeded_backbone(TINY, 3)
    pixels = torch.randn(1, 3, TINY.image_size, TINY.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = peers.vision_encoder(backbone)(pixels).last_hidden_state
        torch.testing.assert_close(theirs, backbone.encoder(pixels), atol=1e-5, rtol=1e-5)


def test_store_precision(results: Any, tmp_path: Path) -> None:
    phantoms.write_phantoms(tmp_path / "all", seed=0, images_per_task=6)
    one = tmp_path / "one" / "tasks"
    one.mkdir(parents=True)
    (tmp_path / "all" / "tasks" / phantoms.TASKS[0].name).rename(one / phantoms.TASKS[0].name)
    (row,) = results("store_precision", "--data", one.parent)["rows"]
    for kind in ("bf16", "int8"):
        assert 0 < row[kind]["largest"] < 0.1  # another store, and yet nearly the same


def test_attention_race(results: Any) -> None:
    (row,) = results("attention_race", "--repeat", 1)["rows"]
    assert row["seconds_per_image"].keys() == {"augmented", "bias", "cudnn", "flex", "materialised"}
    assert row["used"] == "bias"


def test_profile(results: Any) -> None:
    rows = results("profile_time", "--repeat", 1, "--batch", 2)["rows"]
    assert [row["part"] for row in rows] == ["encode", "fit"]
    for row in rows:
        assert row["difference"] < 1e-4
        assert all(sum(kinds.values()) > 0 for kinds in row["kinds"].values())
        assert row["kinds"]["before"].keys() == row["kinds"]["after"].keys()


def test_epoch_from_store(results: Any) -> None:
    (row,) = results("epoch_from_store", "--repeat", 1, "--images", 6, "--batch", 2)["rows"]
    assert row["samples"] >= 2
    assert row["share"] == pytest.approx(row["seconds"]["memory"] / row["seconds"]["store"], rel=0.02)


STEPS = ("compiled_step", "--repeat", 3, "--images", 6, "--batch", 2)


def test_a_compiled_step_that_learns_something_else_gives_no_figures(
    results: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)
    (row,) = results(*STEPS)["rows"]
    assert row["difference"] == 0

    def deaf(run: Any, **_: Any) -> Any:
        """Every gradient is zero, every number right."""

        def step(*tensors: Any) -> Any:
            aligned, low_res, iou, loss, *terms = run(*tensors)
            return aligned, low_res, iou, loss.detach() + 0 * loss, *terms

        return step

    monkeypatch.setattr(torch, "compile", deaf)
    with pytest.raises(SystemExit, match="no figures"):
        results(*STEPS)


def test_a_store_of_a_million_items_opens_at_once(results: Any) -> None:
    found = results("scaling", "--images", 4, "--items", 1_000_000, "--large", 2, "--repeat", 3)
    assert found["open"]["open"] < 0.2


def test_prompt_latency(results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = results("prompt_latency", "--repeat", 1, "--images", 2)["rows"]
    assert row["seconds"].keys() == {"ours, pixels", "ours, stored", "SamPredictor"}
    assert all(value > 0 for both in row["seconds"].values() for value in both.values())
    monkeypatch.syspath_prepend(str(FOLDER))
    import peers

    honest = peers.predictor
    monkeypatch.setattr(peers, "predictor", lambda sam: _Doubled(honest(sam)))
    with pytest.raises(SystemExit, match="SamPredictor differ"):
        results("prompt_latency", "--repeat", 1, "--images", 2)


STAND_IN = """
import numpy as np
from pathlib import Path
from casam_cache.backbones.registry import load_backbone
from upstream_sam import predictor, upstream_sam

__version__ = "0"

def get_sam_model(name, device, checkpoint_path):
    return predictor(upstream_sam(load_backbone("small", checkpoint_path)))

def precompute_image_embeddings(sam, image, save_path, ndim, verbose):
    stretched = image.astype("float32") - image.min(axis=(0, 1))
    stretched = (stretched / (stretched.max(axis=(0, 1)) + 1e-7) * 255).astype("uint8")
    path = Path(save_path) / "features.npy"
    if not path.exists():
        sam.set_image(stretched)
        path.parent.mkdir()
        np.save(path, sam.get_image_embedding().numpy())
    size = sam.transform.get_preprocess_shape(*image.shape[:2], sam.model.image_encoder.img_size)
    return {"features": np.load(path), "input_size": size, "original_size": image.shape[:2]}

def set_precomputed(sam, found):
    import torch
    sam.features, sam.is_image_set = torch.from_numpy(found["features"]), True
    sam.input_size, sam.original_size = found["input_size"], found["original_size"]

def segment_from_box(sam, box, return_all):
    return sam.predict(box=box[[1, 0, 3, 2]], multimask_output=False)
"""


def test_micro_sam_peer(results: Any, tmp_path: Path) -> None:
    """With a stand-in of micro-sam's functions in the other environment; and without it."""
    package, python = tmp_path / "there" / "micro_sam", tmp_path / "python"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0'\n")
    (package / "prompt_based_segmentation.py").write_text("from micro_sam.util import segment_from_box\n")
    path = os.pathsep.join([str(package.parent), str(FOLDER.parent), str(FOLDER.parent / "tests")])
    python.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run = partial(results, "micro_sam_peer", "--model", "small", "--repeat", 1, "--floor", 0, "--images")
    (package / "util.py").write_text(STAND_IN)
    (row,) = run(6, "--peer-python", python)["rows"]
    assert row["killed"]["micro_sam"] == {"there": 3, "encoded_again": 3}
    assert row["killed"]["ours"]["there"] >= 3
    assert row["killed"]["ours"]["encoded_again"] <= 6
    assert row["bytes_per_image"].keys() == row["peak_mib"].keys() == {"ours", "micro_sam"}
    with pytest.raises(
        SystemExit, match=r"micro-sam is not in that environment .*No module named 'micro_sam'"
    ):
        run(2, "--peer-python", sys.executable)


def test_micro_sam_and_ours_that_differ_give_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import numpy as np
    from micro_sam_peer import differences, unchanged

    own = {"embedding/a": np.ones((2, 3, 3)), "logits/a": np.ones((1, 4, 4))}
    np.savez(tmp_path / "ours.npz", **own)
    np.savez(tmp_path / "micro_sam.npz", **own)
    assert differences(tmp_path) == {"embedding": 0.0, "logits": 0.0}
    np.savez(tmp_path / "micro_sam.npz", **own | {"logits/a": 1.1 * own["logits/a"]})
    with pytest.raises(SystemExit, match="logits differ by"):
        differences(tmp_path)
    kept = unchanged().astype(np.float32)
    assert np.array_equal((kept / (kept.max() + np.float32(1e-7)) * 255).astype(np.uint8), kept)
    assert kept.max() == 255
    assert len(set(kept)) > 200


class _Doubled:
    """A SamPredictor with other logits."""

    def __init__(self, honest: Any) -> None:
        self._honest = honest
        self.set_image = honest.set_image

    def predict(self, **prompt: Any) -> Any:
        masks, scores, low_res = self._honest.predict(**prompt)
        return masks, scores, 2 * low_res


def test_a_gpu_that_computes_something_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import encode_throughput

    honest, loaded = encode_throughput.load, list[Any]()

    def load(*arguments: Any) -> Any:
        backbone, weights = honest(*arguments)
        loaded.append(backbone)
        if len(loaded) == 2:  # the one that is on the device
            with torch.no_grad():
                next(backbone.encoder.parameters()).mul_(1.01)
        return backbone, weights

    monkeypatch.setattr(encode_throughput, "load", load)
    script = str(FOLDER / "gpu_correctness.py")
    asked = ("--models", "small", "--precisions", "fp32", "--images", "1", "--device", "cpu")
    monkeypatch.setattr(sys, "argv", [script, *asked, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="beyond the tolerance: small in fp32"):
        runpy.run_path(script, run_name="__main__")
    assert "**no**" in (tmp_path / "gpu_correctness_cpu.md").read_text()


GPU_DAY = FOLDER / "gpu_day.py"


def gpu_day(*options: object) -> subprocess.CompletedProcess[str]:
    """`benchmarks/gpu_day.py run`, as `make gpu` starts it."""
    command = [sys.executable, GPU_DAY, "run", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=280
    )


def test_the_gpu_day_runs_dry(tmp_path: Path) -> None:
    """What no other test here runs, with next to nothing on the CPU; a call whose time is over says so."""
    out = tmp_path / "results"
    dry = ("--tiny", "--device", "cpu", "--out", out, "--scratch", tmp_path / "scratch")
    first = gpu_day(*dry, "--limit", 1)
    assert first.returncode == 1
    assert "correctness: not begun" in first.stdout
    parts = ("correctness", "lite_medsam", "step-vit_b", "fits", "jobs")
    second = gpu_day(*dry, *(word for part in parts for word in ("--part", part)))
    told = json.loads((out / "gpu_day_cpu.json").read_text())["parts"]
    assert {part["state"] for part in told.values()} == {"done"}, told
    assert (second.returncode, len(told)) == (0, 5)
    pages = {"gpu_correctness", "gpu_fits", "gpu_jobs", "tinyvit_speed", "cached_vs_end_to_end", "gpu_day"}
    assert pages == {page.stem.removesuffix("_cpu") for page in out.glob("*.md")}
    third = gpu_day(*dry, "--limit", 1)
    assert "micro-sam: left out, --peer-python names no environment that has it" in third.stdout
    assert "3 parts to run" in third.stdout  # of nine scripts
    assert "4 parts to run" in gpu_day(*dry, "--limit", 1, "--peer-python", sys.executable).stdout


def test_the_scripts_of_the_gpu_day_have_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands for a GPU, which no dry run starts as they are; and all of them together last 25 minutes at most."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_day as script

    common = (FOLDER / "common.py").read_text()
    for part in script.PARTS:
        name, *words = part.command
        text = (FOLDER / name).read_text()
        text += common if "model_options" in text or "run_on_phantoms" in text else ""
        for option in (word for word in (*words, *(part.tiny or ())) if word.startswith("--")):
            assert f'"{option}"' in text, (part.name, option)
    assert sum(part.seconds for part in script.PARTS) <= 60 * script.MINUTES
    tried = {part.command[0] for part in script.PARTS if part.tiny}
    assert {part.command[0] for part in script.PARTS} - tried == {"compiled_step.py"}


def test_a_part_that_is_cut_short_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_day as script

    options = argparse.Namespace(
        device="cpu", out=tmp_path, scratch=tmp_path, tiny=True, data=None, peer_python=None
    )
    day = script.Day(options, None)
    part = script.Part("jobs", 100, ("gpu_fits.py",), ("--jobs", "1"), scratch=True)
    assert day.run(part, 0.2, "cpu") == "cut short"
    assert not day.is_done(part)
    slow = script.Part("jobs", 0.2, ("gpu_fits.py",), ("--jobs", "1"), scratch=True)
    assert day.run(slow, 100, "cpu") == "too slow"
    assert script.Day(options, None).is_done(part)
    broken = script.Part("jobs", 100, ("gpu_fits.py",), ("--jobs", "none"), scratch=True)
    assert day.run(broken, 100, "cpu") == "failed"
    assert "invalid int value: 'none'" in (tmp_path / "gpu_day_cpu.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_day_without_a_gpu_says_so_in_a_line(tmp_path: Path) -> None:
    done = gpu_day("--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("no figures: no device 'cuda' here")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_many_masks(results: Any, tmp_path: Path) -> None:
    data = results("many_masks", "--sets", "cell", "--share", 0.02, "--folder", tmp_path)
    (row,) = data["rows"]
    assert row["commands"].keys() == {"torch", "data check", "encode"}
    assert all(each["peak_mib"] > 20 and each["processor_s"] > 0 for each in row["commands"].values())
    assert str(tmp_path) not in json.dumps(data)


def test_large_image(results: Any) -> None:
    short = ("--side", 800, "--tile", 100, "--overlap", 20)
    fits = ("--fit=--epochs=1", "--head=--set=max_steps=4", "--head=--set=min_steps=1")
    small, large = results("large_image", *short, *fits)["rows"]
    assert (small["side"], large["side"]) == (200, 800)
    assert large["encoded"] > 4 * small["encoded"]
    assert large["whole"]["objects"] == large["written"]["objects"] <= large["tiles"]["masks"]
    assert 0 < large["written"]["iou"] < 1


def test_image_mode_cost(results: Any, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "data" / "discs", images=36)
    short = ("image_mode_cost", tmp_path / "data" / "discs", "--steps", 2, "--threads", 1, "--images", 20)
    (row,) = results(*short, "--target", 0.01)["rows"]
    own = {each["method"]: each for each in row["methods"]}
    assert own.keys() == {"alignment", "decoder", "sam-decoder", "sam-lora", "msa", "sam-med2d", "sam-full"}
    assert own["sam-decoder"]["parameters"] == own["decoder"]["parameters"]
    assert own["sam-full"]["gflop"] > own["sam-decoder"]["gflop"] > own["decoder"]["gflop"]
    assert all(each["processor_s"] > 0 and each["peak_mib"] > 100 for each in own.values())
    assert own["sam-full"]["paid"]["steps"] > 0
    assert own["sam-full"]["steps_to_target"] == 0
    assert row["encode"]["bytes"] > 0


def test_report_size(results: Any) -> None:
    (row,) = results("report_size", "--masks", 40, "--scroll", 0.5)["rows"]
    assert row["masks"] == 40
    assert row["files"] > 40
    assert row["browser"] is None or row["browser"]["tiles"] == 40


def test_proposals(results: Any, tmp_path: Path, tiny_checkpoint: Path) -> None:
    options = EncodeOptions(
        model="small", checkpoint=tiny_checkpoint, dataset=DatasetOptions(masks="instances")
    )
    encode_dataset(draw_blobs(tmp_path / "blobs"), tmp_path / "stores", options)
    short = ("--set", "min_steps=4", "--set", "max_steps=4")
    places = ("--store", tmp_path / "stores", "--runs", tmp_path / "runs")
    data = results("proposals", *places, "--tasks", "blobs", *short)
    (row,) = data["rows"]
    assert row["true_boxes"]["objects"] == row["proposals"]["objects"] > 4
    assert row["true_boxes"]["found"] <= row["true_boxes"]["objects"]
    assert row["train"] == 8
    assert str(tmp_path) not in json.dumps(data)


def test_drawn_splits(results: Any, tmp_path: Path, tiny_checkpoint: Path) -> None:
    data = draw_dataset(tmp_path / "discs", images=20)
    for seed in (1, 2):
        options = EncodeOptions(model="small", checkpoint=tiny_checkpoint, dataset=DatasetOptions(seed=seed))
        encode_dataset(data, tmp_path / "stores" / str(seed), options)
    folders = (tmp_path / "stores" / "1", tmp_path / "stores" / "2")
    made = results(
        "drawn_splits", *folders, "--runs", tmp_path / "runs", "--set", "max_steps=4", "--set", "min_steps=1"
    )
    assert [(row["task"], row["stores"]) for row in made["rows"]] == [("discs", "1"), ("discs", "2")]
    page = (tmp_path / "results" / "drawn_splits_small.md").read_text()
    gains = [100 * (row["fitted"] - row["frozen"]) for row in made["rows"]]
    assert f"| discs | {gains[0]:+.1f} | {gains[1]:+.1f} | {sum(gains) / 2:+.1f} |" in page
    assert f"{sum(gain > 0 for gain in gains)} of 2 fits gain" in page


def test_search_speed(results: Any, tmp_path: Path, tiny_checkpoint: Path) -> None:
    options = EncodeOptions(model="small", checkpoint=tiny_checkpoint)
    encode_dataset(draw_dataset(tmp_path / "discs", images=20), tmp_path / "stores", options)
    short = ("--task", "discs", "--trials", 3, "--jobs", 1, "--set", "min_steps=3", "--set", "max_steps=9")
    with pytest.raises(SystemExit, match="below the floor"):  # stages of milliseconds are not what it costs
        results("search_speed", "--store", tmp_path / "stores", *short)
    data = json.loads((tmp_path / "results" / "search_speed_cpu.json").read_text())
    assert [row["tried"] for row in data["rows"]] == [2, 3]
    assert all(0 < row["seconds_of_stages"] < row["seconds"] for row in data["rows"])
    assert [row["stages"] for row in data["again"]] == [0, 0]
