"""The race of attention forms, and its winner in a store: written once, used again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Casam
from PIL import Image

from casam_cache.backbones import race
from casam_cache.backbones.attention import FORMS
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.encode import choices
from casam_cache.encode.options import EncodeOptions
from casam_cache.errors import CasamError
from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore

Encode = Callable[..., Any]


@dataclass
class Pretended:
    """A backbone that says it is on a GPU."""

    device: torch.device


def test_every_form_is_timed_at_its_best() -> None:
    times = iter([6.0, 7.0, 5.0, 3.0, 4.0, 2.0, 9.0, 8.0, 1.5, 1.0])
    ran = []

    def clock(run: Callable[[], object], device: torch.device) -> float:
        ran.append(run())
        return next(times)

    found = race.race(seeded_backbone(TINY, 7), "fp32", 2, repeat=2, clock=clock)
    assert found == {"materialised": 6.0, "augmented": 3.0, "bias": 2.0, "cudnn": 8.0, "flex": 1.0}
    assert len(ran) == 2 * len(FORMS)
    assert race.seconds(lambda: None, torch.device("cpu")) >= 0


def test_forms_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = {"augmented"}

    class Encoder(FrozenEncoder):
        def __call__(self, *arguments: Any) -> Any:
            if self.settings["attention"] not in fits:
                raise torch.cuda.OutOfMemoryError("too large")
            return super().__call__(*arguments)

    monkeypatch.setattr(race, "FrozenEncoder", Encoder)
    backbone = seeded_backbone(TINY, 7)
    assert race.race(backbone, "fp32", 1).keys() == fits
    fits.clear()
    with pytest.raises(CasamError, match=r"batch of 4 images does not fit[\s\S]*--batch-size"):
        race.race(backbone, "fp32", 4)


def test_forms_that_compute_something_else_or_cannot_run_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Encoder(FrozenEncoder):
        def __call__(self, *arguments: Any) -> Any:
            if self.settings["attention"] == "flex":
                raise NotImplementedError("no kernel")  # a RuntimeError
            found = super().__call__(*arguments)
            if self.settings["attention"] == "cudnn":
                found["embedding"] = found["embedding"] * 1.01
            return found

    monkeypatch.setattr(race, "FrozenEncoder", Encoder)
    found = race.race(seeded_backbone(TINY, 7), "fp32", 2)
    assert found.keys() == set(FORMS) - {"flex", "cudnn"}


def test_the_batch_is_what_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    holds = 5

    class Encoder(FrozenEncoder):
        def __call__(self, pixels: Any, *arguments: Any) -> Any:
            if len(pixels) > holds:
                raise torch.cuda.OutOfMemoryError("too large")
            return super().__call__(pixels, *arguments)

    encoder = Encoder(seeded_backbone(TINY, 7))
    assert race.fitting_batch(encoder) == 4
    holds = 0
    with pytest.raises(CasamError, match="not even one image fits"):
        race.fitting_batch(encoder)
    on_gpu: Any = Pretended(torch.device("cuda"))
    sizes = iter([12, 8])
    monkeypatch.setattr(choices, "fitting_batch", lambda *_: next(sizes))
    assert choices.batch_size_of(EncodeOptions(), [on_gpu, on_gpu]) == 8
    assert choices.batch_size_of(EncodeOptions(batch_size=3), [on_gpu]) == 3


def test_an_encoder_that_runs_in_no_form_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder(FrozenEncoder):
        def __call__(self, *arguments: Any) -> Any:
            raise RuntimeError("device lost")

    monkeypatch.setattr(race, "FrozenEncoder", Encoder)
    with pytest.raises(CasamError, match=r"runs in no form.*flex: device lost"):
        race.race(seeded_backbone(TINY, 7), "fp32", 1)


def test_forms_for_cuda_stay_there() -> None:
    backbone = seeded_backbone(TINY, 7)
    for form, used in (("flex", "bias"), ("cudnn", "bias"), ("augmented", "augmented")):
        assert (
            FrozenEncoder.of(backbone, {"precision": "fp32", "attention": form}).settings["attention"] == used
        )


def test_only_cuda_races(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "race", lambda *_, **__: {"bias": 2.0, "augmented": 3.0, "materialised": 2.5})
    on_gpu: Any = Pretended(torch.device("cuda"))
    assert race.attention_for(on_gpu, "bf16", 8) == "bias"
    monkeypatch.setattr(race, "race", None)
    on_cpu: Any = Pretended(torch.device("cpu"))
    assert race.attention_for(on_cpu, "fp32", 8) == "bias"


def add_image(discs: Path) -> None:
    for folder in ("images", "masks"):
        shutil.copy(discs / folder / "p003.png", discs / folder / "z_new.png")
    with (discs / "split.csv").open("a") as file:
        file.write("z_new,train,patient9\n")


def encoded(path: Path, form: str) -> np.ndarray:
    image = np.asarray(Image.open(path).convert("RGB"))
    geometry = Geometry.fit(*image.shape[:2], TINY.image_size, TINY.patch_size)
    pixels, sizes = stack_inputs([resize_for_encoder(image, geometry)], TINY.image_size)
    encoder = FrozenEncoder(seeded_backbone(TINY, 7), "fp32", attention=form)
    return encoder(torch.from_numpy(pixels), torch.from_numpy(sizes), ["embedding"])["embedding"][0].numpy()


def test_the_winner_is_kept_and_used_again(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced: list[int] = []

    def attention_for(backbone: Any, precision: str, batch_size: int) -> str:
        raced.append(batch_size)
        return "augmented"

    monkeypatch.setattr(race, "attention_for", attention_for)
    store = Path(encode(discs, "--batch-size", "4", "--dtype", "int8")["tasks"][0]["store"])
    assert EmbeddingStore.open(store).identity["attention"] == "augmented"
    used: list[str] = []

    class Encoder(FrozenEncoder):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            used.append(self.settings.get("attention", "auto"))

    monkeypatch.setattr(choices, "FrozenEncoder", Encoder)
    add_image(discs)
    assert encode(discs)["tasks"][0]["encoded"] == 1
    assert (raced, used) == ([4], ["augmented"])
    for form in ("augmented", "bias"):  # equal but for rounding: far less than a level of int8
        wanted = encoded(discs / "images" / "z_new.png", form)
        np.testing.assert_allclose(EmbeddingStore.open(store).read(10), wanted, atol=np.ptp(wanted) / 300)


def test_a_store_of_before_goes_on_without_it(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(choices, "settings_of", lambda *_: {})
        store = Path(encode(discs)["tasks"][0]["store"])
    before = EmbeddingStore.open(store).identity
    assert "attention" not in before
    add_image(discs)
    assert encode(discs)["tasks"][0]["encoded"] == 1
    assert EmbeddingStore.open(store).identity == before
