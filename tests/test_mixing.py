"""Mixing in embedding space: what becomes of embeddings, that a fit resumes with it, and who refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import Casam

from casam_cache.fingerprint import generator
from casam_cache.training.mixing import mix_embeddings
from casam_cache.training.step import Pairs


def pairs_of(images: int) -> Pairs:
    embedding = torch.randn(images, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(images, 4, 4)
    nothing: Any = torch.zeros(images)
    return Pairs((), {"embedding": embedding, "valid": valid}, None, *[nothing] * 4, *[np.zeros(images)] * 2)


def test_each_embedding_keeps_half_of_itself_at_least() -> None:
    pairs = pairs_of(5)
    mixed = mix_embeddings(pairs, 0.4, generator(0, "mix", 1))
    own, found = pairs.features["embedding"], mixed.features["embedding"]
    other = own.roll(-1, 0)
    shares = ((found - other) * (own - other)).flatten(1).sum(1) / (own - other).square().flatten(1).sum(1)
    assert torch.allclose(found, shares.view(-1, 1, 1, 1) * (own - other) + other, atol=1e-5)
    assert bool((shares > 0.5 - 1e-5).all())
    assert bool((shares < 1 + 1e-5).all())
    assert float(shares.std()) > 0.01
    assert mixed.features["valid"] is pairs.features["valid"]
    assert torch.equal(found, mix_embeddings(pairs, 0.4, generator(0, "mix", 1)).features["embedding"])
    assert not torch.equal(found, mix_embeddings(pairs, 0.4, generator(0, "mix", 2)).features["embedding"])
    alone = pairs_of(1)
    assert mix_embeddings(alone, 0.4, generator(0, "mix", 1)) is alone


def test_mixing_is_part_of_a_fit_and_refused_where_it_means_nothing(
    casam: Casam, encode: Any, discs: Path
) -> None:
    encode(discs)
    steps = ("--set", "max_steps=4", "--set", "batch_size=2", "--set", "held_out=0", "--model", "tiny")
    plain = casam.json("fit", "--task", "discs", *steps)
    mixed = casam.json("fit", "--task", "discs", *steps, "--set", "mix=0.4")
    assert mixed["computed"]
    assert mixed["run"] != plain["run"]
    again = casam.json("fit", "--task", "discs", *steps, "--set", "mix=0")
    assert (again["run"], again["computed"]) == (plain["run"], False)
    casam("bench", "--methods", "naive", "--set", "mix=0.4", *steps)
    assert casam.code == 1
    assert "mix is of methods that learn one task, and naive learns several" in casam.err
    casam("fit", "--task", "discs", "--method", "sam-decoder", *steps, "--set", "mix=0.4")
    assert casam.code == 1
    assert "mix is of cached embeddings" in casam.err
