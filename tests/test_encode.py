"""Encoding end to end on the tiny SAM: resume, refresh, refuse, report."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Casam, draw_dataset
from PIL import Image

from casam_cache.backbones.devices import choose_devices
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.encode import choices, estimate, pipeline, task
from casam_cache.encode.decode import decode
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry
from casam_cache.store import Annotations, EmbeddingStore, attention_pool

Encode = Callable[..., Any]


def tree(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def features(store: Path) -> dict[str, bytes]:
    """Everything that the images decide."""
    past = ("annotations", "failure")  # earlier versions, and an emptied table of failures, stay
    return {name: data for name, data in tree(store).items() if not name.startswith(past)}


def test_a_store_holds_what_the_encoder_gives(casam: Casam, encode: Encode, discs: Path) -> None:
    report = encode(discs)["tasks"][0]
    assert (report["task"], report["images"], report["encoded"], report["skipped"], report["failed"]) == (
        "discs", 10, 10, 0, 0,
    )  # fmt: skip
    store = EmbeddingStore.open(casam.folder / report["store"])
    encoder = FrozenEncoder(seeded_backbone(TINY, 7), "fp32")
    for index in (0, 9):
        image = np.asarray(Image.open(discs / store.paths[index]).convert("RGB"))
        geometry = Geometry.fit(*image.shape[:2], TINY.image_size, TINY.patch_size)
        assert store.geometry(index) == geometry
        pixels, sizes = stack_inputs([resize_for_encoder(image, geometry)], TINY.image_size)
        expected = encoder(torch.from_numpy(pixels), torch.from_numpy(sizes))["embedding"][0].numpy()
        np.testing.assert_allclose(store.read(index), expected, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(
            store.pooled[index], attention_pool(store.read(index), geometry.valid_grid), rtol=1e-6
        )
    assert store.identity["preprocessing"]["resize"] == "longest"


def test_several_devices_write_the_same_store(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tree(Path(encode(discs, "--batch-size", "2")["tasks"][0]["store"]))
    used: list[int] = []

    class Encoder(FrozenEncoder):
        def __call__(self, *arguments: Any) -> Any:
            used.append(id(self))
            return super().__call__(*arguments)

    cpu = torch.device("cpu")
    monkeypatch.setattr(task, "choose_devices", lambda name: [cpu, cpu, cpu] if name == "cuda:all" else [cpu])
    monkeypatch.setattr(choices, "FrozenEncoder", Encoder)
    options = ("--batch-size", "2", "--store", "team", "--device", "cuda:all")
    assert tree(Path(encode(discs, *options)["tasks"][0]["store"])) == alone
    assert [used[i] for i in range(5)] == [*dict.fromkeys(used), *list(dict.fromkeys(used))[:2]]
    assert len(set(used)) == 3


def test_devices_by_name() -> None:
    assert choose_devices("cpu") == [torch.device("cpu")]
    with pytest.raises(OptionError, match="names one device twice"):
        choose_devices("cpu, cpu")
    with pytest.raises(OptionError, match="names one device twice"):
        choose_devices("cpu,cpu:0")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="device 'cuda' cannot be used"):
            choose_devices("cuda:all")


def test_a_compiled_store_says_so_and_goes_on_so(
    casam: Casam, encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch, "compile", lambda run, **_: asked.append(True) or run)
    store = Path(encode(discs, "--compile")["tasks"][0]["store"])
    assert EmbeddingStore.open(store).identity["compiled"] is True
    for folder in ("images", "masks"):
        shutil.copy(discs / folder / "p003.png", discs / folder / "z_new.png")
    with (discs / "split.csv").open("a") as file:
        file.write("z_new,train,patient9\n")
    asked.clear()
    assert encode(discs)["tasks"][0]["encoded"] == 1
    assert len(asked) == 1


def test_a_store_is_compiled_from_its_beginning_or_not(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Path(encode(discs)["tasks"][0]["store"])
    before = tree(store)
    named = ("--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny", "--compile")
    casam("encode", discs, "--update", *named)
    assert casam.code == 1
    assert "compiled" in casam.err
    assert tree(store) == before

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda run, **_: broken)
    casam("encode", discs, "--store", "other", *named)
    assert casam.code == 1
    assert "torch.compile does not work here: RuntimeError: no compiler" in casam.err
    assert not (casam.folder / "other" / "discs" / "tiny.zarr").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_compiled_embeddings_are_the_same_function() -> None:
    backbone = seeded_backbone(TINY, 7)
    generator = torch.Generator().manual_seed(0)
    side = TINY.image_size
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    batch = pixels, torch.full((2, 2), side)
    exact = FrozenEncoder(backbone)(*batch)["embedding"]
    found = FrozenEncoder(backbone, compiled=True)(*batch)["embedding"]
    assert float((found - exact).abs().max() / exact.abs().max()) <= 1e-5


def test_annotations_hold_masks_prompts_split_and_group(casam: Casam, encode: Encode, discs: Path) -> None:
    report = encode(discs)["tasks"][0]
    annotations = Annotations.open(casam.folder / report["store"])
    assert annotations.attributes["mask_mode"] == "binary"
    assert len(annotations) == 10
    assert annotations.masks == 9  # one image has an empty mask and stays, without masks
    assert len(annotations.masks_of(1)) == 0
    truth = np.asarray(Image.open(discs / "masks" / "p003.png")) > 0
    mask = int(annotations.masks_of(3)[0])
    np.testing.assert_array_equal(annotations.mask(mask), truth)
    rows, columns = np.nonzero(truth)
    assert annotations.box[mask].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    x, y = annotations.point[mask].astype(int)
    assert truth[y, x]
    assert annotations.group(3) == "patient1"
    assert [annotations.item[row] for row in annotations.rows("test")] == [4, 5]


def test_a_second_run_has_nothing_to_do(encode: Encode, discs: Path) -> None:
    encode(discs)
    report = encode(discs)["tasks"][0]
    assert (report["encoded"], report["skipped"], report["refreshed"]) == (0, 10, False)


def test_a_finished_store_is_recognised_without_torch(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path
) -> None:
    encode(discs)
    program = (
        "import sys; from casam_cli.main import run\n"
        f"sys.argv = ['casam', 'encode', {str(discs)!r}, '--model', 'small', "
        f"'--checkpoint', {str(tiny_checkpoint)!r}, '--name', 'tiny']\n"
        "run()\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stderr


def test_only_new_images_are_encoded(casam: Casam, encode: Encode, discs: Path) -> None:
    store = EmbeddingStore.open(encode(discs)["tasks"][0]["store"])
    before = {name: store.read(store.index(name)).copy() for name in store.ids}
    shutil.copy(discs / "images" / "p003.png", discs / "images" / "a_new.png")
    shutil.copy(discs / "masks" / "p003.png", discs / "masks" / "a_new.png")
    with (discs / "split.csv").open("a") as file:
        file.write("a_new,train,patient9\n")
    report = encode(discs)["tasks"][0]
    assert (report["images"], report["encoded"], report["skipped"]) == (11, 1, 10)
    again = EmbeddingStore.open(report["store"])
    assert again.ids[-1] == "a_new"
    for name, value in before.items():
        np.testing.assert_array_equal(again.read(again.index(name)), value)
    annotations = Annotations.open(Path(report["store"]))
    assert again.ids[annotations.item[0]] == "a_new"  # rows are sorted by id, wherever the features lie


def test_masks_and_splits_are_refreshed_without_the_encoder(
    casam: Casam, encode: Encode, discs: Path
) -> None:
    store = Path(encode(discs)["tasks"][0]["store"])
    before = features(store)
    first = Annotations.open(store).version
    blank = np.zeros((48, 40), np.uint8)
    blank[4:9, 4:9] = 255
    Image.fromarray(blank).save(discs / "masks" / "p001.png")
    report = encode(discs)["tasks"][0]
    assert (report["encoded"], report["refreshed"], report["masks"]) == (0, True, 10)
    assert Annotations.open(store).version != first
    assert len(Annotations.open(store, first)) == 10, "the earlier version stays readable"
    (discs / "split.csv").write_text((discs / "split.csv").read_text().replace("test", "train"))
    assert encode(discs)["tasks"][0]["refreshed"]
    assert len(Annotations.open(store).rows("test")) == 0
    assert encode(discs, "--masks", "components")["tasks"][0]["mask_mode"] == "components"
    assert features(store) == before


def test_arrays_can_be_added_later_without_touching_the_embedding(
    casam: Casam, encode: Encode, discs: Path
) -> None:
    store = Path(encode(discs)["tasks"][0]["store"])
    before = {name: data for name, data in tree(store).items() if name.startswith("embedding/c")}
    report = encode(discs, "--with", "early,tokens")["tasks"][0]
    assert report["encoded"] == 10
    opened = EmbeddingStore.open(store)
    assert opened.arrays["early"].shape == (TINY.width, TINY.grid, TINY.grid)
    assert opened.arrays["tokens"].shape == (TINY.width,)
    assert np.isfinite(opened.read(3, "tokens")).all()
    assert before == {name: data for name, data in tree(store).items() if name.startswith("embedding/c")}
    assert encode(discs, "--with", "tokens", "--with", "early")["tasks"][0]["encoded"] == 0


def test_a_feature_that_a_backbone_learns_later_leaves_its_stores_as_they_were(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casam_cache.backbones.sam import SamBackbone

    with monkeypatch.context() as earlier:
        earlier.setattr(
            SamBackbone, "features", lambda self: {"embedding": (self.channels, self.grid, self.grid)}
        )
        tiny = ("--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")
        casam("encode", discs, *tiny, "--with", "early")
        assert "unknown feature" in casam.err
        assert not list(casam.folder.rglob("*.zarr"))  # nothing is begun
        store = Path(encode(discs)["tasks"][0]["store"])
    for folder in ("images", "masks"):
        shutil.copy(discs / folder / "p003.png", discs / folder / "a_new.png")
    with (discs / "split.csv").open("a") as file:
        file.write("a_new,train,patient9\n")
    assert encode(discs)["tasks"][0]["encoded"] == 1
    assert EmbeddingStore.open(store).identity["extra"] == {}
    casam(
        "encode",
        discs,
        "--model",
        "small",
        "--checkpoint",
        tiny_checkpoint,
        "--name",
        "tiny",
        "--with",
        "early",
    )
    assert casam.code == 1
    assert "extra.early" in casam.err
    assert "another --name" in casam.err


def test_other_weights_under_one_name_are_refused(
    casam: Casam, encode: Encode, discs: Path, tmp_path: Path
) -> None:
    import json

    from safetensors.torch import save_file

    from casam_cache.backbones.sam import backbone_state

    store = Path(encode(discs)["tasks"][0]["store"])
    before = tree(store)
    other = tmp_path / "other.safetensors"
    state = {key: value.contiguous() for key, value in backbone_state(seeded_backbone(TINY, 8)).items()}
    save_file(state, other, metadata={"architecture": json.dumps(TINY.to_json())})
    casam("encode", discs, "--model", "small", "--checkpoint", other, "--name", "tiny")
    assert casam.code == 1
    assert "backbone.weights" in casam.err
    assert "Traceback" not in casam.err
    casam("encode", discs, "--model", "small", "--checkpoint", other, "--name", "tiny", "--resize", "stretch")
    assert "preprocessing.resize" in casam.err
    assert tree(store) == before
    casam("encode", discs, "--model", "small", "--checkpoint", other, "--name", "second")
    assert casam.code == 0
    assert (store.parent / "second.zarr").is_dir()


def test_a_bad_image_is_reported_recorded_and_does_not_stop_the_rest(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path
) -> None:
    data = (discs / "images" / "p004.png").read_bytes()
    (discs / "images" / "p004.png").write_bytes(data[: len(data) // 2])
    report = encode(discs)["tasks"][0]
    assert (report["images"], report["encoded"], report["failed"]) == (10, 9, 1)
    assert casam.code == 0
    assert any("p004" in line for line in report["problems"])
    assert "p004" in casam.err
    store = EmbeddingStore.open(report["store"])
    assert [store.ids[i] for i in store.failures] == ["p004"]
    again = encode(discs)["tasks"][0]
    assert (again["encoded"], again["failed"]) == (0, 1), "still reported, not tried again while unchanged"
    (discs / "images" / "p004.png").write_bytes(data)
    mended = encode(discs)["tasks"][0]
    assert mended["failed"] == 0
    assert mended["encoded"] >= 1
    casam("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "whole")
    whole, repaired = (casam.folder / "casam_store" / "discs" / f"{n}.zarr" for n in ("whole", "tiny"))
    assert features(whole) == features(repaired), "a mended store equals one that never was damaged"


def test_strict_makes_the_first_bad_image_fatal(casam: Casam, discs: Path, tiny_checkpoint: Path) -> None:
    (discs / "images" / "p004.png").write_text("not a picture")
    casam("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny", "--strict")
    assert casam.code == 1
    assert "p004" in casam.err


def test_a_changed_image_is_refused_until_an_update_is_asked_for(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path
) -> None:
    store = EmbeddingStore.open(encode(discs)["tasks"][0]["store"])
    before = store.read(3).copy()
    Image.fromarray(np.full((48, 40, 3), 200, np.uint8)).save(discs / "images" / "p003.png")
    casam("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")
    assert casam.code == 1
    assert "p003" in casam.err
    assert "--update" in casam.err
    report = encode(discs, "--update")["tasks"][0]
    assert report["encoded"] >= 1
    assert not np.array_equal(EmbeddingStore.open(report["store"]).read(3), before)


def test_a_folder_of_datasets_is_a_set_of_tasks(casam: Casam, encode: Encode, tmp_path: Path) -> None:
    for name in ("b", "a"):
        draw_dataset(tmp_path / "tasks" / name, images=6)
    tasks = encode(tmp_path / "tasks", "--store", "stores")["tasks"]
    assert [task["task"] for task in tasks] == ["a", "b"]
    assert (casam.folder / "stores" / "a" / "tiny.zarr" / "zarr.json").is_file()


def test_worker_processes_give_the_same_store(casam: Casam, encode: Encode, discs: Path) -> None:
    one = encode(discs, "--store", "one")["tasks"][0]["store"]
    two = encode(discs, "--store", "two", "--workers", "2")["tasks"][0]["store"]
    assert tree(casam.folder / one) == tree(casam.folder / two)


def test_dry_run_writes_nothing(casam: Casam, encode: Encode, discs: Path) -> None:
    report = encode(discs, "--dry-run")["tasks"][0]
    assert (report["images"], report["pending"], report["dry_run"]) == (10, 10, True)
    assert report["store_bytes"] == 10 * 2 * TINY.channels * TINY.grid**2
    assert report["seconds"] > 0
    assert not (casam.folder / "casam_store").exists()


def test_the_estimate_counts_what_decoding_takes(
    encode: Encode, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return decode(*arguments)

    for module in (estimate, pipeline):
        monkeypatch.setattr(module, "decode", slowly)
    said = encode(discs, "--dry-run")["tasks"][0]["seconds"]
    taken = encode(discs)["tasks"][0]["seconds"]["total"]
    assert taken / 2 <= said <= 2 * taken
    assert said >= 10 * 0.05


def test_unlabelled_images_are_encoded_when_asked_for(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path
) -> None:
    shutil.rmtree(discs / "masks")
    casam("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")
    assert casam.code == 1
    assert "--unlabelled" in casam.err
    report = encode(discs, "--unlabelled")["tasks"][0]
    assert (report["encoded"], report["masks"]) == (10, 0)


def _start(discs: Path, checkpoint: Path, store: Path) -> subprocess.Popen[bytes]:
    program = "from casam_cli.main import run; run()"
    command = [
        sys.executable, "-c", program, "encode", str(discs), "--model", "small", "--checkpoint", str(checkpoint),
        "--name", "tiny",
        "--store", str(store), "--batch-size", "1", "--with", "tokens",
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_killed_five_times_the_store_is_byte_identical(tmp_path: Path, tiny_checkpoint: Path) -> None:
    data = draw_dataset(tmp_path / "discs", images=400)
    assert _start(data, tiny_checkpoint, tmp_path / "once").wait(timeout=240) == 0
    planned = tmp_path / "killed" / "discs" / "tiny.zarr" / "commit"
    killed = 0
    for delay in (0.0, 0.05, 0.1, 0.2, 0.4):  # after the plan is on disk, well before 400 images are encoded
        process = _start(data, tiny_checkpoint, tmp_path / "killed")
        start = time.monotonic()
        while not planned.is_dir() and time.monotonic() - start < 120:
            time.sleep(0.01)
        time.sleep(
            delay + 2.0 * bool(killed)
        )  # a rerun finds the plan there: give it time to import and begin
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert killed == 5, "a run was over before it could be killed"
    assert _start(data, tiny_checkpoint, tmp_path / "killed").wait(timeout=240) == 0
    assert tree(tmp_path / "once" / "discs") == tree(tmp_path / "killed" / "discs")


def test_a_damaged_decoder_file_is_written_again(casam: Casam, encode: Encode, discs: Path) -> None:
    encode(discs)
    (weights,) = (casam.folder / "casam_store" / ".backbones").glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    casam("fit", "--task", "discs", "--epochs", 1)
    assert casam.code == 1
    assert "casam encode" in casam.err
    weights.unlink()  # as the message says
    assert encode(discs)["tasks"][0]["encoded"] == 0
    assert weights.read_bytes() == whole
