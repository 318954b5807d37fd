"""The variational autoencoder of a task as a router (equation 6). Scoring is NumPy; only training needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from casam_cache.fingerprint import generator
from casam_cache.routers.base import Job, Progress, Router, by_blocks


class VAEOptions(BaseModel):
    """The paper's router: one variational autoencoder a task (equation 6, section 4.1.2).

    Attributes:
        latent: dimensions of z.
        hidden: width between the two layers of encoder and decoder; the paper does not say.
        beta: weight of the KL divergence.
        kl: `sum` over the latent dimensions as equation 6 is written, or their `mean`.
        vae_epochs: passes over the task's training vectors; the paper's ten.
        vae_min_steps: more passes where those are fewer optimiser steps: tasks of tens of images need it.
        vae_steps: optimiser steps, in place of both.
        vae_learning_rate: of Adam.
        vae_batch_size: vectors a step; the paper states 6 for its experiments in general.
        standardise: `task` subtracts the mean and divides by the deviation of the task's own training
            vectors; the paper states nothing: `none`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    latent: int = Field(default=64, ge=1)
    hidden: int = Field(default=128, ge=1)
    beta: float = Field(default=16.5, ge=0)
    kl: Literal["sum", "mean"] = "sum"
    vae_epochs: int = Field(default=10, ge=1)
    vae_min_steps: int = Field(default=500, ge=0)
    vae_steps: int | None = Field(default=None, ge=1)
    vae_learning_rate: float = Field(default=5e-4, gt=0)
    vae_batch_size: int = Field(default=6, ge=1)
    standardise: Literal["none", "task"] = "none"


def shapes(channels: int, options: VAEOptions) -> dict[str, tuple[int, ...]]:
    """The parameters of a two-layer encoder, D -> hidden -> (mean, log variance), and a two-layer decoder."""
    hidden, latent = options.hidden, options.latent
    return {
        "encode1.weight": (channels, hidden),
        "encode1.bias": (hidden,),
        "encode2.weight": (hidden, 2 * latent),
        "encode2.bias": (2 * latent,),
        "decode1.weight": (latent, hidden),
        "decode1.bias": (hidden,),
        "decode2.weight": (hidden, channels),
        "decode2.bias": (channels,),
    }


def initial_weights(channels: int, options: VAEOptions, seed: int) -> dict[str, np.ndarray]:
    """Every task's VAE starts at the same float32 weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    They depend on the seed and the shape of the network alone.
    """
    sizes = shapes(channels, options)
    weights = {}
    for name, shape in sizes.items():
        bound = sizes[name.replace("bias", "weight")][0] ** -0.5
        random = generator(seed, "vae", channels, options.hidden, options.latent, name)
        weights[name] = random.uniform(-bound, bound, size=shape).astype(np.float32)
    return weights


class VAE(Router):
    """s(f) = ||f - fhat||^2 / D + beta/2 sum(mu^2 + sigma^2 - 1 - log sigma^2), with z = mu.

    Args:
        weights: float32, as `shapes` names them; matrices are (in, out).
        options: `beta` and `kl` are read.
        mean, deviation: float32 (D,), what features are standardised by; None: not at all.
    """

    name = "vae"
    Options = VAEOptions

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        options: VAEOptions,
        mean: np.ndarray | None = None,
        deviation: np.ndarray | None = None,
    ) -> None:
        channels = len(weights["decode2.bias"])
        for name, shape in shapes(channels, options).items():
            if weights[name].shape != shape:
                raise ValueError(f"{name} is {weights[name].shape}, expected {shape}")
        self.weights, self.options = dict(weights), options
        self.mean, self.deviation = mean, deviation
        self._exact = {name: array.astype(np.float64) for name, array in weights.items()}

    @classmethod
    def fit(cls, job: Job) -> Self:
        return cls.fit_many([job])[0]

    @classmethod
    def fit_many(cls, jobs: Sequence[Job], progress: Progress | None = None) -> list[Self]:
        """Those of one shape, batch size and learning rate train together; progress counts optimiser steps.

        Raises:
            CasamError: if a training diverged.
        """
        from casam_cache.routers.vae_training import train_many  # torch

        return [
            cls(one.weights, one.options, one.mean, one.deviation)
            for one in train_many(jobs, progress=progress)
        ]

    @classmethod
    def decisive(cls, options: BaseModel) -> dict[str, Any]:
        """Steps take the place of epochs."""
        plain = super().decisive(options)
        if plain["vae_steps"] is not None:
            del plain["vae_epochs"], plain["vae_min_steps"]
        return plain

    def score(self, features: np.ndarray) -> np.ndarray:
        """(M, D) -> float64 (M,); a vector far from anything seen may score infinity."""
        if self.mean is not None and self.deviation is not None:
            features = (features.astype(np.float64) - self.mean) / self.deviation
        with np.errstate(over="ignore"):
            return by_blocks(self._elbo, features)

    def _elbo(self, f: np.ndarray) -> np.ndarray:
        w, latent = self._exact, self.options.latent
        encoded = np.maximum(f @ w["encode1.weight"] + w["encode1.bias"], 0)
        encoded = encoded @ w["encode2.weight"] + w["encode2.bias"]
        mu, log_variance = encoded[:, :latent], encoded[:, latent:]
        decoded = np.maximum(mu @ w["decode1.weight"] + w["decode1.bias"], 0)
        decoded = decoded @ w["decode2.weight"] + w["decode2.bias"]
        divergence = np.square(mu) + np.exp(log_variance) - 1 - log_variance
        summed = divergence.sum(axis=1) if self.options.kl == "sum" else divergence.mean(axis=1)
        elbo: np.ndarray = np.square(f - decoded).mean(axis=1) + self.options.beta / 2 * summed
        return elbo

    def state(self) -> dict[str, np.ndarray]:
        extra = {"mean": self.mean, "deviation": self.deviation}
        return {**self.weights, **{name: array for name, array in extra.items() if array is not None}}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], options: BaseModel) -> Self:
        weights = {name: array for name, array in state.items() if "." in name}
        return cls(weights, cast(VAEOptions, options), state.get("mean"), state.get("deviation"))

    @property
    def trained_parameters(self) -> int:
        """Weights and biases of encoder and decoder."""
        return sum(array.size for array in self.weights.values())
