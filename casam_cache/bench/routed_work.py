"""What stages of routing compute: pooled vectors, densities, merged heads, and the description of a routed model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from casam_cache.bench.node import Work, takes_many
from casam_cache.bench.work import method_of
from casam_cache.config import validated
from casam_cache.errors import CasamError
from casam_cache.heads.files import load_head, save_head
from casam_cache.methods.routed import Routed
from casam_cache.routers.choice import PoolingChoice, RouterChoice, load_named
from casam_cache.routers.classifier import (
    ClassifierOptions,
    choose_exemplars,
    classifier_input,
    fit_classifier,
)
from casam_cache.routers.files import load_pooling, save_pooling, save_router
from casam_cache.routers.fit import FitRequest, fit_pooling, fit_routers
from casam_cache.routers.pooling import Read, pool_all
from casam_cache.training.stored import SplitView

FEATURES = "features.safetensors"
FOLD_FEATURES = "fold_features.safetensors"
CHOICES = "choices.safetensors"
MODEL = "model.json"


@takes_many
def pool(works: Sequence[Work]) -> list[dict[str, Any]]:
    """Every image of a split as one vector, in several ways from one reading of the embeddings.

    Writes float32 (N, D), one row an image in the order of the view.
    """
    first = works[0]
    view = first.split(first.task, first.inputs["split"], first.inputs["items"])
    poolings = [
        load_pooling(work.parents["query"]) if "query" in work.parents else _pooling(work).make()
        for work in works
    ]
    for work, found in zip(works, pool_all(_reader(view), len(view), poolings), strict=True):
        (work.result / FEATURES).write_bytes(save({"features": found}))
    return [{} for _ in works]


def query(work: Work) -> dict[str, Any]:
    """A task's learned pooling, and its training vectors: by the one fitted to all of them, and by those of K folds.

    The threshold's held-out scores must know nothing of the images held out, nor may their pooling.
    """
    view = work.split(work.task, "train", work.inputs["items"])
    groups = [view.item(index).group for index in range(len(view))]
    pooling, features, of_folds = fit_pooling(
        _pooling(work), _reader(view), groups,
        folds=work.inputs["folds"], seed=work.inputs["seed"], task=work.task,
    )  # fmt: skip
    save_pooling(pooling, work.result)
    (work.result / FEATURES).write_bytes(save({"features": features}))
    if of_folds is not None:
        (work.result / FOLD_FEATURES).write_bytes(save({"features": of_folds}))
    state = pooling.state().values()
    return {
        "bytes": sum(array.nbytes for array in state),
        "parameters": sum(array.size for array in state),
    }


@takes_many
def route(works: Sequence[Work]) -> list[dict[str, Any]]:
    """The density of each task from its pooled training vectors, many in one go, with held-out scores by group."""
    requests = []
    for work in works:
        load_named(work.place.references)
        view = work.split(work.task, "train", work.inputs["items"])
        choice = RouterChoice.restore(work.inputs["router"])
        groups = [view.item(index).group for index in range(len(view))]
        features, of_folds = read_features(work.parents["features"]), _fold_features(work.parents["features"])
        requests.append(FitRequest(features, groups, choice, work.inputs["seed"], work.task, of_folds))
    fitted = fit_routers(requests)
    for work, router in zip(works, fitted, strict=True):
        save_router(router, work.result, pooling=work.inputs["pooling"])
    return [
        {
            "parameters": router.router.trained_parameters,
            "bytes": router.router.stored_bytes,
            "folds": router.folds,
        }
        for router in fitted
    ]


def classify(work: Work) -> dict[str, Any]:
    """MoDA's classifier over a set of tasks, from exemplars of each, and where it sends the images of every set."""
    options = validated(ClassifierOptions, work.inputs["classifier"])
    assert isinstance(options, ClassifierOptions)
    seed, exemplars, size = work.inputs["seed"], {}, 0
    for task, content in work.inputs["items"]:
        view = work.split(task, "train", content)
        place = {view.item(index).id: index for index in range(len(view))}
        kept = choose_exemplars(list(place), options.exemplars, seed, task)
        exemplars[task] = [_classified(view, place[name], options) for name in kept]
        size += sum(image.nbytes for image in exemplars[task])
    classifier = fit_classifier(exemplars, options, seed)
    classifier.save(work.result)
    chosen = {}
    for task, split, content in work.inputs["splits"]:
        view = work.split(task, split, content)
        inputs = [_classified(view, index, options) for index in range(len(view))]
        chosen[f"{task}/{split}"] = classifier.predict(inputs)
    (work.result / CHOICES).write_bytes(save(chosen))
    return {"parameters": classifier.trained_parameters, "bytes": classifier.stored_bytes + size}


def read_choices(folder: Path, task: str, split: str) -> np.ndarray:
    """Where a `classify` stage sent the images of a set: places among its sorted tasks, int64 (N,).

    Raises:
        CasamError: missing or damaged.
    """
    return _read_arrays(folder / CHOICES)[f"{task}/{split}"]


def _classified(view: SplitView, index: int, options: ClassifierOptions) -> np.ndarray:
    valid = view.item(index).geometry.valid_grid
    return classifier_input(options, lambda name: view.feature(name, index), valid)


def merge(work: Work) -> dict[str, Any]:
    """The heads that a merging method uses after a set of tasks, one folder a task."""
    method = method_of(work)
    assert isinstance(method, Routed)
    backbone = work.backbone()
    heads = {task: load_head(work.parents[task], backbone) for task in sorted(work.parents)}
    merged = method.merge(backbone, work.inputs["seed"], heads)
    for task, head in merged.items():
        folder = work.result / task
        folder.mkdir()
        save_head(head, folder, task=task, method=method.name)
    first = next(iter(heads.values()))
    return {"parameters": first.trained_parameters(), "bytes": method.bytes_kept(heads)}


def model(work: Work) -> dict[str, Any]:
    """Which heads and routers make one routed model: what `casam predict --run` reads."""
    described = {key: work.inputs[key] for key in ("method", "options", "pooling", "router", "tasks")}
    folders = {role: [path.parent.name, path.name] for role, path in work.parents.items()}
    text = json.dumps({**described, "stages": folders}, indent=1, sort_keys=True)
    (work.result / MODEL).write_text(text + "\n")
    choice = _pooling(work)
    if not choice.learned:  # a learned one lies with each task
        save_pooling(choice.make(), work.result)
    task = work.inputs["tasks"][0]
    store = work.store(task)
    return {
        "store": str(store.path.resolve()),
        "identity": store.identity,
        "method": described["method"]["name"],
    }


def read_features(folder: Path) -> np.ndarray:
    """The vectors a `pool` stage wrote, float32 (N, D).

    Raises:
        CasamError: missing or damaged.
    """
    return _read_arrays(folder / FEATURES)["features"]


def _fold_features(folder: Path) -> np.ndarray | None:
    """float32 (K, N, D) of a pooling that was fitted to the task; None of one that was not."""
    path = folder / FOLD_FEATURES
    return _read_arrays(path)["features"] if path.exists() else None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays: dict[str, np.ndarray] = load(path.read_bytes())
        return arrays
    except (OSError, SafetensorError) as error:
        raise CasamError(
            f"{path} cannot be read: {error}", f"remove {path.parent} and run the command again"
        ) from None


def _pooling(work: Work) -> PoolingChoice:
    load_named(work.place.references)
    return PoolingChoice.restore(work.inputs["pooling"])


def _reader(view: SplitView) -> Read:
    return lambda index: (view.embedding(index), view.item(index).geometry.valid_grid)
