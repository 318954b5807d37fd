"""A run as `segment_anything`'s Sam, for SamPredictor, SamAutomaticMaskGenerator and whatever else takes one."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from casam_cache.bench.opened_run import open_run
from casam_cache.errors import CasamError
from casam_cache.export.one_head import Aligning, one_head, sam_decoding

SAM_RESIZE = "pillow-bilinear"  # what SamPredictor resizes with, as identities name it


def load_sam(
    run: Path | str | None,
    *,
    task: str | None = None,
    single_mask: bool = False,
    checkpoint: Path | str | None = None,
    model: str | None = None,
    store: Path | str | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Any:
    """A `segment_anything.modeling.Sam` whose encoder ends in the fitted layer, in evaluation mode.

    It computes in float32 and does not round the embedding as a store does. Its `preprocess` is the backbone's.

    Args:
        run: folder of a fit or of a bench's result; None is the frozen SAM.
        task: of a routed model, whose head to take.
        single_mask: give the single mask, the one that fits train, also where three are asked for, as
            SamAutomaticMaskGenerator does.
        checkpoint: where the checkpoint is now, if not where it was when the run's store was encoded.
        model: backbone of the frozen SAM where no run names one.
        store: a store or the folder of stores, for a run that does not carry its backbone.
        device: `auto`, `cpu`, `cuda`, ...
        trust: run the Python files that a run brings; else only those that this user has run before.

    Raises:
        CasamError: the run or its checkpoint cannot be used, its head is not one that a Sam has a place for, or
            `segment_anything` cannot be imported, which needs a torchvision that fits torch.
    """
    adapted = _adapted_sam()
    opened = open_run(
        run, model=model, checkpoint=None if checkpoint is None else Path(checkpoint),
        stores=None if store is None else Path(store), device=device, trust=trust,
    )  # fmt: skip
    head, _ = one_head(opened, task)
    backbone = sam_decoding(opened, head)
    described = opened.identity["preprocessing"]
    stretched = described["resize"] == "stretch"
    _tell_of_resizing(backbone.image_size, described, stretched)
    return adapted(
        backbone, Aligning(head), single=single_mask, stretched=stretched,
        mean=described.get("mean"), deviation=described.get("std"),
    ).requires_grad_(False)  # fmt: skip


def _tell_of_resizing(side: int, described: Mapping[str, Any], stretched: bool) -> None:
    """Warns where SamPredictor would not resize as the run's store did."""
    filtered = described.get("interpolation", SAM_RESIZE)
    if stretched or filtered != SAM_RESIZE:
        how = "stretched to a square" if stretched else "resized"
        warnings.warn(
            f"the run's images were {how} by {filtered}, and SamPredictor resizes otherwise: give it images of "
            f"{side} x {side} pixels that were resized so, which it takes as they are",
            stacklevel=3,
        )


def _adapted_sam() -> Any:
    """The class, once `segment_anything` can be imported."""
    before = set(sys.modules)
    try:
        return importlib.import_module("casam_cache.backbones.adapted_sam").AdaptedSam
    except (ImportError, RuntimeError, OSError) as error:
        # Python keeps the submodules of a package whose import failed; they would spoil an import after the repair.
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "segment_anything":
                del sys.modules[name]
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        try:
            installed = importlib.metadata.version("torchvision")
        except importlib.metadata.PackageNotFoundError:
            fix = "pip install torchvision"
        else:
            fix = (
                f"torchvision {installed} seems not to fit torch {torch.__version__}: install both from one place, as "
                "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
            )
        raise CasamError(
            f"segment_anything cannot be imported, which needs torchvision: {reason}", fix
        ) from error
