"""L2P: retrieval, the key-match loss and the tokens by hand; slots, growth, resume and files."""

import math

import numpy as np
import pytest
import torch
from test_training import QUICK, TINY, KilledError, look, same_weights, toy_view

from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.sam import seeded_backbone
from casam_cache.config import validated
from casam_cache.errors import OptionError
from casam_cache.heads.base import run_head
from casam_cache.heads.files import load_head, save_head
from casam_cache.heads.options import PromptPoolOptions
from casam_cache.heads.prompt_pool import PromptPool
from casam_cache.methods.l2p import L2P
from casam_cache.methods.memory import Memory
from casam_cache.methods.sequential import Past, Setting
from casam_cache.training.evaluate import evaluate
from casam_cache.training.loop import fit_head

SMALL = PromptPoolOptions(prompts=6, prompt_length=2, top_k=2, slot_size=2, alignment="identity")


@pytest.fixture(scope="module")
def backbone():
    return seeded_backbone(TINY, 0)


def pool(**more) -> PromptPool:
    """Three keys along the axes of a plane, four channels."""
    head = PromptPool(4, SMALL.model_copy(update={"prompts": 4, "slots": False, **more}), seed=0)
    with torch.no_grad():
        keys = torch.tensor([[2.0, 0, 0, 0], [0, 3.0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 5.0]])
        head.keys.copy_(keys)
    return head


def features(*queries):
    """Embeddings whose mean over the valid cells is the query; the padding would say something else."""
    embedding = torch.full((len(queries), 4, 2, 2), 77.0)
    noise = torch.tensor([1.0, -1.0])
    for number, query in enumerate(queries):
        embedding[number, :, 0] = torch.tensor(query)[:, None] + noise
    valid = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).expand(len(queries), 2, 2)
    return {"embedding": embedding, "valid": valid}


def test_each_image_retrieves_by_its_own_mean():
    head = pool()
    given = features([3.0, 4.0, 0, 0], [-1.0, 0, 0, 0.5])
    chosen, cosine = head.retrieve(given)
    assert chosen.tolist() == [[1, 0], [2, 3]]
    np.testing.assert_allclose(cosine.detach(), [[0.8, 0.6], np.array([1, 0.5]) / math.sqrt(1.25)], atol=1e-6)
    alone, _ = head.retrieve({name: tensor[1:] for name, tensor in given.items()})
    assert alone.tolist() == [[2, 3]], "who else is in the batch has no say"
    tokens = head.prompt_tokens(given)
    assert tokens.shape == (2, 4, 4)
    torch.testing.assert_close(tokens[0], torch.cat([head.prompts[1], head.prompts[0]]))
    np.testing.assert_allclose(head.prompts.abs().max().item(), 0.01, atol=0.001)


def test_the_key_match_loss_by_hand():
    loss = pool().pull(features([3.0, 4.0, 0, 0], [-1.0, 0, 0, 0.5]))
    expected = ((1 - 0.8 + 1 - 0.6) + (2 - 1.5 / math.sqrt(1.25))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_pull_moves_keys_and_the_masks_move_prompts():
    head = pool()
    head.pull(features([3.0, 4.0, 0, 0])).backward()
    assert head.prompts.grad is None
    assert head.keys.grad.abs().sum(1).gt(0).tolist() == [True, True, False, False]
    head.keys.grad = None
    head.prompt_tokens(features([3.0, 4.0, 0, 0])).sum().backward()
    assert head.keys.grad is None
    assert head.prompts.grad.abs().sum((1, 2)).gt(0).tolist() == [True, True, False, False]


def test_prompts_learn_at_a_rate_of_their_own(backbone):
    """One step of Adam moves each number by its learning rate: the pool by its own, the layer by the recipe's."""
    head = L2P(SMALL.model_copy(update={"prompt_learning_rate": 0.02, "alignment": "first"})).start(
        None, setting(backbone, "a")
    )
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    training = QUICK.model_copy(update={"learning_rate": 1e-3, "epochs": 1, "max_steps": 1})
    fit_head(head, backbone, look(1, 1), training, seed=1)
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in head.state_dict().items()}
    assert moved["prompts"] == pytest.approx(0.02, rel=1e-3)
    layer = [far for name, far in moved.items() if name.startswith("layer.")]
    assert max(layer) == pytest.approx(1e-3, rel=1e-3)
    assert sum(len(group) for _, group in head.rates(1.0)) == len(list(head.trained()))


def test_tokens_stand_behind_each_images_own_prompts(backbone):
    head = PromptPool(16, SMALL, seed=1).eval()
    embedding = torch.randn(2, 16, 8, 8)
    given = {"embedding": embedding, "valid": torch.ones(2, 8, 8)}
    corners = torch.tensor([[4.0, 4.0, 40.0, 40.0], [8.0, 0.0, 30.0, 50.0], [1.0, 2.0, 63.0, 60.0]])
    sparse, dense = backbone.embed_prompts(Prompts(boxes=corners))
    index = torch.tensor([0, 1, 1])
    aligned, low_res, iou = run_head(head, backbone, given, index, sparse, dense)
    assert aligned is embedding
    longer = torch.cat([sparse, head.prompt_tokens(given)[index]], 1)
    assert longer.shape == (3, 2 + 2 * 2, 16)
    expected = backbone.decode(embedding, index, longer, dense, False)
    torch.testing.assert_close((low_res, iou), expected)
    assert not torch.allclose(low_res, backbone.decode(embedding, index, sparse, dense, False)[0])


def setting(backbone, task, training=QUICK, seed=1):
    return Setting(backbone=backbone, training=training, seed=seed, task=task)


def learn(backbone, method, view, past, task, **more):
    where = setting(backbone, task)
    head = method.start(past, where)
    penalty = method.penalty(view, past, where)
    return fit_head(head, backbone, view, QUICK, seed=1, penalty=penalty, **more)


def past_of(result, *tasks):
    head = result.head.eval().requires_grad_(False)
    return Past(head=head, memory=Memory(), replay=None, tasks=tasks)


def test_a_task_learns_its_slot_and_no_other_prompt(backbone):
    method = L2P(SMALL)
    first = learn(backbone, method, look(1, 1), None, "a")
    start = method.build(backbone, 1)
    for now, then in ((first.head.keys, start.keys), (first.head.prompts, start.prompts)):
        assert not torch.equal(now[:2], then[:2])
        assert torch.equal(now[2:], then[2:])
    assert first.history[-1].penalty < first.history[0].penalty
    past = past_of(first, "a")
    second = learn(backbone, method, look(2, 2), past, "b")
    assert torch.equal(second.head.prompts[:2], first.head.prompts[:2])
    assert not torch.equal(second.head.prompts[2:4], first.head.prompts[2:4])
    assert second.head.slot.tolist() == [2, 4]


def test_at_test_the_prompts_of_all_tasks_learnt_compete(backbone):
    method = L2P(SMALL)
    head = method.start(past_of(learn(backbone, method, look(1, 1), None, "a"), "a"), setting(backbone, "b"))
    embedding = torch.randn(20, 16, 8, 8)
    given = {"embedding": embedding, "valid": torch.ones(20, 8, 8)}
    assert set(head.train().retrieve(given)[0].flatten().tolist()) == {2, 3}
    assert set(head.eval().retrieve(given)[0].flatten().tolist()) == {0, 1, 2, 3}
    whole = PromptPool(16, SMALL.model_copy(update={"slots": False})).train()
    assert len(set(whole.retrieve(given)[0].flatten().tolist())) == 6


def test_a_full_pool_grows_as_if_it_had_been_larger(backbone, tmp_path):
    method, large = L2P(SMALL), PromptPool(16, SMALL.model_copy(update={"prompts": 8}), seed=1)
    past = past_of(learn(backbone, method, look(1, 1), None, "a"), "a", "b", "c")
    head = method.start(past, setting(backbone, "d"))
    assert len(head.keys) == len(head.prompts) == 8
    assert torch.equal(head.prompts[6:], large.prompts[6:])
    assert torch.equal(head.keys[6:], large.keys[6:])
    assert len(past.head.keys) == 6
    assert head.options.prompts == 8
    save_head(head, tmp_path)
    loaded = load_head(tmp_path, backbone)
    assert torch.equal(loaded.keys, head.keys)
    assert loaded.slot.tolist() == [6, 8]


def test_the_alignment_layer_learns_with_the_first_task_only(backbone):
    options = SMALL.model_copy(update={"alignment": "first", "blocks": 1})
    method = L2P(options)
    first = learn(backbone, method, look(1, 1), None, "a")
    assert not same_layer(first.head, method.build(backbone, 1))
    second = learn(backbone, method, look(2, 2), past_of(first, "a"), "b")
    assert same_layer(first.head, second.head)
    assert second.head.trained_parameters() == 6 * 16 + 6 * 2 * 16
    assert L2P(SMALL).build(backbone, 0).layer is None


def same_layer(one, other) -> bool:
    pairs = zip(one.layer.state_dict().values(), other.layer.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_killed_and_resumed_equals_uninterrupted(backbone, tmp_path):
    method, view = L2P(SMALL), toy_view()
    past = past_of(learn(backbone, method, look(1, 1), None, "a"), "a")
    whole = learn(backbone, method, view, past, "b")

    def kill(record, progress):
        if record.epoch == 1:
            raise KilledError

    with pytest.raises(KilledError):
        learn(backbone, method, view, past, "b", checkpoint_dir=tmp_path, on_epoch=kill)
    resumed = learn(backbone, method, view, past, "b", checkpoint_dir=tmp_path, residency="stream")
    assert resumed.resumed_from == 2
    assert same_weights(whole, resumed)
    assert whole.history == resumed.history


def test_saved_and_evaluated_it_is_the_same(backbone, tmp_path):
    head = learn(backbone, L2P(SMALL), toy_view(), None, "a").head
    save_head(head, tmp_path)
    assert evaluate(load_head(tmp_path, backbone), backbone, toy_view()) == evaluate(
        head, backbone, toy_view()
    )


def test_defaults_and_wrong_options():
    options = L2P(PromptPoolOptions()).options
    assert (options.prompts, options.prompt_length, options.top_k, options.pull_weight) == (40, 5, 5, 1.0)
    assert (options.slots, options.slot_size, options.alignment) == (True, 5, "first")
    assert options.prompt_learning_rate == 0.03 * 128 / 256
    assert options.alignment == "first"
    assert PromptPool(8, options).prompt_tokens(
        {"embedding": torch.randn(3, 8, 2, 2), "valid": torch.ones(3, 2, 2)}
    ).shape == (3, 25, 8)
    for wrong, name in (
        ({"top_k": 6}, "slot_size"),
        ({"prompts": 3, "slots": False}, "needs prompts"),
        ({"prompts": 4}, "slot_size <= prompts"),
        ({"alignment": "last"}, "alignment"),
    ):
        with pytest.raises(OptionError, match=name):
            validated(PromptPoolOptions, wrong)
