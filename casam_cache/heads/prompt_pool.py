"""A pool of prompt tokens that each image queries with its own embedding (L2P, Algorithm 5).

M prompts of L tokens, each with a key. An image's query is the mean of its embedding Z over the cells that hold
image; the k prompts whose keys are nearest by cosine follow the box or point as k * L further sparse tokens. Every
image is asked by itself: a vote over a batch would tell the task at test time.

With slots, task t has the prompts [5t, 5t + 5): they alone are retrieved, and so trained, while it is learnt; at
test all prompts of the tasks learnt so far compete. Without, all M compete from the start. M = 40 has room for eight
tasks; the pool grows by a slot for every further one. Each prompt draws its own numbers, so a grown pool is the one
that had been large from the beginning.

Keys start uniform in [-1, 1], where only direction counts, and prompts in [-0.01, 0.01], the size of L2P's public
code (google-research/l2p), where they start in [0, 0.01]. 25 tokens of the size of SAM's own prompts, but random, stand
in the decoder's way: from [-1, 1] every step of a short training goes into undoing them. Both learn at a rate of their
own, `prompt_learning_rate`, of the same code: its configuration says 0.03 for 256 images a step, which
`train_continual.py` scales to the batch, and it is run with 128, so at 0.015. That rate is taken whatever our batch is:
scaled down to batches of 2 to 6, and at the paper's general 1e-4, they would hardly move in a hundred steps. No
lower rate is better on validation splits (benchmarks/results/l2p_rate_small).

Algorithm 5 takes a "pre-trained Alignment layer A" as given and does not say on what: `alignment=first` is one that
learns with the first task's prompts and is frozen afterwards; `identity` is SAM's own embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F

from casam_cache.backbones.base import Backbone
from casam_cache.fingerprint import generator
from casam_cache.heads.alignment import AlignmentLayer
from casam_cache.heads.base import Head
from casam_cache.heads.options import AlignmentOptions, PromptPoolOptions


class PromptPool(Head):
    """Prompts by query, and possibly an Alignment Layer before the decoder.

    Args:
        channels: C of the backbone, also of prompts and keys.
        options: see `PromptPoolOptions`; `prompts` grows with `open_slot`.
        seed: initial weights depend on it, C and the options alone.
        scale: of the Alignment Layer, `Backbone.neck`.

    Attributes:
        keys: (M, C).
        prompts: (M, L, C).
        slot: int64 (2,), first and end of the prompts that training retrieves; all before the end compete at test.
    """

    name = "prompt-pool"
    Options = PromptPoolOptions
    needs: ClassVar[tuple[str, ...]] = ("embedding", "valid")
    slot: torch.Tensor

    def __init__(
        self,
        channels: int,
        options: PromptPoolOptions | None = None,
        seed: int = 0,
        scale: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        options = options or PromptPoolOptions()
        super().__init__(options)
        self.pool = options
        drawn = [self._draw(index, channels, seed) for index in range(options.prompts)]
        self.keys = nn.Parameter(torch.stack([key for key, _ in drawn]))
        self.prompts = nn.Parameter(torch.stack([prompt for _, prompt in drawn]))
        end = options.slot_size if options.slots else options.prompts
        self.register_buffer("slot", torch.tensor([0, end]))
        self.layer: AlignmentLayer | None = None
        if options.alignment == "first":
            own = {name: getattr(options, name) for name in AlignmentOptions.model_fields}
            self.layer = AlignmentLayer(channels, AlignmentOptions(**own), seed, scale)

    @classmethod
    def build(cls, options: BaseModel, backbone: Backbone, seed: int) -> Head:
        """See `Head.build`."""
        assert isinstance(options, PromptPoolOptions)
        return cls(backbone.channels, options, seed, backbone.neck)

    def rates(self, learning_rate: float) -> list[tuple[float, list[nn.Parameter]]]:
        """See `Head.rates`."""
        own = {id(self.keys), id(self.prompts)}
        rest = [parameter for parameter in self.trained() if id(parameter) not in own]
        pool = [parameter for parameter in self.trained() if id(parameter) in own]
        return [(self.pool.prompt_learning_rate, pool), *([(learning_rate, rest)] if rest else [])]

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, C, g, g) -> (B, C, g, g): the Alignment Layer's output, or the embedding as it is."""
        if self.layer is None:
            return embedding
        aligned: torch.Tensor = self.layer(embedding)
        return aligned

    def prompt_tokens(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, k * L, C), the k prompts of each image, nearest first.

        Args:
            features: `embedding` (B, C, g, g) and `valid` (B, g, g).
        """
        chosen, _ = self.retrieve(features)
        return self.prompts[chosen].flatten(1, 2)

    def retrieve(self, features: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The k nearest prompts of each image.

        Args:
            features: `embedding` (B, C, g, g) and `valid` (B, g, g).

        Returns:
            int64 (B, k), indexes into the pool, and float32 (B, k), the cosines of query and key.
        """
        first, end = self.slot.tolist()
        if not self.training:
            first = 0
        with torch.autocast(self.keys.device.type, enabled=False):
            query = mean_over(features["embedding"].float(), features["valid"].float())
            similarity = F.normalize(query, dim=1) @ F.normalize(self.keys[first:end].float(), dim=1).T
        cosine, place = similarity.topk(min(self.pool.top_k, end - first), dim=1)
        return place + first, cosine

    def pull(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """L_key-match, 0-d: the sum of 1 - cosine over an image's k prompts, mean over images."""
        _, cosine = self.retrieve(features)
        return (1 - cosine).sum(dim=1).mean()

    def open_slot(self, task: int, seed: int) -> None:
        """Prepares the pool for the task of that number, from 0; it grows where it has no room left."""
        if not self.pool.slots:
            return
        first = task * self.pool.slot_size
        end = first + self.pool.slot_size
        self.slot = torch.tensor([first, end], device=self.slot.device)
        size, channels = self.keys.shape
        if end > size:
            drawn = [self._draw(index, channels, seed) for index in range(size, end)]
            keys = torch.stack([key for key, _ in drawn]).to(self.keys)
            prompts = torch.stack([prompt for _, prompt in drawn]).to(self.prompts)
            self.keys = nn.Parameter(torch.cat([self.keys.detach(), keys]))
            self.prompts = nn.Parameter(torch.cat([self.prompts.detach(), prompts]))
            self.pool = self.pool.model_copy(update={"prompts": end})
            self.options = self.pool

    def _draw(self, index: int, channels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (self.pool.prompt_length, channels)
        belongs_to = (seed, "prompt-pool", channels, index)
        key = generator(*belongs_to, "key").uniform(-1, 1, channels)
        prompt = self.pool.prompt_scale * generator(*belongs_to, "prompt").uniform(-1, 1, shape)
        return torch.from_numpy(key).float(), torch.from_numpy(prompt).float()


def mean_over(embedding: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, C), the mean of embeddings (B, C, g, g) over the cells where `valid` (B, g, g) is 1."""
    return (embedding * valid[:, None]).sum((2, 3)) / valid.sum((1, 2)).clamp_min(1)[:, None]
