"""Stores, views and decoders that stage functions read, opened once a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.encode.sources import decoder_of
from casam_cache.errors import StoreError
from casam_cache.store import EmbeddingStore, store_path
from casam_cache.training.stored import SplitView, open_split


@lru_cache(maxsize=64)
def store_of(stores: str, task: str, model: str) -> EmbeddingStore:
    """The store of a task."""
    return EmbeddingStore.open(store_path(Path(stores), task, model))


@lru_cache(maxsize=4)
def backbone_of(stores: str, weights: str, device: str) -> Backbone:
    """Prompt encoder and mask decoder of the backbone with these weights."""
    return decoder_of(Path(stores), weights, torch.device(device))


@lru_cache(maxsize=128)
def split_of(stores: str, task: str, model: str, split: str, content: str) -> SplitView:
    """The view of a split that held `content` when a plan was made.

    Raises:
        StoreError: it holds something else now.
    """
    view = open_split(store_of(stores, task, model), split, task)
    if view.content != content:  # a worker that lives longer than a plan may have the store open as it was
        view = open_split(EmbeddingStore.open(store_path(Path(stores), task, model)), split, task)
    if view.content != content:
        raise StoreError(
            f"the {split} split of task '{task}' has changed since the plan was made",
            "run the command again: it plans with what is there now",
        )
    return view


def forget_sources() -> None:
    """Drops what is kept open, so that a new plan sees stores as they are now."""
    for cache in (store_of, backbone_of, split_of):
        cache.cache_clear()
