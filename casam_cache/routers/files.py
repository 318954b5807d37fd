"""Routers on disk: router.safetensors with the arrays, router.json with what they mean."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.config import validated
from casam_cache.errors import CasamError
from casam_cache.routers.base import Scorer
from casam_cache.routers.fitted import FittedRouter
from casam_cache.routers.options import RouterOptions

ARRAYS = "router.safetensors"
DESCRIPTION = "router.json"
VERSION = 1
_STATE = "scorer."


def save_router(router: FittedRouter, folder: Path, **recorded: Any) -> None:
    """Writes router.safetensors and router.json into `folder`, which must exist.

    Args:
        router: what to write.
        folder: where.
        recorded: plain JSON kept beside it, e.g. the pooling.
    """
    from safetensors.numpy import save

    arrays = {_STATE + name: array for name, array in router.scorer.state().items()}
    arrays |= {"held_out": router.held_out, "fold": router.fold}
    (folder / ARRAYS).write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    thresholds = {name: tau if math.isfinite(tau) else None for name, tau in router.thresholds().items()}
    description = {
        "version": VERSION,
        "task": router.task,
        "options": router.options.model_dump(mode="json"),
        "seed": router.seed,
        "images": router.images,
        "groups": router.groups,
        "channels": router.channels,
        "folds": router.folds,
        "thresholds": thresholds,
        "stored_numbers": router.scorer.stored_numbers,
        "stored_bytes": router.scorer.stored_bytes,
        "trained_parameters": router.scorer.trained_parameters,
        "recorded": recorded,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")


def load_router(folder: Path) -> FittedRouter:
    """The router that `save_router` wrote: the same bits.

    Raises:
        CasamError: if the files are missing, damaged, or of another version.
    """
    described, arrays = _read(folder)
    try:
        options = validated(RouterOptions, described["options"])
        assert isinstance(options, RouterOptions)
        state = {name.removeprefix(_STATE): a for name, a in arrays.items() if name.startswith(_STATE)}
        return FittedRouter(
            task=str(described["task"]),
            options=options,
            seed=int(described["seed"]),
            scorer=_scorer(options, state, int(described["channels"])),
            held_out=arrays["held_out"].astype(np.float64, copy=False),
            fold=arrays["fold"],
            images=int(described["images"]),
            groups=int(described["groups"]),
            channels=int(described["channels"]),
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise _unreadable(folder, error) from None


def _scorer(options: RouterOptions, state: dict[str, np.ndarray], channels: int) -> Scorer:
    """The scorer of a state, tried on one vector: arrays that do not fit together show here."""
    from casam_cache.routers.centroid import CentroidScorer
    from casam_cache.routers.mahalanobis import MahalanobisScorer
    from casam_cache.routers.mixture import MixtureScorer
    from casam_cache.routers.neighbours import NeighbourScorer
    from casam_cache.routers.vae import VAEScorer

    kinds: tuple[type[Scorer], ...] = (
        CentroidScorer, MahalanobisScorer, MixtureScorer, NeighbourScorer, VAEScorer,
    )  # fmt: skip
    found = {kind.kind: kind for kind in kinds}[options.router].from_state(state, options.scorer())
    if not np.isfinite(found.score(np.zeros((1, channels), dtype=np.float32))).all():
        raise ValueError("its scores are not finite")
    return found


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        arrays = load((folder / ARRAYS).read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(folder, error) from None
    version = described.get("version") if isinstance(described, dict) else None
    if version != VERSION:
        raise CasamError(
            f"the router in {folder} has format {version}, this release reads {VERSION}",
            "use the release that wrote it, or fit it again",
        )
    return described, arrays


def _unreadable(folder: Path, error: Exception) -> CasamError:
    return CasamError(f"no readable router in {folder}: {error}", "fit it again")
