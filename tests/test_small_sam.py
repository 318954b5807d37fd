"""The small SAM's training script: one seed, one set of weights, however often it is stopped; and its yardsticks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import TINY
from small_sam_scripts import importable

pytestmark = pytest.mark.slow  # beside the package: they tell nothing of what its users rely on

ARCHITECTURE = replace(TINY, window=2)


@pytest.fixture(scope="module")
def scripts():  # type: ignore[no-untyped-def]
    with importable("train", "prompts", "quality", "baselines") as found:
        yield found


@pytest.fixture
def train(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["train"]


def _settings(train: ModuleType, **changed: object):  # type: ignore[no-untyped-def]
    return train.Settings(**{"steps": 4, "size": 32, "images": 2, "prompts": 3, "warmup": 2, **changed})


def _weights(train: ModuleType, folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / train.CHECKPOINT, weights_only=True)["average"]


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_same_seed_same_weights_and_stopping_changes_nothing(train: ModuleType, tmp_path: Path) -> None:
    once, again, parts = tmp_path / "once", tmp_path / "again", tmp_path / "parts"
    assert train.train(_settings(train), once, ARCHITECTURE) == 4
    train.train(_settings(train), again, ARCHITECTURE)
    assert _equal(_weights(train, once), _weights(train, again))
    for reached in (1, 2, 3, 4):
        assert train.train(_settings(train), parts, ARCHITECTURE, stop=lambda: True) == reached
    assert _equal(_weights(train, once), _weights(train, parts))
    other = tmp_path / "other"
    train.train(_settings(train, seed=1), other, ARCHITECTURE)
    assert not _equal(_weights(train, once), _weights(train, other))


@pytest.mark.slow  # four processes that import torch
def test_a_batch_in_parts_is_the_mean_of_its_parts(train: ModuleType, tmp_path: Path) -> None:
    settings = _settings(train, steps=2, parts=2, learn="encoder")
    assert train.train(settings, tmp_path / "once", ARCHITECTURE) == 2
    for reached in (1, 2):
        assert train.train(settings, tmp_path / "parts", ARCHITECTURE, stop=lambda: True) == reached
    assert _equal(_weights(train, tmp_path / "once"), _weights(train, tmp_path / "parts"))
    trainer = train.Trainer(settings, ARCHITECTURE, torch.device("cpu"))
    losses = [trainer.losses.whole(train.draw_part(settings, part, 0))[0] for part in (0, 1)]
    (sum(losses) / 2).backward()
    alone = [None if p.grad is None else p.grad.clone() for _, p in trainer.named]
    together = train.Trainer(settings, ARCHITECTURE, torch.device("cpu"))
    together.gather_helpers()
    together.settings = replace(settings, clip=1e9)
    together.learn(next(together.batches(0)))
    together.helpers[0].close()
    for mine, (name, parameter) in zip(alone, together.named, strict=True):
        assert (mine is None) == (parameter.grad is None), name
        if mine is not None:
            torch.testing.assert_close(parameter.grad, mine, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="takes batches whole"):
        train.train(_settings(train, parts=2, learn="decoder"), tmp_path / "known", ARCHITECTURE)


def test_input_size_may_change_on_the_way(train: ModuleType, tmp_path: Path) -> None:
    assert train.train(_settings(train, steps=2), tmp_path, ARCHITECTURE) == 2
    assert train.train(_settings(train, steps=3, size=64), tmp_path, ARCHITECTURE) == 3
    weights = _weights(train, tmp_path)
    assert weights["image_encoder.pos_embed"].shape[1:3] == (8, 8)
    starts = [json.loads(line) for line in (tmp_path / train.LOG).read_text().splitlines()]
    assert [line["start"] for line in starts if "start" in line] == [0, 2]


def test_rate_rises_stays_and_falls(train: ModuleType) -> None:
    settings = train.Settings(steps=100, warmup=10, decay=20, rate=1.0)
    assert settings.rate_at(0) == pytest.approx(0.1)
    assert settings.rate_at(50) == 1.0
    assert settings.rate_at(99) == pytest.approx(0.05)


def test_export_is_a_checkpoint_of_the_package(train: ModuleType, tmp_path: Path) -> None:
    from casam_cache.backbones.registry import load_backbone
    from casam_cache.fingerprint import digest_file

    train.train(_settings(train, steps=2), tmp_path / "run", ARCHITECTURE)
    path = train.export(tmp_path / "run", tmp_path / "out", ARCHITECTURE)
    first = path.read_bytes()
    assert train.export(tmp_path / "run", tmp_path / "out", ARCHITECTURE).read_bytes() == first
    assert (tmp_path / "out" / "SHA256SUMS").read_text() == f"{digest_file(path)}  small.safetensors\n"
    backbone = load_backbone("small", path)
    assert backbone.architecture == ARCHITECTURE
    assert backbone.encoder is not None
    assert backbone.encoder.pos_embed.shape[1] == ARCHITECTURE.grid  # type: ignore[index, union-attr]


def test_training_decodes_as_the_package_does(
    train: ModuleType, scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    from casam_cache.backbones.prompts import Prompts
    from casam_cache.backbones.sam import Small

    trainer = train.Trainer(_settings(train, size=64), ARCHITECTURE, torch.device("cpu"))
    batch = train.to_tensors(scripts["prompts"].draw_batch(0, 0, 64, 2, 3), torch.device("cpu"))
    with torch.no_grad():
        embeddings = trainer.sam.encode(batch["images"], batch["valid"])
        mine, quality = trainer.sam.decode(embeddings, batch["points"], batch["labels"])
        backbone = Small.of_state(ARCHITECTURE, trainer.sam.state_dict())
        points, labels = batch["points"].flatten(0, 1), batch["labels"].flatten(0, 1)
        sparse, dense = backbone.embed_prompts(Prompts(points=points, labels=labels, packed=True))
        index = torch.arange(2).repeat_interleave(3)
        for several, masks in ((True, slice(1, None)), (False, slice(0, 1))):
            theirs, estimate = backbone.decode(embeddings, index, sparse, dense, several)
            torch.testing.assert_close(mine[:, masks], theirs, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(quality[:, masks], estimate, rtol=1e-4, atol=1e-4)


def test_prompts_belong_to_their_objects(scripts: dict[str, ModuleType]) -> None:
    prompts = scripts["prompts"]
    batch = prompts.draw_batch(0, 7, 64, 2, 4)  # a step with correcting points
    assert batch.labels.shape == (2, 4, 3)
    assert batch.looks[0] == batch.looks[1]
    for image, slot in np.ndindex(2, 4):
        target = batch.targets[image, slot]
        assert target.any()
        for (x, y), label in zip(batch.points[image, slot], batch.labels[image, slot], strict=True):
            if label == prompts.POSITIVE:
                assert target[int(y), int(x)]
        has_box = prompts.CORNER_0 in batch.labels[image, slot]
        assert has_box == batch.boxes[image, slot] == (prompts.PAD not in batch.labels[image, slot])


def test_several_objects_may_be_one_prompt(scripts: dict[str, ModuleType]) -> None:
    masks = [np.zeros((16, 16), bool) for _ in range(3)]
    for place, mask in enumerate(masks):
        mask[4 * place : 4 * place + 2, 3:6] = True
    areas = set()
    for step in range(20):
        found = scripts["prompts"].prompt_again(0, step, [masks, masks[:1]], 32, 6)
        areas |= set(found.targets[0].sum((1, 2)).tolist())
        assert set(found.targets[1].sum((1, 2)).tolist()) == {6}
        assert not found.targets[:, :, 16:].any()
    assert areas == {6, 12, 18}


@pytest.mark.parametrize(
    ("learn", "learning"),
    [
        ("decoder", ("mask_decoder.", "prompt_encoder.")),
        ("quality", ("mask_decoder.iou_prediction_head.",)),
    ],
)
def test_a_part_learns_on_known_embeddings(
    train: ModuleType, tmp_path: Path, learn: str, learning: tuple[str, ...]
) -> None:
    train.train(_settings(train, steps=2), tmp_path / "once", ARCHITECTURE)
    before = _weights(train, tmp_path / "once")
    (tmp_path / "parts").mkdir()
    for name in (train.CHECKPOINT, train.LOG):
        (tmp_path / "parts" / name).write_bytes((tmp_path / "once" / name).read_bytes())
    settings = _settings(train, steps=5, learn=learn, window=3)
    assert train.train(settings, tmp_path / "once", ARCHITECTURE) == 5
    for reached in (3, 4, 5):
        assert train.train(settings, tmp_path / "parts", ARCHITECTURE, stop=lambda: True) == reached
    after = _weights(train, tmp_path / "once")
    assert _equal(after, _weights(train, tmp_path / "parts"))
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert all(name.startswith(learning) for name in changed)
    assert all(any(name.startswith(part) for name in changed) for part in learning)


def test_an_unknown_part_cannot_learn(train: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not one of encoder"):
        train.train(_settings(train, learn="nothing"), tmp_path, ARCHITECTURE)


def test_baselines(scripts: dict[str, ModuleType]) -> None:
    baselines = scripts["baselines"]
    box = np.array([10, 5, 29, 24], np.float32)
    assert baselines.filled_box(box, (40, 50)).sum() == 400
    ellipse = baselines.filled_ellipse(box, (40, 50))
    assert abs(ellipse.sum() - np.pi * 100) < 12
    truth = np.zeros((40, 50), bool)
    truth[8:20, 12:25] = True
    for ground, thing in ((40, 200), (200, 40)):
        image = np.where(truth, thing, ground).astype(np.uint8)[..., None].repeat(3, axis=2)
        np.testing.assert_array_equal(baselines.otsu_in_box(image, box, truth), truth)


def test_quality_report(scripts: dict[str, ModuleType], train: ModuleType, tmp_path: Path) -> None:
    from casam_cache.datasets.phantoms import write_phantoms

    train.train(_settings(train, steps=1), tmp_path / "run", ARCHITECTURE)
    path = train.export(tmp_path / "run", tmp_path / "out", ARCHITECTURE)
    write_phantoms(tmp_path / "data", images_per_task=6, scale=0.25)
    few = "--phantoms 0 --masks 2 --images 3"
    options = f"{few} --data {tmp_path / 'data'} --checkpoint {path} --out {tmp_path / 'report'}"
    scripts["quality"].main(options.split())
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["sets"]) == 12
    for router in scripts["quality"].KINDS:
        assert 0 <= report["routing"]["real"][router]["accuracy"] <= 1
    mean = report["means"]["real"]
    assert sum(row["masks"] for row in mean["by_size"]) == sum(row["masks"] for row in report["sets"])
    assert mean["resolved"]["sets"] == 12
    assert "at most 2 masks an image" in (tmp_path / "report.md").read_text()


def test_sizes_are_told_apart(scripts: dict[str, ModuleType]) -> None:
    quality = scripts["quality"]

    def scored(sizes: list[float], box: list[float]):  # type: ignore[no-untyped-def]
        columns = {name: list(box) for name in quality.SCORES}
        return quality.Scores("task", "classes", 1, size=sizes, columns=columns)

    sets = {"mixed": scored([3.9, 4.0, 20.0], [0.0, 0.5, 0.7]), "specks": scored([1.0], [0.1])}
    assert [(row["from"], row["masks"]) for row in quality.by_size(sets.values())] == [
        (0, 2),
        (4, 1),
        (16, 1),
    ]
    assert quality.by_size(sets.values())[0]["iou"]["sam_box"] == pytest.approx(0.05)
    found = quality.resolved(sets)
    assert (found["sets"], found["left_out"]) == (1, ["specks"])
    assert found["iou"]["ellipse"] == pytest.approx(0.6)
    assert quality.resolved({"specks": sets["specks"]})["iou"] == {}
