"""The loop: it learns, resumes bit for bit, and gives the same numbers wherever embeddings are kept."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from casam_cache.backbones.architecture import Architecture
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.errors import CasamError
from casam_cache.geometry import Geometry
from casam_cache.heads.files import build_head
from casam_cache.training.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from casam_cache.training.evaluate import evaluate
from casam_cache.training.feed import Embeddings, choose_residency
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays
from casam_cache.training.loop import fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.outcomes import Outcomes, score
from casam_cache.training.step import Penalty

TINY = Architecture(
    image_size=64, patch_size=8, width=16, depth=1, heads=2, window=4, global_blocks=(0,), channels=16,
    decoder_heads=2, decoder_mlp=32, iou_width=16,
)  # fmt: skip
QUICK = TrainingOptions(epochs=3, batch_size=2, masks_per_image=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone(TINY, 0)


def toy_view(count: int = 7, seed: int = 0, empty: int = 1, height: int = 48) -> Items:
    """Rectangles whose cells in the embedding point in one direction; the last image has no mask."""
    rng = np.random.default_rng(seed)
    direction = np.random.default_rng(99).standard_normal(16)
    embeddings = rng.standard_normal((count, 16, 8, 8)) * 0.5
    items, bitmaps = [], []
    for index in range(count):
        masks = []
        for number in range(0 if index >= count - empty else 1 + index % 3):
            y, x = int(rng.integers(0, height - 24)), int(rng.integers(0, 40))
            bitmap = np.zeros((height, 64), dtype=bool)
            bitmap[y : y + 20, x : x + 18] = True
            box = np.array([x, y, x + 17, y + 19], dtype=np.float32)
            masks.append(ItemMask(bitmap, 1, number, box, box[:2] + 5))
            cells = bitmap.reshape(height // 8, 8, 8, 8).mean((1, 3)) > 0.5
            embeddings[index, :, : height // 8][:, cells] += direction[:, None]
        geometry = Geometry.fit(height, 64, 64, 8)
        items.append(Item(f"image {index}", "toy", f"patient {index // 2}", geometry, len(masks)))
        bitmaps.append(masks)
    return items_from_arrays("toy", items, embeddings.astype(np.float16), bitmaps)


def fit(backbone, view=None, options=QUICK, **more):
    return fit_head(build_head("alignment", None, backbone, 1), backbone, view or toy_view(), options, **more)


def same_weights(first, second) -> bool:
    pairs = zip(first.head.state_dict().values(), second.head.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def look(direction: int, seed: int) -> Items:
    """Six images with one object each, whose cells point in the `direction` of the task's own look."""
    rng = np.random.default_rng(seed)
    towards = 2 * np.random.default_rng(direction).standard_normal(16)
    embeddings = 0.3 * rng.standard_normal((6, 16, 8, 8))
    items, bitmaps = [], []
    for index in range(6):
        y, x = int(rng.integers(0, 24)), int(rng.integers(0, 36))
        bitmap = np.zeros((48, 64), dtype=bool)
        bitmap[y : y + 24, x : x + 28] = True
        cells = bitmap.reshape(6, 8, 8, 8).mean((1, 3)) > 0.5
        embeddings[index, :, :6][:, cells] += towards[:, None]
        box = np.array([x, y, x + 27, y + 23], dtype=np.float32)
        bitmaps.append([ItemMask(bitmap, 1, 1, box, box[:2] + 5)])
        items.append(Item(f"image {index}", "look", f"patient {index}", Geometry.fit(48, 64, 64, 8), 1))
    return items_from_arrays("look", items, embeddings.astype(np.float16), bitmaps)


def test_decoder_tuning_and_then_alignment_learn_toy_tasks(backbone):
    """A decoder learns one look; for a second, a layer in front of it, now frozen, has to align."""
    known, new = look(99, seed=0), look(12, seed=6)
    options = TrainingOptions(epochs=60, learning_rate=1e-2)
    identity = build_head("identity", None, backbone, 0)
    tuned = fit_head(build_head("decoder", None, backbone, 1), backbone, known, options)
    sam = backbone.with_decoder(tuned.head.mask_decoder.requires_grad_(False))

    def scored(head, sam, items):
        return {name: found.mean for name, found in score(evaluate(head, sam, items)).metrics.items()}

    assert scored(identity, sam, known)["iou"] > scored(identity, backbone, known)["iou"] + 0.3

    before = scored(identity, sam, new)
    aligned = fit_head(build_head("alignment", {"blocks": 2}, sam, 1), sam, new, options)
    after = scored(aligned.head, sam, new)
    assert after["iou"] > before["iou"] + 0.3
    assert after["biou"] > before["biou"]
    assert aligned.history[-1].loss < 0.5 * aligned.history[0].loss
    torch.testing.assert_close(scored(identity, sam, new), before)  # the frozen decoder stayed frozen


def test_counts_and_history(backbone):
    result = fit(backbone)
    assert result.steps == 9  # six images with masks, two a step, three epochs
    assert [record.pairs for record in result.history] == [10, 10, 10]  # 1, 2, 2, 1, 2, 2 masks
    assert result.pairs == 30
    assert all(math.isfinite(record.loss) for record in result.history)
    assert result.to_json()["history"][2]["epoch"] == 2


def test_same_seed_same_weights_and_the_backbone_is_untouched(backbone):
    before = [tensor.clone() for tensor in backbone.mask_decoder.state_dict().values()]
    first = fit(backbone)
    torch.manual_seed(77)
    np.random.default_rng(77)
    assert same_weights(first, fit(backbone))
    assert not same_weights(first, fit(backbone, seed=1))
    after = backbone.mask_decoder.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", ["alignment", "decoder"])
def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(backbone, tmp_path, name, monkeypatch):
    def run(**more):
        head = build_head(name, None, backbone, 1)
        return fit_head(head, backbone, toy_view(), QUICK, checkpoint_dir=tmp_path, **more)

    whole = fit_head(build_head(name, None, backbone, 1), backbone, toy_view(), QUICK)
    monkeypatch.setattr("casam_cache.training.loop.REPORT_EVERY", 1)

    for instant in (5, 8):  # the second step of the second epoch, and of the third

        def kill(progress, instant=instant):
            if progress.step == instant:
                raise KilledError

        with pytest.raises(KilledError):
            run(on_step=kill)
    resumed = run()
    assert resumed.resumed_from == 2
    assert resumed.history == whole.history
    assert same_weights(whole, resumed)
    again = run()
    assert again.resumed_from == 3
    assert again.seconds == 0
    assert same_weights(whole, again)


def stopped_after_one_epoch(backbone, folder):
    def stop(*_):
        raise KilledError

    with pytest.raises(KilledError):
        fit(backbone, checkpoint_dir=folder, on_epoch=stop)
    return folder / CHECKPOINT


def test_a_checkpoint_of_another_fit_is_refused(backbone, tmp_path):
    stopped_after_one_epoch(backbone, tmp_path)
    with pytest.raises(CasamError, match="other options, data or seed"):
        fit(backbone, checkpoint_dir=tmp_path, seed=2)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no checksum", "a bit", "a folder"])
def test_a_fit_begins_anew_where_its_checkpoint_is_damaged(backbone, tmp_path, damage):
    path = stopped_after_one_epoch(backbone, tmp_path)
    data, said = path.read_bytes(), []
    damaged = {
        "truncated": data[:100],
        "empty": b"",
        "no checksum": data[32:],
        "a bit": flipped(data, 8 * 500),
    }
    path.unlink()
    if damage in damaged:
        path.write_bytes(damaged[damage])
    else:
        path.mkdir()
    if damage == "a folder":
        assert read_checkpoint(tmp_path, "key", said.append) is None
    else:
        result = fit(backbone, checkpoint_dir=tmp_path, warn=said.append)
        assert result.resumed_from == 0
        assert same_weights(result, fit(backbone))
        assert fit(backbone, checkpoint_dir=tmp_path).resumed_from == 3
    assert said == [f"the checkpoint in {tmp_path} is damaged: this fit begins anew"]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_no_flipped_bit_of_a_checkpoint_is_taken_for_what_was_written(tmp_path):
    state = {"key": "k", "head": {"weight": torch.arange(64.0)}, "history": [{"loss": 0.5}], "steps": 3}
    write_checkpoint(tmp_path, state)
    path = tmp_path / CHECKPOINT
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 13):
        path.write_bytes(flipped(data, bit))
        said = []
        assert read_checkpoint(tmp_path, "k", said.append) is None
        assert len(said) == 1
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        assert read_checkpoint(tmp_path, "k") is None
    path.write_bytes(data)
    back = read_checkpoint(tmp_path, "k")
    assert torch.equal(back.pop("head")["weight"], state.pop("head")["weight"])
    assert back == state


def test_the_same_numbers_wherever_embeddings_are_kept(backbone):
    kept = fit(backbone, residency="device")
    for residency in ("host", "stream"):
        other = fit(backbone, residency=residency)
        assert other.residency == residency
        assert same_weights(kept, other)
        assert other.history == kept.history


def test_residency_is_the_first_that_fits():
    cpu = torch.device("cpu")
    assert choose_residency(1000, cpu, memory_limit=1000) == "device"
    assert choose_residency(1001, cpu, memory_limit=1000) == "stream"
    assert choose_residency(1 << 60, cpu, memory_limit=None) == "stream"


def test_a_reader_that_fails_ahead_reports_where_it_is_asked(backbone):
    def damaged(name):
        raise CasamError("image 3 is damaged")

    rows = list(toy_view().rows)
    rows[3] = replace(rows[3], read=damaged)
    broken = replace(toy_view(), rows=tuple(rows))
    with pytest.raises(CasamError, match="image 3 is damaged"):
        fit(backbone, broken, residency="stream")


def test_streaming_stops_reading_when_nobody_asks_any_more():
    source = Embeddings(toy_view(), range(7), torch.device("cpu"), "stream")
    batches = source.batches([[i] for i in range(7)])
    assert next(batches).shape == (1, 16, 8, 8)
    batches.close()


def test_max_steps_ends_training(backbone):
    result = fit(backbone, options=QUICK.model_copy(update={"max_steps": 4}))
    assert result.steps == 4
    assert [record.steps for record in result.history] == [3, 1]


def test_bf16_trains(backbone):
    result = fit(backbone, options=QUICK.model_copy(update={"precision": "bf16"}))
    assert result.precision == "bf16"
    assert all(p.dtype == torch.float32 for p in result.head.parameters())
    assert result.history[-1].loss == pytest.approx(fit(backbone).history[-1].loss, rel=0.1)


class Anchor(Penalty):
    """Pulls the head's output to its input, and keeps count."""

    def __init__(self) -> None:
        self.calls = 0

    def term(self, step):
        self.calls += 1
        assert step.low_res.shape == step.pairs.target.shape
        assert len(step.pairs.items) == len(step.pairs.features["embedding"])
        return (step.aligned - step.pairs.features["embedding"]).square().mean() if step.epoch else None

    def state(self):
        return {"calls": torch.tensor(self.calls)}

    def restore(self, state):
        self.calls = int(state["calls"])


def test_a_penalty_adds_to_the_loss_and_its_state_is_kept(backbone, tmp_path):
    result = fit(backbone, penalty=Anchor(), checkpoint_dir=tmp_path)
    assert result.history[0].penalty == 0
    assert result.history[1].penalty > 0
    assert not same_weights(result, fit(backbone))
    back = Anchor()
    fit(backbone, penalty=back, checkpoint_dir=tmp_path)
    assert back.calls == 9


def test_nothing_to_train_is_said(backbone):
    with pytest.raises(CasamError, match="nothing to train"):
        fit_head(build_head("identity", None, backbone, 0), backbone, toy_view())
    with pytest.raises(CasamError, match="none of its 3 training images has a mask"):
        fit(backbone, toy_view(3, empty=3))


def test_a_diverging_loss_is_said(backbone):
    class Infinite(Penalty):
        def term(self, step):
            return step.low_res.sum() * math.inf

    with pytest.raises(CasamError, match="no longer finite in step 1 of"):
        fit(backbone, penalty=Infinite())


def test_what_diverges_later_names_the_step_and_keeps_the_state_before(backbone, tmp_path):
    class Later(Penalty):
        def term(self, step):
            return step.low_res.sum() * (math.nan if step.index >= 5 else 0)

    with pytest.raises(CasamError, match=r"in step 6 of 9, epoch 2; the state after .* is in .*") as told:
        fit(backbone, penalty=Later(), checkpoint_dir=tmp_path)
    assert str(tmp_path) in str(told.value)
    assert any(tmp_path.iterdir())


def test_memory_that_does_not_hold_a_step_names_half_the_batch(backbone):
    class Huge(Penalty):
        def term(self, step):
            return step.low_res.new_empty(2**50)

    with pytest.raises(CasamError, match="not enough memory for a training step with batch_size=") as told:
        fit(backbone, penalty=Huge())
    assert "--set batch_size=" in told.value.hint


def test_evaluation_does_not_depend_on_how_masks_are_batched(backbone):
    view = toy_view()
    head = build_head("alignment", {"init": "random"}, backbone, 1)
    seen = []
    whole = evaluate(
        head, backbone, view, on_mask=lambda item, mask, bitmap: seen.append((item.id, bitmap.shape))
    )
    assert whole.item == [f"image {i}" for i, n in enumerate([1, 2, 3, 1, 2, 3]) for _ in range(n)]
    for at_once in (1, 2, 5):
        other = evaluate(head, backbone, view, masks_at_once=at_once)
        assert other.item == whole.item
        assert other.instance == whole.instance
        np.testing.assert_allclose(other.predicted_iou, whole.predicted_iou, atol=1e-5)
        np.testing.assert_allclose(other.scores["iou"], whole.scores["iou"], atol=2e-3)
    assert len(seen) == len(whole)
    assert {shape for _, shape in seen} == {(48, 64)}


def test_progress_of_evaluation_ends_with_all_images(backbone):
    done = []
    evaluate(build_head("identity", None, backbone, 0), backbone, toy_view(), masks_at_once=4,
             progress=lambda now, total: done.append((now, total)))  # fmt: skip
    assert done[-1] == (7, 7)
    assert done == sorted(done)


def test_outcomes_are_columns_that_come_back(backbone):
    outcomes = evaluate(build_head("identity", None, backbone, 0), backbone, toy_view())
    assert Outcomes.from_csv(outcomes.to_csv()) == outcomes
    assert score(outcomes)["iou"].groups == 3
    assert outcomes.area[0] == 360
    empty = Outcomes(scores={"iou": [], "dice": []})
    nothing = {"iou": [None, None], "dice": [None, None]}
    assert score(empty).to_json() == {
        "iou": None, "dice": None, "masks": 0, "undefined": 0, "intervals": nothing
    }  # fmt: skip


def test_every_operation_has_a_deterministic_kernel(backbone):
    torch.use_deterministic_algorithms(True)
    try:
        result = fit(backbone)
    finally:
        torch.use_deterministic_algorithms(False)
    assert same_weights(result, fit(backbone))
