"""Options of poolings and routers. No torch here: the command line checks them before anything heavy loads."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Pooling = Literal["attention", "mean", "gap", "flatten", "cls", "learned"]
Rule = Literal["mu2s", "p95", "p97", "p99", "conformal", "none"]
RouterKind = Literal["vae", "centroid", "mahalanobis", "knn", "gmm"]

POOLINGS: tuple[str, ...] = get_args(Pooling)
RULES: tuple[str, ...] = get_args(Rule)
ROUTERS: tuple[str, ...] = get_args(RouterKind)


class PoolingOptions(BaseModel):
    """How an embedding becomes one vector (Table 5); see `routers/pooling.py`.

    Attributes:
        pooling: `attention` is the paper's equation 5.
        temperature: T of `attention` and `learned`; the others have none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pooling: Pooling = "attention"
    temperature: float = Field(default=1.0, gt=0)

    def decisive(self) -> dict[str, Any]:
        """What the pooled vectors depend on, as plain JSON: no temperature where it has no effect."""
        if self.pooling in ("attention", "learned"):
            return {"pooling": self.pooling, "temperature": self.temperature}
        return {"pooling": self.pooling}


class VAEOptions(BaseModel):
    """The paper's router: one variational autoencoder a task (equation 6, section 4.1.2).

    Attributes:
        latent: dimensions of z.
        hidden: width between the two layers of encoder and decoder; the paper does not say.
        beta: weight of the KL divergence.
        kl: `sum` over the latent dimensions as equation 6 is written, or their `mean`.
        vae_epochs: passes over the task's training vectors.
        vae_steps: optimiser steps, in place of `vae_epochs`: tasks of few images need more than ten passes.
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
    vae_steps: int | None = Field(default=None, ge=1)
    vae_learning_rate: float = Field(default=5e-4, gt=0)
    vae_batch_size: int = Field(default=6, ge=1)
    standardise: Literal["none", "task"] = "none"


class CentroidOptions(BaseModel):
    """Distance to the task's mean: nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MahalanobisOptions(BaseModel):
    """Distance to the task's mean in the metric of a covariance.

    Attributes:
        covariance: `shared` by all tasks seen so far, or each task's `own`.
        shrinkage: weight of a multiple of the identity in the covariance; None: the oracle approximating
            shrinkage, from the data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    covariance: Literal["shared", "own"] = "shared"
    shrinkage: float | None = Field(default=None, ge=0, le=1)


class NeighbourOptions(BaseModel):
    """Mean distance to the nearest training vectors.

    Attributes:
        neighbours: how many (k); at most as many as there are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    neighbours: int = Field(default=3, ge=1)


class MixtureOptions(BaseModel):
    """A mixture of Gaussians with diagonal covariances.

    Attributes:
        components: how many Gaussians; at most as many as there are training vectors.
        iterations: of expectation and maximisation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    components: int = Field(default=2, ge=1)
    iterations: int = Field(default=50, ge=1)


class RouterOptions(VAEOptions, MahalanobisOptions, NeighbourOptions, MixtureOptions):
    """Everything about a router in one flat model; the options of other kinds of router are ignored.

    Attributes:
        router: kind of density fitted to each task.
        threshold: rule that makes tau from held-out scores; `none` never falls back.
        folds: K of the calibration; at most the number of groups.
        strict: fall back unless s < tau (Algorithm 7) instead of s <= tau (section 3.3).
    """

    router: RouterKind = "vae"
    threshold: Rule = "p97"
    folds: int = Field(default=5, ge=2)
    strict: bool = False

    def scorer(self) -> BaseModel:
        """The options of this kind of router alone: what its scores depend on, beside `folds`."""
        kind = SCORERS[self.router]
        return kind(**{name: getattr(self, name) for name in kind.model_fields})

    def decisive(self) -> dict[str, Any]:
        """What a fit depends on, as plain JSON: thresholds and the options of other kinds have no part in it."""
        scorer = self.scorer().model_dump(mode="json")
        if scorer.get("vae_steps") is not None:
            del scorer["vae_epochs"]
        return {"router": self.router, "folds": self.folds, **scorer}


SCORERS: dict[str, type[BaseModel]] = {
    "vae": VAEOptions,
    "centroid": CentroidOptions,
    "mahalanobis": MahalanobisOptions,
    "knn": NeighbourOptions,
    "gmm": MixtureOptions,
}
