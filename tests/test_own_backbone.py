"""The example of docs/own-backbone.md, as a user would run it; and the contract on it and on SAM."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import TINY, Casam

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.registry import BACKBONES, load_backbone
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.backbones.testing import BackboneContract
from casam_cache.encode.sources import FOLDER, decoder_of, preparation, remember_backbone
from casam_cache.errors import CasamError, OptionError
from casam_cache.fingerprint import digest_file
from casam_cache.heads.files import build_head
from casam_cache.store import EmbeddingStore

DOCUMENT = Path(__file__).parent.parent / "docs" / "own-backbone.md"
EXAMPLE, CONTRACT = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "my_backbone.py"
    path.write_text(EXAMPLE)
    return path


def forget() -> None:
    """As in a new process: no file of a user's has been run yet."""
    for name in [name for name in sys.modules if name.startswith("casam_file_")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / "cache"))
    yield
    forget()


class TestSmall(BackboneContract):
    """The tiny SAM that other tests encode with."""

    def made(self) -> Backbone:
        return seeded_backbone(TINY, 7)


class TestConvolutions(BackboneContract):
    backbone: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _of_the_document(self, example: Path) -> None:
        type(self).backbone = f"{example}:Convolutions"


def test_the_documented_tests_are_these() -> None:
    assert "class TestConvolutions(BackboneContract)" in CONTRACT


def test_the_example_encodes_fits_and_predicts(casam: Casam, discs: Path, example: Path) -> None:
    shutil.copy(example, casam.folder / "my_backbone.py")
    command = ("encode", discs, "--model", "my_backbone.py:Convolutions", "--name", "convolutions")
    (estimated,) = casam.json(*command, "--dry-run")["tasks"]
    assert casam.code == 0, casam.err
    (encoded,) = casam.json(*command)["tasks"]
    assert (encoded["encoded"], encoded["failed"]) == (estimated["pending"], 0) == (10, 0)
    identity = EmbeddingStore.open(Path(encoded["store"])).identity
    assert identity["backbone"]["code"] == digest_file(example)
    assert identity["preprocessing"]["range"] == "each image's own, to 0 and 1"
    assert casam.json(*command)["tasks"][0]["encoded"] == 0
    forget()
    for method in ("alignment", "decoder"):
        report = casam.json(
            "fit", "--task", "discs", "--model", "convolutions", "--epochs", 1, "--method", method
        )
        assert casam.code == 0, casam.err
        from casam_cache.bench.predict import Predictor

        forget()
        predictor = Predictor(casam.folder / report["run"], device="cpu")
        found = predictor.set_image(discs / "images" / "p004.png").predict(boxes=(5, 5, 20, 20))
        assert found.mask.shape == (48, 40)
        away = Path(encoded["store"]).parent.parent.resolve().rename(casam.folder / "away")
        forget()
        alone = Predictor(casam.folder / report["run"], device="cpu")
        again = alone.set_image(discs / "images" / "p004.png").predict(boxes=(5, 5, 20, 20))
        assert (again.low_res == found.low_res).all()
        away.rename(casam.folder / "casam_store")
    casam("fit", "--task", "discs", "--model", "convolutions", "--epochs", 1, "--method", "hq-sam")
    assert casam.code == 1
    assert "early" in casam.err


def test_an_edited_file_does_not_go_on_with_the_store(casam: Casam, discs: Path) -> None:
    path = casam.folder / "my_backbone.py"
    path.write_text(EXAMPLE)
    command = ("encode", discs, "--model", "my_backbone.py:Convolutions")
    (encoded,) = casam.json(*command)["tasks"]
    assert Path(encoded["store"]).name == "Convolutions.zarr"
    path.write_text(EXAMPLE.replace("clamp(min=1)", "clamp(min=2)"))
    casam(*command)
    assert casam.code == 1
    assert "code" in casam.err


def test_decoders_of_strangers_are_data(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(f"{example}:Convolutions")
    remember_backbone(tmp_path, backbone)
    forget()
    assert decoder_of(tmp_path, backbone.fingerprint).fingerprint == backbone.fingerprint
    forget()
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / "another user"))
    with pytest.raises(CasamError, match="brings Python code of its own"):
        decoder_of(tmp_path, backbone.fingerprint)
    trusted = decoder_of(tmp_path, backbone.fingerprint, trust=True)
    assert trusted.identity == backbone.identity


def test_own_preparation_travels_to_other_processes(tmp_path: Path) -> None:
    """A worker finds the class by the copy beside the stores; the usual preparation needs no class at all."""
    import pickle

    import numpy as np

    from casam_cache.backbones.preprocess import resize_for_encoder
    from casam_cache.geometry import Geometry

    assert preparation(tmp_path, seeded_backbone(TINY, 7)) is resize_for_encoder
    path = tmp_path / "mine.py"
    path.write_text(
        EXAMPLE.replace(
            "    def preprocessing(self)",
            "    @staticmethod\n    def prepare(image, geometry):\n"
            "        return image[: geometry.input_height, : geometry.input_width] // 2\n\n"
            "    def preprocessing(self)",
        )
    )
    backbone = load_backbone(f"{path}:Convolutions")
    remember_backbone(tmp_path, backbone)
    sent = pickle.dumps(preparation(tmp_path, backbone))
    forget()
    image = np.full((64, 64, 3), 100, dtype=np.uint8)
    assert (pickle.loads(sent)(image, Geometry.fit(64, 64, 64, 8)) == 50).all()


def test_files_of_before_name_a_built_in_model(tmp_path: Path) -> None:
    backbone = seeded_backbone(TINY, 7, name="small")
    remember_backbone(tmp_path, backbone)
    (stated,) = (tmp_path / FOLDER).glob("*.json")
    facts: dict[str, Any] = json.loads(stated.read_text())
    assert facts.pop("backbone") == {"name": "small"}
    stated.write_text(json.dumps(facts))
    assert decoder_of(tmp_path, backbone.fingerprint).description == backbone.description


class Wordless(Backbone):
    """Everything but SAM's decoder."""

    name = "wordless"
    image_size, patch_size, channels, fingerprint = 64, 8, 16, "0" * 64
    load = load_decoder = to = encode = normalise = decode = embed_prompts = save_decoder = None  # type: ignore[assignment]
    description = device = None  # type: ignore[assignment]
    preprocessing = encoder_flops = None  # type: ignore[assignment]


@pytest.mark.parametrize("head", ["decoder", "hq-sam"])
def test_heads_on_sams_decoder_say_what_a_backbone_lacks(head: str) -> None:
    backbone = Wordless()
    with pytest.raises(CasamError, match=f"the head {head} is built on SAM's mask decoder"):
        build_head(head, None, backbone, 0)
    with pytest.raises(OptionError, match="available: embedding"):
        backbone.feature_shape("early")
    with pytest.raises(CasamError, match="does not have"):
        backbone.with_decoder(torch.nn.Identity())
    assert build_head("alignment", None, backbone, 0).trained_parameters() > 0


def test_unfinished_backbones_are_said(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from casam_cache.backbones.decoder import SamDecoding\nclass Mine(SamDecoding):\n    name = 'mine'\n"
    )
    with pytest.raises(CasamError, match="does not define encode, load, normalise, preprocessing"):
        BACKBONES.get(f"{tmp_path}/mine.py:Mine")
