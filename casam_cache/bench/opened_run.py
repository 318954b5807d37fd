"""A run opened for prediction: its head or routed model with its backbone, whether or not its store is still there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.defaults import DEFAULT_MODEL
from casam_cache.backbones.devices import choose_device, choose_precision
from casam_cache.backbones.registry import load_backbone
from casam_cache.bench.routed_model import RoutedModel
from casam_cache.bench.run_kinds import FINDS_OBJECTS, WITHOUT_PROMPTS
from casam_cache.bench.tasks import find_store
from casam_cache.encode.backbone_source import BackboneSource
from casam_cache.encode.kept_backbones import KEPT
from casam_cache.encode.preprocessing import as_in_store, resize_of, with_preprocessing
from casam_cache.encode.sources import FOLDER as BESIDE_STORES
from casam_cache.engine.runs import RECORD, Record, read_record
from casam_cache.errors import CasamError, CheckpointError, OptionError
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head, head_class, load_head
from casam_cache.store import EmbeddingStore
from casam_cache.training.pixels import PIXELS

_KINDS = ("fit", "joint", "learn", "model")
_NAMED = "name the folder that `casam fit` printed as its run, or a run of `casam bench --json`"


@dataclass(frozen=True)
class OpenedRun:
    """A backbone and what was fitted on it, on one device and in evaluation mode.

    Attributes:
        backbone: with its encoder if that was asked for; without it where a decoder alone could be had.
        head: the fitted one; `identity` for the frozen SAM and for a routed model.
        routed: the routed model, or None.
        task: that the head was fitted to; empty for the frozen SAM, a routed model and a joint fit.
        identity: of the store it was fitted on: `backbone`, `preprocessing`, `precision`, `embedding` and what else a
            store's identity holds. For the frozen SAM that of a new store on this device.
        source: where the backbone is from; None where it was loaded by name.
    """

    backbone: Backbone
    head: Head
    routed: RoutedModel | None
    task: str
    identity: Mapping[str, Any]
    source: BackboneSource | None = field(default=None, repr=False)

    @property
    def needs(self) -> tuple[str, ...]:
        """What is read of an image, the embedding first; see `Head.needs`."""
        return self.head.needs if self.routed is None else self.routed.needs

    def with_encoder(self) -> OpenedRun:
        """The same run with the encoder, which is loaded now if it was not.

        Raises:
            CheckpointError: its checkpoint is missing, or holds other weights.
        """
        if self.backbone.encoder is not None or self.source is None:
            return self
        return replace(self, backbone=as_in_store(self.source.whole(self.backbone.device), self.identity))


def open_run(
    run: Path | str | None,
    *,
    model: str | None = None,
    checkpoint: Path | None = None,
    stores: Path | None = None,
    device: str = "auto",
    trust: bool = False,
    encoder: bool = True,
    pixels: bool = False,
) -> OpenedRun:
    """What predicts: a fit, a routed model, or the frozen SAM.

    A run carries what its head decodes with. Its encoder is loaded from the checkpoint its store was encoded with:
    official and bundled ones are found by name, others where they were, or where `checkpoint` says.

    Args:
        run: RUNS/KIND/KEY of a fit or of a routed model, wherever RUNS is now; None is the frozen SAM.
        model: backbone of the frozen SAM, by default `DEFAULT_MODEL`; with `stores` the name of the stores, needed
            where there are several. A run names its own: only one of before that was recorded, whose store is gone,
            needs it.
        checkpoint: where the checkpoint is now, if not where it was.
        stores: a store, or the folder of stores: where the run's is now, or what the frozen SAM is to be that of.
        device: `auto`, `cpu`, `cuda`, ...
        trust: run the Python files that a run brings; else only those that this user has run before.
        encoder: load the encoder too.
        pixels: whether a run that was trained through the image will do, whose head reads the pixels; what else it
            needs of the backbone is loaded.

    Raises:
        CasamError: the run, its backbone or the device cannot be used.
    """
    where = choose_device(device)
    if run is not None:
        return _fitted(Path(run), model, checkpoint, stores, where, trust, encoder, pixels)
    if stores is not None:
        return _frozen_of(Path(stores), model, checkpoint, where, trust, encoder)
    backbone = with_preprocessing(
        load_backbone(model or DEFAULT_MODEL, checkpoint, device=where), "auto", checkpoint
    )
    precision = choose_precision("auto", where)
    identity = {
        "backbone": backbone.identity,
        "preprocessing": backbone.preprocessing_identity(resize_of(backbone, "auto"), "auto"),
        "precision": precision,
        "embedding": {"dtype": "float16"},
    }
    return OpenedRun(backbone, _identity_head(backbone), None, "", identity)


def _frozen_of(
    named: Path, model: str | None, checkpoint: Path | None, where: torch.device, trust: bool, encoder: bool
) -> OpenedRun:
    """The frozen SAM that a store was encoded with."""
    folder = folder_of_stores(named)
    store = EmbeddingStore.open(named if folder != named else find_store(named, None, model))
    fingerprint = store.identity["backbone"]["weights"]
    missing = CheckpointError(
        f"nothing in {folder / BESIDE_STORES} says which backbone {store.path} was encoded with",
        "name it with --model NAME, and --checkpoint FILE if that is not its own; or run the same casam encode command "
        "again, which encodes nothing anew",
    )
    source = BackboneSource(
        fingerprint, (folder / BESIDE_STORES,), {}, f"{store.path} was encoded with", missing,
        checkpoint=checkpoint, trust=trust, model=None if model == store.path.stem else model,
    )  # fmt: skip
    backbone = as_in_store(source.whole(where) if encoder else source.decoder(where), store.identity)
    return OpenedRun(backbone, _identity_head(backbone), None, "", store.identity, source)


def _fitted(
    folder: Path,
    model: str | None,
    checkpoint: Path | None,
    stores: Path | None,
    where: torch.device,
    trust: bool,
    encoder: bool,
    pixels: bool,
) -> OpenedRun:
    folder = folder.absolute()
    record = _record(folder)
    identity, task, source = recorded_place(folder, record, stores)
    source = replace(source, model=model, checkpoint=checkpoint, trust=trust)
    if record.kind != "model" and PIXELS in (kind := head_class(folder, trust=trust)).needs:
        if not pixels:
            raise OptionError(
                f"{folder} was trained through the image: it has no layer or decoder behind the frozen encoder",
                "casam predict and casam evaluate take it",
            )
        encoder = not kind.replaces_sam
    backbone = as_in_store(source.whole(where) if encoder else source.decoder(where), identity)
    if record.kind == "model":
        routed = RoutedModel(folder, backbone, trust=trust)
        return OpenedRun(backbone, _identity_head(backbone), routed, "", identity, source)
    head = load_head(folder, backbone, trust=trust).to(where).eval()
    return OpenedRun(backbone, head, None, task, identity, source)


def _record(folder: Path) -> Record:
    if not (folder / RECORD).is_file():
        raise CasamError(f"{folder} is not the folder of a finished run: {RECORD} is missing", _NAMED)
    record = read_record(folder)
    if record.kind in (WITHOUT_PROMPTS, FINDS_OBJECTS):
        raise OptionError(
            f"{folder} was fitted to work without prompts",
            "casam predict IMAGE --run RUN, without --box, --point, --mask and --prompts",
        )
    if record.kind not in _KINDS:
        raise CasamError(f"{folder} holds no head: it is a stage of kind '{record.kind}'", _NAMED)
    return record


def recorded_place(
    folder: Path, record: Record, stores: Path | None
) -> tuple[Mapping[str, Any], str, BackboneSource]:
    """The identity of the store of a run, its task, and where its backbone may be.

    Raises:
        CasamError: the record does not say it.
    """
    facts = record.recorded
    try:
        identity, task = facts["identity"], str(facts["task"])
        fingerprint = str(identity["backbone"]["weights"])
        for part in ("preprocessing", "embedding"):
            identity[part].items()
        backbone = facts.get("backbone", {})
        backbone.items()
        store = Path(facts["store"]) if "store" in facts else None
    except (KeyError, TypeError, AttributeError) as error:
        raise CasamError(
            f"{folder} does not say on which store it was fitted: {error}",
            "run the command that made it again",
        ) from None
    places = [folder.parent.parent / KEPT]
    places += [] if stores is None else [folder_of_stores(Path(stores)) / BESIDE_STORES]
    places += [] if store is None else [store.parent.parent / BESIDE_STORES]
    missing = CheckpointError(
        f"{folder} does not carry its backbone: it was fitted before runs did, or was taken out of its folder of runs; "
        f"and nothing is kept beside its store {store}",
        "name the folder that its store is in now with --store DIR, or its backbone with --model NAME, and "
        "--checkpoint FILE if that is not its own",
    )
    source = BackboneSource(fingerprint, tuple(places), backbone, f"{folder} was fitted on", missing)
    return identity, task, source


def folder_of_stores(path: Path) -> Path:
    """DIR of DIR/TASK/BACKBONE.zarr, or DIR itself."""
    return path.absolute().parent.parent if path.suffix == ".zarr" else path


def _identity_head(backbone: Backbone) -> Head:
    return build_head("identity", None, backbone, seed=0).to(backbone.device).eval()
