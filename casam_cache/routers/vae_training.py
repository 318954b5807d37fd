"""Training many variational autoencoders at once: all tasks, folds, betas and seeds of one shape in a stack.

`torch.func.vmap` runs the loss of one model over the stack, and one backward pass of the losses' sum gives every model
its own gradient. What a model computes depends on its own job alone, to the last bit on a CPU:

- every batch is padded to `vae_batch_size` rows and masked, so that no matrix has another shape in other company;
- batches, noise and initial weights are drawn from what they belong to;
- a model's weights are taken when it has made its own number of steps;
- one thread computes, so that no sum is cut where the number of threads says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.func import vmap

from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.routers.base import Job, Progress
from casam_cache.routers.vae import VAEOptions, initial_weights, shapes

Weights = dict[str, torch.Tensor]
_Standardised = tuple[np.ndarray, np.ndarray, np.ndarray]
STACK_FLOATS = 2 * 2**20  # parameters in one stack: much larger ones leave a CPU's cache
ALIGNED = 64  # numbers
LEAST_ROWS = (
    4  # of a padded batch: a product with a single row goes through code whose bits depend on alignment
)


@dataclass(frozen=True)
class _Model:
    """One model to train.

    Attributes:
        job: where its data come from.
        options: the job's.
        features: float32 (N, D), all rows of the task, standardised for this model.
        mean, deviation: what by; None: not.
        steps: optimiser steps it takes.
    """

    job: Job
    options: VAEOptions
    features: np.ndarray
    mean: np.ndarray | None
    deviation: np.ndarray | None
    steps: int


@dataclass(frozen=True)
class Trained:
    """What a training gives: the arguments of `vae.VAE`."""

    weights: dict[str, np.ndarray]
    options: VAEOptions
    mean: np.ndarray | None
    deviation: np.ndarray | None


def train_many(jobs: Sequence[Job], *, progress: Progress | None = None) -> list[Trained]:
    """One trained VAE a job.

    Args:
        jobs: any; those of one shape, batch size and learning rate train together.
        progress: called with model steps done and to do.

    Raises:
        CasamError: if a training diverged.
    """
    standardised: dict[tuple[int, bytes], _Standardised] = {}
    models = [_prepare(job, standardised) for job in jobs]
    stacks: dict[tuple[object, ...], list[int]] = {}
    for number, model in enumerate(models):
        o = model.options
        key = (model.features.shape[1], o.latent, o.hidden, o.vae_batch_size, o.vae_learning_rate)
        stacks.setdefault(key, []).append(number)
    total, done = sum(model.steps for model in models), 0
    finished: dict[int, Trained] = {}
    with _one_thread():
        for numbers in stacks.values():
            for chunk in _chunks(sorted(numbers, key=lambda number: -models[number].steps), models):
                trained = _train([models[number] for number in chunk])
                for number, weights in zip(chunk, trained, strict=True):
                    model = models[number]
                    finished[number] = Trained(weights, model.options, model.mean, model.deviation)
                    done += model.steps
                if progress is not None:
                    progress(done, total)
    return [finished[number] for number in range(len(jobs))]


def _prepare(job: Job, standardised: dict[tuple[int, bytes], _Standardised]) -> _Model:
    options = cast(VAEOptions, job.options)
    passes = options.vae_epochs * math.ceil(len(job.rows) / options.vae_batch_size)
    steps = options.vae_steps or max(passes, options.vae_min_steps)
    if options.standardise == "none":
        return _Model(job, options, job.features, None, None, steps)
    key = (id(job.features), job.rows.tobytes())
    if key not in standardised:
        standardised[key] = _standardise(job)
    return _Model(job, options, *standardised[key], steps)


def _standardise(job: Job) -> _Standardised:
    """All rows less the mean of those to fit on, over their deviation; the mean and the deviation."""
    seen = job.features[job.rows].astype(np.float64)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    deviation = np.maximum(deviation, 1e-3 * deviation.mean() or 1.0)
    mean, deviation = mean.astype(np.float32), deviation.astype(np.float32)
    features = ((job.features.astype(np.float64) - mean) / deviation).astype(np.float32)
    return features, mean, deviation


def _chunks(numbers: Sequence[int], models: Sequence[_Model]) -> Iterator[Sequence[int]]:
    """Stacks that stay in a CPU's cache reasonably well."""
    o, channels = models[numbers[0]].options, models[numbers[0]].features.shape[1]
    size = max(1, STACK_FLOATS // (o.hidden * (2 * channels + 3 * o.latent)))
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _train(models: Sequence[_Model]) -> list[dict[str, np.ndarray]]:
    """Train a stack of equal shape, longest first; returns each model's weights."""
    options, channels = models[0].options, models[0].features.shape[1]
    flat = torch.zeros(len(models), _padded_size(channels, options))
    flat.grad = torch.zeros_like(flat)
    weights, slopes = _views(flat, channels, options), _views(flat.grad, channels, options)
    for seed in {m.job.seed for m in models}:
        same = torch.tensor([place for place, m in enumerate(models) if m.job.seed == seed])
        for name, array in initial_weights(channels, options, seed).items():
            weights[name][same] = torch.from_numpy(array)
    for w in weights.values():
        w.requires_grad_()
    optimiser = torch.optim.Adam([flat], lr=options.vae_learning_rate, fused=True)
    divergence = torch.tensor(
        [m.options.beta / 2 / (m.options.latent if m.options.kl == "mean" else 1) for m in models]
    )
    feed, loss = _Feed(models), vmap(_loss)
    trained: dict[int, dict[str, np.ndarray]] = {}
    for step in range(models[0].steps):
        # Each model's loss knows its own weights only: the gradient of the sum is every model's own.
        total = loss(weights, *feed.batch(step), divergence).sum()
        for name, slope in zip(weights, torch.autograd.grad(total, list(weights.values())), strict=True):
            slopes[name].copy_(slope)
        optimiser.step()
        for place, model in enumerate(models):
            if model.steps == step + 1:  # it may be carried along, but what counts is taken now
                trained[place] = {name: w[place].detach().numpy().copy() for name, w in weights.items()}
    for place, model in enumerate(models):
        if not all(np.isfinite(array).all() for array in trained[place].values()):
            raise CasamError(
                f"the VAE of {model.job.task} diverged",
                "a smaller vae_learning_rate, or standardise=task, keeps the training stable",
            )
    return [trained[place] for place in range(len(models))]


def _padded_size(channels: int, options: VAEOptions) -> int:
    """Parameters of a model, filled up to whole vector registers: no model's last ones are computed otherwise."""
    size = sum(math.prod(shape) for shape in shapes(channels, options).values())
    return -(-size // ALIGNED) * ALIGNED


def _views(flat: torch.Tensor, channels: int, options: VAEOptions) -> Weights:
    """The named parameters (M, *shape) within (M, `_padded_size`), which the optimiser steps as one tensor."""
    views, end = {}, 0
    for name, shape in shapes(channels, options).items():
        views[name] = flat[:, end : end + math.prod(shape)].view(len(flat), *shape)
        end += math.prod(shape)
    return views


def _loss(
    w: Weights, f: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor, divergence: torch.Tensor
) -> torch.Tensor:
    """Equation 6 of one model, averaged over the rows of a batch that `mask` keeps.

    Args:
        w: parameters, as `vae.shapes` names them.
        f: (B, D).
        noise: (B, latent), standard normal.
        mask: (B,), 1 or 0.
        divergence: the factor of the sum over latent dimensions.
    """
    encoded = torch.relu(_linear(w, "encode1", f))
    mu, log_variance = _linear(w, "encode2", encoded).chunk(2, dim=1)
    z = mu + noise * torch.exp(0.5 * log_variance)
    reconstructed = _linear(w, "decode2", torch.relu(_linear(w, "decode1", z)))
    error = (f - reconstructed).square().mean(dim=1)
    kl = (mu.square() + torch.exp(log_variance) - 1 - log_variance).sum(dim=1)
    return ((error + divergence * kl) * mask).sum() / mask.sum()


def _linear(w: Weights, layer: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{layer}.weight"] + w[f"{layer}.bias"]


class _Feed:
    """Batches for a stack: rows in an order drawn for each epoch, and noise drawn for each epoch and row.

    Both belong to (seed, task, epoch, row), so that all folds and betas of a task see the same draws.
    """

    def __init__(self, models: Sequence[_Model]) -> None:
        self._batch = models[0].options.vae_batch_size
        latent = models[0].options.latent
        steps, count = models[0].steps, len(models)
        padded = (steps, count, max(LEAST_ROWS, self._batch))
        self._features_at = np.zeros(padded, dtype=np.int64)
        self._noise_at = np.zeros(padded, dtype=np.int64)
        self._mask = np.zeros(padded, dtype=np.float32)
        features: dict[int, tuple[int, np.ndarray]] = {}
        draws: dict[tuple[int, str, int], _Draws] = {}
        for model in models:
            job = model.job
            key = (job.seed, job.task, len(job.features))
            epochs = math.ceil(model.steps / math.ceil(len(job.rows) / self._batch))
            draws.setdefault(key, _Draws(*key, latent)).extend(epochs)
        noise_start, end = {}, 0
        for key, drawn in draws.items():
            noise_start[key] = end
            end += len(drawn.orders) * key[2]
        end = 0
        for place, model in enumerate(models):
            job = model.job
            if id(model.features) not in features:
                features[id(model.features)] = (end, model.features)
                end += len(model.features)
            key = (job.seed, job.task, len(job.features))
            rows, epoch = draws[key].batches(job.rows, self._batch, model.steps)
            real = rows >= 0
            rows = np.maximum(rows, 0)
            self._features_at[: model.steps, place, : self._batch] = features[id(model.features)][0] + rows
            self._noise_at[: model.steps, place, : self._batch] = noise_start[key] + epoch * key[2] + rows
            self._mask[: model.steps, place, : self._batch] = real
        self._features = torch.from_numpy(np.concatenate([array for _, array in features.values()]))
        self._noise = torch.from_numpy(np.concatenate([n for d in draws.values() for n in d.noise]))

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features (M, B, D), noise (M, B, latent) and mask (M, B); for a model that has finished anything."""
        f = self._features[torch.from_numpy(self._features_at[step])]
        noise = self._noise[torch.from_numpy(self._noise_at[step])]
        return f, noise, torch.from_numpy(self._mask[step])


class _Draws:
    """The random numbers of one task: an order of its rows and noise (N, latent) for every epoch."""

    def __init__(self, seed: int, task: str, rows: int, latent: int) -> None:
        self._of, self._rows, self._latent = (seed, task), rows, latent
        self.orders: list[np.ndarray] = []
        self.noise: list[np.ndarray] = []

    def extend(self, epochs: int) -> None:
        for epoch in range(len(self.orders), epochs):
            seed, task = self._of
            self.orders.append(generator(seed, "vae-order", task, epoch).permutation(self._rows))
            random = generator(seed, "vae-noise", task, epoch)
            self.noise.append(random.standard_normal((self._rows, self._latent), dtype=np.float32))

    def batches(self, kept: np.ndarray, batch: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (steps, batch), -1 where a batch has no more, and the epoch of each batch (steps, 1)."""
        a_epoch = math.ceil(len(kept) / batch)
        chosen = np.isin(np.arange(self._rows), kept)
        epochs = math.ceil(steps / a_epoch)
        rows = np.full((epochs, a_epoch * batch), -1, dtype=np.int64)
        for epoch in range(epochs):
            order = self.orders[epoch]
            rows[epoch, : len(kept)] = order[chosen[order]]
        step_epochs = np.repeat(np.arange(epochs), a_epoch)[:steps, None]
        return rows.reshape(-1, batch)[:steps], step_epochs


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
