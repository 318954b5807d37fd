"""A run predicts wherever it and its store are now, and says what it needs where it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Casam, draw_dataset, write_tiny_checkpoint
from PIL import Image

from casam_cache.backbones.sam import backbone_state, seeded_backbone
from casam_cache.bench.opened_run import open_run
from casam_cache.encode.kept_backbones import KEPT
from casam_cache.encode.sources import FOLDER
from casam_cache.engine.runs import RECORD
from casam_cache.errors import CasamError, CheckpointError
from casam_cache.fingerprint import digest

BOX = ("--box", "5,5,30,30")


class Fitted:
    """A fit whose store and checkpoint are this test's own, to be moved about."""

    def __init__(self, casam: Casam, discs: Path, folder: Path) -> None:
        self.casam, self.image = casam, discs / "images" / "p004.png"
        self.checkpoint = folder / "mine" / "tiny.safetensors"
        self.checkpoint.parent.mkdir()
        write_tiny_checkpoint(self.checkpoint)
        casam("encode", discs, "--model", "small", "--checkpoint", self.checkpoint, "--name", "tiny")
        assert casam.code == 0, casam.err
        report = casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")
        self.store, self.runs = casam.folder / "casam_store", casam.folder / "casam_runs"
        self.run = casam.folder / report["run"]
        self.before = self.mask()

    def mask(self, run: Path | None = None, *options: object) -> np.ndarray | None:
        """What `casam predict` writes; None where it fails."""
        out = self.casam.folder / "m.png"
        command = ("predict", self.image, *BOX, "--run", run or self.run, "--out", out, "--overwrite")
        self.casam(*command, *options)
        return np.asarray(Image.open(out)) > 0 if self.casam.code == 0 else None

    def as_of_before(self) -> None:
        """Takes away what runs did not carry once."""
        shutil.rmtree(self.runs / KEPT)
        record = json.loads((self.run / RECORD).read_text())
        del record["digest"], record["recorded"]["backbone"]
        (self.run / RECORD).write_text(json.dumps({**record, "digest": digest(record)}))


@pytest.fixture
def fitted(casam: Casam, discs: Path, tmp_path: Path) -> Fitted:
    return Fitted(casam, discs, tmp_path)


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and bool(one.any()) and np.array_equal(one, other)


def test_a_run_needs_no_store(fitted: Fitted) -> None:
    fitted.store.rename(fitted.store.with_name("renamed"))
    assert same(fitted.mask(), fitted.before)
    shutil.rmtree(fitted.store.with_name("renamed"))
    assert same(fitted.mask(), fitted.before)
    moved = fitted.runs.rename(fitted.runs.with_name("elsewhere"))
    assert same(fitted.mask(moved / "fit" / fitted.run.name), fitted.before)


def test_the_decoder_is_kept_once_with_what_reads_it(fitted: Fitted) -> None:
    kept = sorted(path.name for path in (fitted.runs / KEPT).iterdir())
    assert kept == sorted(path.name for path in (fitted.store / FOLDER).iterdir())
    assert len(kept) == 2
    fitted.casam("fit", "--task", "discs", "--epochs", 1, "--method", "decoder")
    assert fitted.casam.code == 0
    assert sorted(path.name for path in (fitted.runs / KEPT).iterdir()) == kept
    stated = json.loads((fitted.run / RECORD).read_text())["recorded"]["backbone"]
    assert stated["backbone"] == {"name": "small"}
    assert Path(stated["checkpoint"]) == fitted.checkpoint
    shutil.rmtree(fitted.store)
    opened = open_run(fitted.run, device="cpu", encoder=False)
    assert opened.backbone.encoder is None
    assert opened.backbone.fingerprint == stated["fingerprint"]
    assert opened.with_encoder().backbone.encoder is not None
    assert opened.task == "discs"


def test_a_checkpoint_that_moved_is_named(fitted: Fitted, tmp_path: Path) -> None:
    shutil.rmtree(fitted.store)
    moved = fitted.checkpoint.rename(tmp_path / "moved.safetensors")
    assert fitted.mask() is None
    assert str(fitted.checkpoint) in fitted.casam.err
    assert "--checkpoint" in fitted.casam.err
    assert same(fitted.mask(None, "--model", "small", "--checkpoint", moved), fitted.before)


def test_a_moved_file_is_not_replaced_by_a_download(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    from casam_cache.backbones.base import Fetch
    from casam_cache.backbones.sam import Small

    monkeypatch.setattr(Small, "to_fetch", classmethod(lambda cls, checkpoint: Fetch("official.pth", {})))
    monkeypatch.setattr(
        Small, "own_checkpoint", classmethod(lambda cls, progress=None: pytest.fail("fetched"))
    )
    fitted.checkpoint.unlink()
    assert fitted.mask() is None
    assert "is not there" in fitted.casam.err
    assert str(fitted.checkpoint) in fitted.casam.err


def test_other_weights_are_refused_with_both_fingerprints(fitted: Fitted, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    other = seeded_backbone(TINY, 8)
    state = {key: tensor.contiguous() for key, tensor in backbone_state(other).items()}
    save_file(state, tmp_path / "other.safetensors", metadata={"architecture": json.dumps(TINY.to_json())})
    assert fitted.mask(None, "--model", "small", "--checkpoint", tmp_path / "other.safetensors") is None
    wanted = open_run(fitted.run, encoder=False).backbone.fingerprint
    for part in ("other.safetensors", other.fingerprint[:20], wanted[:20], "--checkpoint"):
        assert part in fitted.casam.err


def test_a_run_of_before_uses_its_store(fitted: Fitted) -> None:
    fitted.as_of_before()
    assert same(fitted.mask(), fitted.before)


def test_a_run_of_before_whose_store_moved_says_how_to_go_on(fitted: Fitted) -> None:
    fitted.as_of_before()
    moved = fitted.store.rename(fitted.store.with_name("renamed"))
    assert fitted.mask() is None
    for part in ("--store", "--model", "--checkpoint", str(fitted.store)):
        assert part in fitted.casam.err
    assert same(fitted.mask(None, "--store", moved), fitted.before)
    assert same(fitted.mask(None, "--store", moved / "discs" / "tiny.zarr"), fitted.before)
    shutil.rmtree(moved)
    assert same(fitted.mask(None, "--model", "small", "--checkpoint", fitted.checkpoint), fitted.before)
    assert fitted.mask(None, "--model", "small") is None
    assert "other weights" in fitted.casam.err


def test_a_run_taken_out_of_its_folder(fitted: Fitted, tmp_path: Path) -> None:
    """Its record says which backbone it needs, and where the checkpoint was."""
    shutil.rmtree(fitted.store)
    alone = tmp_path / "alone" / "fit" / fitted.run.name
    shutil.copytree(fitted.run, alone)
    assert same(fitted.mask(alone), fitted.before)


def test_a_damaged_decoder_is_not_used(fitted: Fitted) -> None:
    (weights,) = (fitted.runs / KEPT).glob("*.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + bytes(4))
    opened = open_run(fitted.run, device="cpu", encoder=False)
    assert opened.backbone.encoder is None  # from beside the store
    shutil.rmtree(fitted.store)
    fitted.checkpoint.unlink()
    with pytest.raises(CheckpointError, match="is damaged"):
        open_run(fitted.run, device="cpu", encoder=False)


def test_what_is_kept_is_verified_and_mended(casam: Casam, fitted: Fitted) -> None:
    for path in (fitted.runs / KEPT).iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-9] + b"?" + content[-8:])
        assert any(path.name in line for line in casam.json("runs", "verify")["damaged"])
        assert casam.code == 1
        casam("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")
        assert path.read_bytes() == content
    assert casam.json("runs", "verify")["damaged"] == []


def test_a_file_of_another_backbone_is_not_used(fitted: Fitted) -> None:
    shutil.rmtree(fitted.runs / KEPT)
    shutil.copytree(fitted.store / FOLDER, fitted.runs / KEPT)  # without digests, as beside stores
    (weights,) = (fitted.runs / KEPT).glob("*.safetensors")
    seeded_backbone(TINY, 8).save_decoder(weights)
    shutil.rmtree(fitted.store)
    opened = open_run(fitted.run, device="cpu", encoder=False)
    assert opened.backbone.encoder is not None  # from the checkpoint
    fitted.checkpoint.unlink()
    with pytest.raises(CheckpointError, match="belongs to another backbone"):
        open_run(fitted.run, device="cpu", encoder=False)


def test_a_model_that_is_not_the_runs_is_refused(fitted: Fitted) -> None:
    with pytest.raises(CasamError, match=r"--model vit_b is not what .* was fitted on, which is small"):
        open_run(fitted.run, model="vit_b", device="cpu")


def test_a_routed_model_needs_no_store(casam: Casam, discs: Path, fitted: Fitted) -> None:
    options = ("--set", "max_steps=1", "--set", "router=centroid", "--set", "threshold=none")
    report: dict[str, Any] = casam.json("bench", "--methods", "ca-sam", *options, "--jobs", 1)
    assert casam.code == 0, casam.err
    run = casam.folder / report["results"][0]["run"]
    before = fitted.mask(run)
    shutil.rmtree(fitted.store)
    moved = fitted.runs.rename(fitted.runs.with_name("elsewhere"))
    assert same(fitted.mask(moved / run.parent.name / run.name), before)


@pytest.mark.parametrize(("kind", "method"), [("joint", "joint"), ("learn", "naive")])
def test_every_kind_of_head_needs_no_store(
    casam: Casam, fitted: Fitted, tmp_path: Path, kind: str, method: str
) -> None:
    more = draw_dataset(tmp_path / "data" / "more", seed=1)
    casam("encode", more, "--model", "small", "--checkpoint", fitted.checkpoint, "--name", "tiny")
    casam.json("bench", "--methods", method, "--set", "max_steps=1", "--jobs", 1)
    assert casam.code == 0, casam.err
    shutil.rmtree(fitted.store)
    runs = list((fitted.runs / kind).glob("*"))
    assert runs
    for run in runs:
        assert fitted.mask(run) is not None, casam.err


def test_the_frozen_sam_of_a_store(fitted: Fitted) -> None:
    opened = open_run(None, stores=fitted.store, device="cpu", encoder=False)
    assert (opened.backbone.encoder, opened.head.name, opened.task) == (None, "identity", "")
    whole = open_run(None, stores=fitted.store / "discs" / "tiny.zarr", device="cpu")
    assert whole.backbone.fingerprint == opened.backbone.fingerprint
    assert whole.backbone.encoder is not None
    assert torch.equal(
        next(whole.backbone.mask_decoder.parameters()), next(opened.backbone.mask_decoder.parameters())
    )
    shutil.rmtree(fitted.store / FOLDER)
    with pytest.raises(CheckpointError, match="--model NAME"):
        open_run(None, stores=fitted.store, device="cpu")
    named = open_run(
        None, model="small", checkpoint=fitted.checkpoint, stores=fitted.store / "discs" / "tiny.zarr"
    )
    assert named.backbone.fingerprint == opened.backbone.fingerprint
