"""HQ-SAM's decoder: its counts, its arithmetic, where it starts, and early features on every path."""

import numpy as np
import pytest
import torch
from test_training import QUICK, TINY, KilledError, same_weights, toy_view
from torch.nn import functional as F
from toy_sequences import with_feature

from casam_cache.backbones.architecture import ARCHITECTURES
from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.sam import Small, seeded_backbone
from casam_cache.errors import StoreError
from casam_cache.heads.base import predict_low_res, run_head
from casam_cache.heads.files import build_head, load_head, save_head
from casam_cache.heads.hq import HQDecoder
from casam_cache.heads.options import HQOptions
from casam_cache.training.evaluate import evaluate
from casam_cache.training.feed import place_features
from casam_cache.training.items import Items
from casam_cache.training.loop import fit_head


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone(TINY, 0)


def with_early(view: Items, seed: int = 5) -> Items:
    early = np.random.default_rng(seed).standard_normal((len(view), 16, 8, 8)).astype(np.float16)
    return with_feature(view, "early", early)


@pytest.fixture
def view():
    return with_early(toy_view())


def test_parameters_of_the_paper():
    vit_b = ARCHITECTURES["vit_b"]
    head = HQDecoder(vit_b.build_decoder()[1], vit_b.channels, vit_b.width)
    assert head.trained_parameters() == 4_058_340 + 1_071_104
    prompt_encoder = sum(p.numel() for p in vit_b.build_decoder()[0].parameters())
    assert head.trained_parameters() + prompt_encoder == 5_135_664
    frozen = HQDecoder(vit_b.build_decoder()[1], vit_b.channels, vit_b.width, HQOptions(train_decoder=False))
    assert frozen.trained_parameters() == 1_071_104


def test_it_is_built_for_the_small_models_dimensions():
    small = Small.architecture_of(Small.own_checkpoint())
    head = HQDecoder(small.build_decoder()[1], small.channels, small.width)
    early = torch.zeros(1, small.width, small.grid, small.grid)
    assert head.compress(early).shape == (1, small.channels // 8, 4 * small.grid, 4 * small.grid)


def boxes(count):
    corners = torch.tensor([[4.0, 4.0, 40.0, 40.0], [8.0, 0.0, 30.0, 50.0], [1.0, 2.0, 63.0, 60.0]])
    return Prompts(boxes=corners[:count])


@pytest.mark.parametrize("multimask", [False, True])
def test_the_mask_is_the_formula(backbone, multimask):
    head = build_head("hq-sam", None, backbone, 3)
    embedding, early = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    index = torch.tensor([0, 1, 1])
    sparse, dense = backbone.embed_prompts(boxes(3))
    features = {"embedding": embedding, "early": early}
    aligned, low_res, iou = run_head(head, backbone, features, index, sparse, dense, multimask)
    assert aligned is embedding

    decoder = head.mask_decoder
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, head.token])
    tokens = torch.cat([output.expand(3, -1, -1), sparse], 1)
    queries, keys = decoder.transformer(embedding[index] + dense, backbone.dense_pe(), tokens)
    upscaled = decoder.output_upscaling(keys.transpose(1, 2).reshape(3, 16, 8, 8))
    kinds = range(1, 4) if multimask else range(1)
    sam = torch.stack(
        [
            (decoder.output_hypernetworks_mlps[i](queries[:, 1 + i])[:, :, None, None] * upscaled).sum(1)
            for i in kinds
        ],
        1,
    )
    fused = (head.embed(embedding) + head.compress(early))[index]
    first, second, third = head.mlp
    weight = third(F.relu(second(F.relu(first(queries[:, 5])))))
    added = (weight[:, :, None, None] * (head.refine(upscaled) + fused)).sum(1, keepdim=True)
    torch.testing.assert_close(low_res, sam + added, atol=1e-4, rtol=1e-4)
    assert added.abs().max() > 0
    torch.testing.assert_close(iou, decoder.iou_prediction_head(queries[:, 0])[:, kinds.start : kinds.stop])


@pytest.mark.parametrize("train_decoder", [False, True])
def test_a_zero_start_is_sams_own_mask_but_for_the_further_token(backbone, train_decoder):
    head = build_head("hq-sam", {"init": "zero", "train_decoder": train_decoder}, backbone, 3)
    features = {"embedding": torch.randn(2, 16, 8, 8), "early": torch.randn(2, 16, 8, 8)}
    sparse, dense = backbone.embed_prompts(boxes(2))
    low_res, _ = predict_low_res(head, backbone, features, boxes(2))
    random, _ = predict_low_res(build_head("hq-sam", None, backbone, 3), backbone, features, boxes(2))
    with torch.no_grad():
        tokens = torch.cat([head.token.expand(2, -1, -1), sparse], 1)
        # The token takes part in the decoder's self-attention wherever it stands: SAM with one more prompt token.
        alone, _ = backbone.decode(features["embedding"], None, tokens, dense, False)
    torch.testing.assert_close(low_res, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(low_res, random)


def test_initial_weights_depend_on_seed_and_dimensions_alone(backbone):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_head("hq-sam", None, backbone, 3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = build_head("hq-sam", {"init": "zero"}, backbone, 3).state_dict()
    differ = {name for name, tensor in first.items() if not torch.equal(tensor, again[name])}
    assert differ == {"mlp.2.weight", "mlp.2.bias"}
    other = build_head("hq-sam", None, backbone, 4).state_dict()
    for name in ("token", "mlp.0.weight", "compress.3.bias", "refine.0.weight"):
        assert not torch.equal(first[name], other[name])
    bound = 1 / (first["compress.0.weight"].shape[1] * 4) ** 0.5  # torch's fan-in of a transposed convolution
    assert 0.9 * bound < first["compress.0.weight"].abs().max() <= bound


def fit(backbone, view, **more):
    options = more.pop("options", QUICK)
    return fit_head(build_head("hq-sam", None, backbone, 1), backbone, view, options, **more)


def test_it_learns_from_early_features(backbone, view):
    options = QUICK.model_copy(update={"epochs": 12})
    result = fit(backbone, view, options=options)
    assert result.history[-1].loss < result.history[0].loss
    start = build_head("hq-sam", None, backbone, 1).state_dict()
    changed = {n for n, t in result.head.state_dict().items() if not torch.equal(t, start[n])}
    assert {"token", "compress.0.weight", "embed.3.weight", "refine.0.weight", "mlp.2.bias"} <= changed
    other = with_early(toy_view(), seed=6)
    assert not same_weights(result, fit(backbone, other, options=options))


def test_killed_and_resumed_equals_uninterrupted_wherever_features_are_kept(backbone, view, tmp_path):
    whole = fit(backbone, view)

    def kill(record, progress):
        if record.epoch == 1:
            raise KilledError

    with pytest.raises(KilledError):
        fit(backbone, view, checkpoint_dir=tmp_path, on_epoch=kill)
    resumed = fit(backbone, view, checkpoint_dir=tmp_path, residency="stream")
    assert resumed.resumed_from == 2
    assert same_weights(whole, resumed)
    assert resumed.residency == "stream"


def test_what_memory_holds_is_shared_out_embedding_first(view):
    one = 7 * 16 * 8 * 8 * 2
    names, cpu = ("embedding", "early"), torch.device("cpu")
    for limit, expected in ((2 * one, ["device"] * 2), (one, ["device", "stream"]), (1, ["stream"] * 2)):
        placed = place_features(view, range(7), cpu, names, "auto", limit)
        assert [placed[name].residency for name in names] == expected
        batches = {name: list(placed[name].batches([[3, 0], [6]])) for name in names}
        np.testing.assert_array_equal(batches["early"][0].numpy(), [view.feature("early", i) for i in (3, 0)])
        np.testing.assert_array_equal(batches["embedding"][1][0].numpy(), view.feature("embedding", 6))


def test_saved_evaluated_and_batched_alike(backbone, view, tmp_path):
    head = fit(backbone, view).head
    save_head(head, tmp_path)
    whole = evaluate(head, backbone, view)
    loaded = evaluate(load_head(tmp_path, backbone), backbone, view)
    assert loaded == whole
    other = evaluate(head, backbone, view, masks_at_once=1)
    np.testing.assert_allclose(other.predicted_iou, whole.predicted_iou, atol=1e-5)


def test_bf16_trains(backbone, view):
    result = fit(backbone, view, options=QUICK.model_copy(update={"precision": "bf16"}))
    assert result.history[-1].loss == pytest.approx(fit(backbone, view).history[-1].loss, rel=0.1)


def test_a_view_without_early_features_is_refused(backbone):
    with pytest.raises(StoreError, match="early"):
        fit(backbone, toy_view())
