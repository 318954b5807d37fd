"""MoDA's task classifier: softmax regression on one vector an image, refitted on exemplars after each task.

Two vectors an image (`ClassifierOptions.classifier`):

- `tokens`, after MoDA's released code: the task token that heard the image in every frozen block, stored as
  `tokens` at encode time (docs/features.md). Neither the tokens nor the encoder are trained; a Linear(width -> T) is.
- `query`, a surrogate for stores without tokens: attention pooling of the embedding's valid cells with one trained
  query w, f = sum softmax(w . z / sqrt(C)) z, learned together with Linear(C -> T). w starts at zero: the mean.

The classifier always names a task it has seen: it has no way to say "none of them", so images of unseen domains go to
some task's head. Each refit starts anew from (seed, the sorted tasks): the order of the tasks has no part in it.

Everything is computed in float64 without BLAS, so that the bits depend on no thread count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from casam_cache.config import validated
from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator

ARRAYS = "classifier.safetensors"
DESCRIPTION = "classifier.json"
VERSION = 1


class ClassifierOptions(BaseModel):
    """The classifier over the tasks seen. Defaults are MoDA's released code.

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


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier over the tasks seen.

    Attributes:
        tasks: sorted names; predictions are indexes into them.
        options: it was fitted with.
        seed: of the run.
        weight: float32 (T, D).
        bias: float32 (T,).
        query: float32 (C,) with `classifier=query`, else None.
    """

    tasks: tuple[str, ...]
    options: ClassifierOptions
    seed: int
    weight: np.ndarray
    bias: np.ndarray
    query: np.ndarray | None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        found = {"weight": self.weight, "bias": self.bias}
        return found if self.query is None else {**found, "query": self.query}

    @property
    def trained_parameters(self) -> int:
        return sum(array.size for array in self.arrays.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weights; exemplars cost what they take in the store."""
        return sum(array.nbytes for array in self.arrays.values())

    def logits(self, features: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """One score a task for each image, float64 (N, T); see `classifier_input` for `features`."""
        weight, bias = self.weight.astype(np.float64), self.bias.astype(np.float64)
        query = None if self.query is None else self.query.astype(np.float64)
        scores = [
            np.einsum("td,d->t", weight, _pool(feature, query)[0], optimize=False) + bias
            for feature in features
        ]
        return np.stack(scores) if scores else np.zeros((0, len(self.tasks)))

    def predict(self, features: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """The place of each image's task in `tasks`, int64 (N,): always a task seen, never a fallback."""
        return self.logits(features).argmax(axis=1)

    def save(self, folder: Path, **recorded: Any) -> None:
        """Writes classifier.safetensors and classifier.json into `folder`, which must exist.

        Args:
            folder: where.
            recorded: plain JSON kept beside it, e.g. the exemplars.
        """
        from safetensors.numpy import save

        (folder / ARRAYS).write_bytes(save(self.arrays))
        description = {
            "version": VERSION,
            "tasks": list(self.tasks),
            "options": self.options.model_dump(mode="json"),
            "seed": self.seed,
            "trained_parameters": self.trained_parameters,
            "stored_bytes": self.stored_bytes,
            "recorded": recorded,
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """The classifier that `save` wrote: the same bits.

        Raises:
            CasamError: if the files are missing, damaged, or of another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            described = json.loads((folder / DESCRIPTION).read_text())
            arrays = load((folder / ARRAYS).read_bytes())
            if described["version"] != VERSION:
                raise ValueError(f"format {described['version']}, this release reads {VERSION}")
            options = validated(ClassifierOptions, described["options"])
            assert isinstance(options, ClassifierOptions)
            weight, bias = arrays["weight"], arrays["bias"]
            if len(weight) != len(bias) or len(bias) != len(described["tasks"]):
                raise ValueError("weights and tasks are not as many")
            query = arrays["query"] if options.classifier == "query" else None
            return cls(tuple(described["tasks"]), options, int(described["seed"]), weight, bias, query)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CasamError(f"no readable classifier in {folder}: {error}", "fit it again") from None


def classifier_options(options: BaseModel) -> ClassifierOptions:
    own = {name: getattr(options, name) for name in ClassifierOptions.model_fields if hasattr(options, name)}
    return ClassifierOptions(**own)


def classifier_input(
    options: ClassifierOptions, read: Callable[[str], np.ndarray], valid: tuple[int, int]
) -> np.ndarray:
    """What the classifier sees of one image.

    Args:
        options: which feature.
        read: a stored feature array of the image by name.
        valid: rows and columns of the grid that hold image (`Geometry.valid_grid`).

    Returns:
        (width,), the token, or (C, n), the n valid cells of the embedding, as stored.
    """
    if options.classifier == "tokens":
        return read("tokens")
    embedding = read("embedding")
    return embedding[:, : valid[0], : valid[1]].reshape(len(embedding), -1)


def choose_exemplars(ids: Sequence[str], count: int, seed: int, task: str) -> list[str]:
    """`count` of a task's training images, or all of fewer, sorted by id.

    Each image draws a number from (seed, task, id), and the smallest stay: neither the order of tasks nor that of
    images matters, and a further image takes the place of one other at most.
    """
    drawn = sorted((generator(seed, task, "exemplar", name).random(), name) for name in set(ids))
    return sorted(name for _, name in drawn[:count])


def fit_classifier(
    features: Mapping[str, Sequence[np.ndarray] | np.ndarray], options: ClassifierOptions, seed: int
) -> Classifier:
    """Cross-entropy over all exemplars of the tasks seen, with Adam.

    Args:
        features: of each task's exemplars, in a fixed order: one array an image, as `classifier_input` gives; or
            float32 (n, D) of a task's tokens.
        options: epochs, learning rate, batch size, which feature.
        seed: of the run. Initial weights and batches belong to (seed, sorted tasks).

    Raises:
        CasamError: a task has no exemplar.
    """
    tasks = sorted(features)
    empty = [task for task in tasks if not len(features[task])]
    if empty or not tasks:
        raise CasamError(f"no exemplars of {', '.join(empty) or 'any task'}: a classifier needs one at least")
    images = [image for task in tasks for image in features[task]]
    labels = np.repeat(np.arange(len(tasks)), [len(features[task]) for task in tasks])
    belongs_to: tuple[str | int, ...] = (seed, "classifier", *tasks)
    width = len(images[0])
    bound = width**-0.5  # torch's default for a Linear
    values = {
        "weight": generator(*belongs_to, "weight").uniform(-bound, bound, (len(tasks), width)),
        "bias": generator(*belongs_to, "bias").uniform(-bound, bound, len(tasks)),
    }
    if options.classifier == "query":
        values["query"] = np.zeros(width)
    adam = _Adam(values, options.classifier_learning_rate)
    size = options.classifier_batch_size
    for epoch in range(options.classifier_epochs):
        order = generator(*belongs_to, epoch).permutation(len(images))
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            adam.step(_gradients(values, [images[i] for i in batch], labels[batch]))
    kept = {name: value.astype(np.float32) for name, value in values.items()}
    return Classifier(tuple(tasks), options, seed, kept["weight"], kept["bias"], kept.get("query"))


def _pool(feature: np.ndarray, query: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """float64 (D,) of one image, and the attention over its cells where there is a query."""
    cells = np.asarray(feature, dtype=np.float64)
    if query is None:
        return cells, None
    scores = np.einsum("c,cn->n", query, cells, optimize=False) / np.sqrt(len(query))
    attention = np.exp(scores - scores.max())
    attention /= attention.sum()
    return np.einsum("cn,n->c", cells, attention, optimize=False), attention


def _gradients(
    values: Mapping[str, np.ndarray], images: Sequence[np.ndarray], labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Of the mean cross-entropy of a batch."""
    query = values.get("query")
    pooled = [_pool(image, query) for image in images]
    vectors = np.stack([vector for vector, _ in pooled])  # (B, D)
    logits = np.einsum("bd,td->bt", vectors, values["weight"], optimize=False) + values["bias"]
    error = np.exp(logits - logits.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    found = {
        "weight": np.einsum("bt,bd->td", error, vectors, optimize=False),
        "bias": error.sum(axis=0),
    }
    if query is not None:
        slope = np.zeros_like(query)
        upstream = np.einsum("bt,td->bd", error, values["weight"], optimize=False)
        for image, own, (_, attention) in zip(images, upstream, pooled, strict=True):
            assert attention is not None
            cells = np.asarray(image, dtype=np.float64)
            asked = np.einsum("cn,c->n", cells, own, optimize=False)
            asked = attention * (asked - (attention * asked).sum())
            slope += np.einsum("cn,n->c", cells, asked, optimize=False) / np.sqrt(len(query))
        found["query"] = slope
    return found


class _Adam:
    """Adam on float64 arrays, in place, with torch's defaults."""

    def __init__(self, values: dict[str, np.ndarray], rate: float) -> None:
        self._values, self._rate, self._steps = values, rate, 0
        self._first = {name: np.zeros_like(value) for name, value in values.items()}
        self._second = {name: np.zeros_like(value) for name, value in values.items()}

    def step(self, gradients: Mapping[str, np.ndarray]) -> None:
        self._steps += 1
        for name, gradient in gradients.items():
            self._first[name] += 0.1 * (gradient - self._first[name])
            self._second[name] += 0.001 * (gradient**2 - self._second[name])
            mean = self._first[name] / (1 - 0.9**self._steps)
            deviation = np.sqrt(self._second[name] / (1 - 0.999**self._steps))
            self._values[name] -= self._rate * mean / (deviation + 1e-8)
