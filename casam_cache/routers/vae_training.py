"""Training many variational autoencoders at once: all tasks, folds, betas and seeds of one shape in a stack.

`torch.func` differentiates the loss of one model and `vmap` runs it over the stack. What a model computes depends on
its own job alone, to the last bit on a CPU:

- every batch is padded to `batch_size` rows and masked, so that no matrix has another shape in other company;
- batches, noise and initial weights are drawn from what they belong to;
- a model that has taken its steps leaves the stack;
- one thread computes, so that no sum is cut where the number of threads says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.func import grad, vmap

from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.routers.base import Job
from casam_cache.routers.options import VAEOptions
from casam_cache.routers.vae import VAEScorer, initial_weights

Weights = dict[str, torch.Tensor]
STACK_FLOATS = 4 * 2**20  # parameters in one stack: with Adam's moments and gradients about 64 MB
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


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


def fit_many(jobs: Sequence[Job], *, progress: Callable[[int, int], None] | None = None) -> list[VAEScorer]:
    """One trained VAE a job.

    Args:
        jobs: any; those of one shape, batch size and learning rate train together.
        progress: called with model steps done and to do.

    Raises:
        CasamError: if a training diverged.
    """
    models = [_prepare(job) for job in jobs]
    stacks: dict[tuple[object, ...], list[int]] = {}
    for number, model in enumerate(models):
        o = model.options
        key = (model.features.shape[1], o.latent, o.hidden, o.batch_size, o.learning_rate)
        stacks.setdefault(key, []).append(number)
    total, done = sum(model.steps for model in models), 0
    scorers: dict[int, VAEScorer] = {}
    with _one_thread():
        for numbers in stacks.values():
            for chunk in _chunks(sorted(numbers, key=lambda number: -models[number].steps), models):
                trained = _train([models[number] for number in chunk])
                for number, weights in zip(chunk, trained, strict=True):
                    model = models[number]
                    scorers[number] = VAEScorer(weights, model.options, model.mean, model.deviation)
                    done += model.steps
                if progress is not None:
                    progress(done, total)
    return [scorers[number] for number in range(len(jobs))]


def _prepare(job: Job) -> _Model:
    options = cast(VAEOptions, job.options)
    steps = options.steps or options.epochs * math.ceil(len(job.rows) / options.batch_size)
    if options.standardise == "none":
        return _Model(job, options, job.features, None, None, steps)
    seen = job.features[job.rows].astype(np.float64)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    deviation = np.maximum(deviation, 1e-3 * deviation.mean() or 1.0)
    mean, deviation = mean.astype(np.float32), deviation.astype(np.float32)
    features = ((job.features.astype(np.float64) - mean) / deviation).astype(np.float32)
    return _Model(job, options, features, mean, deviation, steps)


def _chunks(numbers: Sequence[int], models: Sequence[_Model]) -> Iterator[Sequence[int]]:
    """Stacks that stay in a CPU's cache reasonably well."""
    o, channels = models[numbers[0]].options, models[numbers[0]].features.shape[1]
    size = max(1, STACK_FLOATS // (o.hidden * (2 * channels + 3 * o.latent)))
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _train(models: Sequence[_Model]) -> list[dict[str, np.ndarray]]:
    """Train a stack of equal shape, longest first; returns each model's weights."""
    options, channels = models[0].options, models[0].features.shape[1]
    start = {m.job.seed: initial_weights(channels, options, m.job.seed) for m in models}
    weights: Weights = {
        name: torch.from_numpy(np.stack([start[m.job.seed][name] for m in models]))
        for name in start[models[0].job.seed]
    }
    moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
    divergence = torch.tensor(
        [m.options.beta / 2 / (m.options.latent if m.options.kl == "mean" else 1) for m in models]
    )
    feed = _Feed(models)
    gradient = vmap(grad(_loss))
    for step in range(models[0].steps):
        active = sum(model.steps > step for model in models)
        f, noise, mask = feed.batch(step, active)
        found = gradient({n: w[:active] for n, w in weights.items()}, f, noise, mask, divergence[:active])
        for name, slope in found.items():
            first, second = moments[name]
            _adam(weights[name][:active], slope, first[:active], second[:active], step, options.learning_rate)
    trained = [{name: w[i].numpy().copy() for name, w in weights.items()} for i in range(len(models))]
    for model, arrays in zip(models, trained, strict=True):
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise CasamError(
                f"the VAE of {model.job.task} diverged",
                "a smaller learning_rate, or standardise=task, keeps the training stable",
            )
    return trained


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


def _adam(
    w: torch.Tensor, slope: torch.Tensor, first: torch.Tensor, second: torch.Tensor, step: int, rate: float
) -> None:
    """One step of Adam, in place."""
    first.mul_(BETAS[0]).add_(slope, alpha=1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
    scale = second.sqrt().div_(math.sqrt(1 - BETAS[1] ** (step + 1))).add_(EPSILON)
    w.addcdiv_(first, scale, value=-rate / (1 - BETAS[0] ** (step + 1)))


class _Feed:
    """Batches for a stack: rows in an order drawn for each epoch, and noise drawn for each epoch and row.

    Both belong to (seed, task, epoch, row), so that all folds and betas of a task see the same draws.
    """

    def __init__(self, models: Sequence[_Model]) -> None:
        self._batch = models[0].options.batch_size
        latent = models[0].options.latent
        steps, count = models[0].steps, len(models)
        self._features_at = np.zeros((steps, count, self._batch), dtype=np.int64)
        self._noise_at = np.zeros((steps, count, self._batch), dtype=np.int64)
        self._mask = np.zeros((steps, count, self._batch), dtype=np.float32)
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
            self._features_at[: model.steps, place] = features[id(model.features)][0] + rows
            self._noise_at[: model.steps, place] = noise_start[key] + epoch * key[2] + rows
            self._mask[: model.steps, place] = real
        self._features = torch.from_numpy(np.concatenate([array for _, array in features.values()]))
        self._noise = torch.from_numpy(np.concatenate([n for d in draws.values() for n in d.noise]))

    def batch(self, step: int, active: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features (M, B, D), noise (M, B, latent) and mask (M, B) of the first `active` models."""
        f = self._features[torch.from_numpy(self._features_at[step, :active])]
        noise = self._noise[torch.from_numpy(self._noise_at[step, :active])]
        return f, noise, torch.from_numpy(self._mask[step, :active])


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
