"""Options of MoDA's task classifier. No torch here: the command line checks them before anything heavy loads."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ClassifierOptions(BaseModel):
    """The classifier over the tasks seen; see `routers/classifier.py`. Defaults are MoDA's released code.

    Attributes:
        classifier: `tokens`, as released, on the stored task token; `query`, a surrogate on the embedding.
        exemplars: training images of each task that the classifier is refitted on.
        classifier_epochs: passes over all exemplars at each refit.
        classifier_learning_rate: of Adam.
        classifier_batch_size: exemplars a step; the paper's batch size, as no other is stated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classifier: Literal["tokens", "query"] = "tokens"
    exemplars: int = Field(default=10, ge=1)
    classifier_epochs: int = Field(default=10, ge=1)
    classifier_learning_rate: float = Field(default=1e-3, gt=0)
    classifier_batch_size: int = Field(default=6, ge=1)
