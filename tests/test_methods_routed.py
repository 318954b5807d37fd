"""EMR by hand, MoDA's needs and options, CA-SAM's options, and what routed methods share."""

import numpy as np
import pytest
import torch
from test_training import TINY

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.config import parse_assignments
from casam_cache.errors import OptionError
from casam_cache.methods.emr import EMR, EMROptions, elect, mask_and_rescale
from casam_cache.methods.registry import METHODS
from casam_cache.methods.routed import Routed
from casam_cache.training.options import TrainingOptions

ROUTED = ["ca-sam", "emr", "moda", "moda-hq"]


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone(TINY, 0)


def made(name, *assignments):
    found = METHODS.get(name)
    options, _ = parse_assignments(assignments, [found.options_model(), TrainingOptions])
    return found(options)


def test_elect_mask_and_rescale_by_hand():
    vectors = [
        {"a": torch.tensor([1.0, -2.0, 3.0, 0.0]), "b": torch.tensor([[4.0]])},
        {"a": torch.tensor([2.0, 1.0, -3.0, 0.0]), "b": torch.tensor([[-1.0]])},
        {"a": torch.tensor([-0.5, -0.5, 0.0, 0.0]), "b": torch.tensor([[-1.0]])},
    ]
    # sums: 2.5, -1.5, 0, 0; 2.   signs: +, -, 0, 0; +
    unified = elect(vectors)
    assert unified["a"].tolist() == [2.0, -2.0, 0.0, 0.0]
    assert unified["b"].tolist() == [[4.0]]
    expected = [
        ([2.0, -2.0, 0.0, 0.0], 4.0, (1 + 2 + 3 + 4) / 8),
        ([2.0, 0.0, 0.0, 0.0], 0.0, (2 + 1 + 3 + 1) / 2),
        ([0.0, -2.0, 0.0, 0.0], 0.0, (0.5 + 0.5 + 1) / 2),
    ]
    for vector, (a, b, factor) in zip(vectors, expected, strict=True):
        masked, found = mask_and_rescale(vector, unified)
        assert masked["a"].tolist() == a
        assert masked["b"].item() == b
        assert found == pytest.approx(factor)


def test_a_task_that_agrees_nowhere_keeps_nothing():
    vectors = [{"a": torch.tensor([-1.0])}, {"a": torch.tensor([3.0])}]
    masked, factor = mask_and_rescale(vectors[0], elect(vectors))
    assert masked["a"].item() == 0
    assert factor == 0.0


def fitted(backbone, method, tasks, seed=4):
    """Heads as far from the common start as training would bring them."""
    heads = {}
    for number, task in enumerate(tasks):
        head = method.build(backbone, seed)
        rng = np.random.default_rng(number)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(torch.from_numpy(0.1 * rng.standard_normal(tuple(parameter.shape))))
        heads[task] = head
    return heads


def test_emr_merges_whole_layers(backbone):
    method = made("emr", "blocks=1")
    heads = fitted(backbone, method, "abc")
    merged = method.merge(backbone, 4, heads)
    start = {n: p.detach().double().numpy() for n, p in method.build(backbone, 4).named_parameters()}
    taus = {
        task: {n: p.detach().double().numpy() - start[n] for n, p in head.named_parameters()}
        for task, head in heads.items()
    }
    for name in start:
        stacked = np.stack([taus[task][name] for task in "abc"])
        gamma = np.sign(stacked.sum(0))
        unified = gamma * np.where(stacked * gamma > 0, np.abs(stacked), 0).max(0)
        for task in "abc":
            taus[task][name] = (taus[task][name], unified * (taus[task][name] * unified > 0))
    for task, head in merged.items():
        moved = sum(np.abs(own).sum() for own, _ in taus[task].values())
        kept = sum(np.abs(masked).sum() for _, masked in taus[task].values())
        for name, parameter in head.named_parameters():
            expected = start[name] + moved / kept * taus[task][name][1]
            np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=1e-6)
    assert list(merged) == ["a", "b", "c"]


def test_one_task_merges_to_itself(backbone):
    method = made("emr", "blocks=1")
    heads = fitted(backbone, method, "a")
    merged = method.merge(backbone, 4, heads)["a"].state_dict()
    for name, tensor in heads["a"].state_dict().items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-6, rtol=1e-6)


def test_the_order_of_tasks_changes_no_bit_of_a_merge(backbone):
    method = made("emr", "blocks=1")
    heads = fitted(backbone, method, "abcd")
    first = method.merge(backbone, 4, heads)
    second = method.merge(backbone, 4, dict(reversed(heads.items())))
    for task in heads:
        assert torch.equal(
            torch.cat([p.flatten() for p in first[task].parameters()]),
            torch.cat([p.flatten() for p in second[task].parameters()]),
        )


def test_emr_keeps_one_vector_a_bit_a_parameter_and_a_factor(backbone):
    method = made("emr", "blocks=1")
    heads = fitted(backbone, method, "abc")
    size = sum(p.numel() for p in heads["a"].parameters())
    assert method.bytes_kept(heads) == 4 * size + 3 * (-(-size // 8) + 4)
    assert made("ca-sam", "blocks=1").bytes_kept(heads) == 3 * 4 * size


@pytest.mark.parametrize("name", ROUTED)
def test_experts_are_ordinary_fits_of_a_single_task_method(backbone, name):
    method = made(name)
    assert isinstance(method, Routed)
    expert = method.expert_method()
    assert expert.name == ("hq-sam" if name == "moda-hq" else "alignment")
    assert set(expert.needs) <= set(method.needs)
    own, ordinary = method.build(backbone, 3).state_dict(), expert.build(backbone, 3).state_dict()
    assert own.keys() == ordinary.keys()
    assert all(torch.equal(own[key], ordinary[key]) for key in own)


@pytest.mark.parametrize("name", ROUTED)
def test_no_option_of_a_method_has_the_name_of_one_of_training(name):
    assert not set(METHODS.get(name).options_model().model_fields) & set(TrainingOptions.model_fields)


def test_options_reach_the_expert():
    assert made("ca-sam", "blocks=2", "relu=post", "beta=1").expert_method().options.blocks == 2
    assert made("moda-hq", "train_decoder=false").expert_method().options.train_decoder is False


def test_emr_says_who_names_the_task():
    assert made("emr").routing == "oracle"
    assert made("emr", "routing=density").routing == "density"
    assert EMR(EMROptions()).merges
    with pytest.raises(OptionError, match="routing"):
        made("emr", "routing=guess")


def test_moda_needs_tokens_unless_the_surrogate_is_asked_for():
    assert made("moda").needs == ("embedding", "tokens")
    assert made("moda", "classifier=query").needs == ("embedding",)
    assert made("moda-hq").needs == ("embedding", "early", "tokens")
    assert made("moda-hq", "classifier=query").needs == ("embedding", "early")
    assert METHODS.get("moda").needs == ("embedding",)
    assert made("moda").routing == "classifier"
    with pytest.raises(OptionError, match="exemplars"):
        made("moda", "exemplars=0")


def test_ca_sam_has_the_papers_defaults():
    options = made("ca-sam").options
    assert (options.pooling, options.temperature, options.router, options.threshold) == (
        "attention",
        1.0,
        "vae",
        "p97",
    )
    assert (options.latent, options.beta, options.vae_epochs, options.vae_learning_rate) == (
        64,
        16.5,
        10,
        5e-4,
    )
    assert (options.folds, options.blocks, options.fallback) == (5, 3, True)
    assert made("ca-sam").routing == "density"
    with pytest.raises(OptionError, match="unknown option 'betta'"):
        made("ca-sam", "betta=1")
