"""Routers and poolings on disk: arrays in router.safetensors, what they mean in router.json; `pooling.*` likewise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from casam_cache.config import validated
from casam_cache.errors import CasamError
from casam_cache.registry import revision_of
from casam_cache.routers.base import Router
from casam_cache.routers.choice import RouterChoice
from casam_cache.routers.fitted import FittedRouter
from casam_cache.routers.pooling import Pooling
from casam_cache.routers.registry import POOLINGS, ROUTERS

VERSION = 2
_STATE = "state."


def save_router(router: FittedRouter, folder: Path, **recorded: Any) -> None:
    """Writes router.safetensors and router.json into `folder`, which must exist.

    Args:
        router: what to write.
        folder: where; the file of a router that is not installed is copied there too.
        recorded: plain JSON kept beside it, e.g. the pooling.
    """
    arrays = {_STATE + name: array for name, array in router.router.state().items()}
    arrays |= {"held_out": router.held_out, "fold": router.fold}
    thresholds = {name: tau if math.isfinite(tau) else None for name, tau in router.thresholds().items()}
    description = {
        "router": ROUTERS.describe(router.choice.kind, folder),
        "revision": revision_of(router.choice.kind),
        "options": router.choice.options.model_dump(mode="json"),
        "folds": router.choice.folds,
        "folds_used": router.folds,
        "task": router.task,
        "seed": router.seed,
        "images": router.images,
        "groups": router.groups,
        "channels": router.channels,
        "thresholds": thresholds,
        "stored_numbers": router.router.stored_numbers,
        "stored_bytes": router.router.stored_bytes,
        "trained_parameters": router.router.trained_parameters,
        "recorded": recorded,
    }
    _write(folder, "router", arrays, description)


def load_router(folder: Path, *, trust: bool = False) -> FittedRouter:
    """The router that `save_router` wrote: the same bits, with the default rule for its threshold.

    Args:
        folder: where.
        trust: run the Python file that lies beside it, whoever wrote it; else only one that this user has run before.

    Raises:
        CasamError: if the files are missing, damaged, of another version, or bring code that is not trusted.
    """
    described, arrays = _read(folder, "router")
    try:
        kind = ROUTERS.restore(described["router"], folder, trust=trust)
        options = validated(kind.Options, described["options"])
        state = {name.removeprefix(_STATE): a for name, a in arrays.items() if name.startswith(_STATE)}
        channels = int(described["channels"])
        return FittedRouter(
            task=str(described["task"]),
            choice=RouterChoice(kind, options, int(described["folds"])),
            seed=int(described["seed"]),
            router=_tried(kind.from_state(state, options), channels),
            held_out=arrays["held_out"].astype(np.float64, copy=False),
            fold=arrays["fold"],
            images=int(described["images"]),
            groups=int(described["groups"]),
            channels=channels,
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise _unreadable(folder, "router", error) from None


def save_pooling(pooling: Pooling, folder: Path) -> None:
    """Writes pooling.safetensors and pooling.json into `folder`, which must exist.

    Args:
        pooling: fitted, if it is a learned one.
        folder: where; the file of a pooling that is not installed is copied there too.
    """
    description = {
        "pooling": POOLINGS.describe(type(pooling), folder),
        "revision": revision_of(type(pooling)),
        "options": pooling.options.model_dump(mode="json"),
    }
    _write(folder, "pooling", pooling.state(), description)


def load_pooling(folder: Path, *, trust: bool = False) -> Pooling:
    """The pooling that `save_pooling` wrote: the same bits.

    Args:
        folder: where.
        trust: as in `load_router`.

    Raises:
        CasamError: as `load_router`.
    """
    described, arrays = _read(folder, "pooling")
    try:
        kind = POOLINGS.restore(described["pooling"], folder, trust=trust)
        return kind.from_state(arrays, validated(kind.Options, described["options"]))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise _unreadable(folder, "pooling", error) from None


def _tried(router: Router, channels: int) -> Router:
    """The router, tried on one vector: arrays that do not fit together show here."""
    if not np.isfinite(router.score(np.zeros((1, channels), dtype=np.float32))).all():
        raise ValueError("its scores are not finite")
    return router


def _write(folder: Path, name: str, arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    (folder / f"{name}.safetensors").write_bytes(save(contiguous))
    text = json.dumps({"version": VERSION, **description}, indent=1, sort_keys=True)
    (folder / f"{name}.json").write_text(text + "\n")


def _read(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        described = json.loads((folder / f"{name}.json").read_text())
        arrays = load((folder / f"{name}.safetensors").read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(folder, name, error) from None
    version = described.get("version") if isinstance(described, dict) else None
    if version != VERSION:
        raise CasamError(
            f"the {name} in {folder} has format {version}, this release reads {VERSION}",
            "use the release that wrote it, or fit it again",
        )
    return described, arrays


def _unreadable(folder: Path, name: str, error: Exception) -> CasamError:
    return CasamError(f"no readable {name} in {folder}: {error}", "fit it again")
