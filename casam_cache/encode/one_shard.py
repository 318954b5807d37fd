"""One shard of a planned store, encoded by a process that need not be the one that planned it: what a worker runs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from casam_cache import __version__
from casam_cache.backbones.devices import choose_devices, describe_device
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.registry import load_backbone
from casam_cache.encode.decode import Preprocessing
from casam_cache.encode.looks import LooksFile, part_path
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.passes import passes_of
from casam_cache.encode.pipeline import PipelineResult, run_pipeline
from casam_cache.encode.preprocessing import as_in_store
from casam_cache.errors import CasamError
from casam_cache.fingerprint import canonical_json, digest_file
from casam_cache.store.lock import is_held
from casam_cache.store.schema import ROOT
from casam_cache.store.shard_writer import ShardWriter
from casam_cache.views import view_of

SEEN_WITHIN = 60.0  # seconds in which a shared disk shows on one machine what another wrote
_loaded: dict[str, list[FrozenEncoder]] = {}  # of the last store: one backbone in memory


@dataclass(frozen=True)
class ShardWork:
    """What a worker is told; paths are absolute, for it may stand in another folder.

    Attributes:
        store: path of the store, which lies on a disk that all machines share.
        metadata: SHA-256 of the store's root attributes: a folder of the same name elsewhere has others.
        shard: which.
        root: dataset folder.
        names: image of each item of the shard, relative to `root`; None where the dataset no longer has it.
        preprocessing: from file to the encoder's input.
        options: of the run.
        device: kind of device that the store was begun with in this run.
        release: of this package, where the run was started.
    """

    store: Path
    metadata: str
    shard: int
    root: Path
    names: tuple[str | None, ...]
    preprocessing: Preprocessing
    options: EncodeOptions
    device: str
    release: str = __version__


@dataclass
class ShardDone:
    """What became of a shard: the runs of the pipeline over it, and on what they ran."""

    shard: int
    device: str
    result: PipelineResult = field(default_factory=PipelineResult)


def encode_shard(work: ShardWork) -> ShardDone:
    """Encodes what a shard lacks, as one process would, and commits it; the run that asks for it holds the store.

    Raises:
        HeldError: another process writes this shard.
        CasamError: this machine sees other files, has another device or other weights; or that run has ended.
    """
    _check_place(work)
    writer = ShardWriter.of_shard(work.store, work.shard)
    with writer:
        encoders = _encoders(work, writer.meta.identity)
        done = ShardDone(work.shard, describe_device(encoders[0].device).partition(" ")[2])
        first = work.shard * writer.meta.shard
        names: Mapping[int, str | None] = dict(enumerate(work.names, start=first))
        for arrays, batches in passes_of(writer, work.options, work.shard):
            part = run_pipeline(
                writer,
                encoders,
                batches,
                work.root,
                names,
                arrays,
                replace(work.preprocessing, view=view_of(arrays[0])),
                looks=LooksFile(part_path(work.store, work.shard), first),
                workers=decoders(work.options, encoders[0].device.type),
                strict=work.options.strict,
                progress=lambda *_: _check_asked(work),
            )
            done.result.add(part)
    return done


def decoders(options: EncodeOptions, device: str) -> int:
    """Processes that decode images: as asked for, or one background thread where the CPU encodes."""
    if options.workers is not None:
        return options.workers
    return 0 if device == "cpu" else max(1, min(8, (os.cpu_count() or 2) - 1))


def metadata_of(store: Path) -> str:
    """SHA-256 of a store's root attributes."""
    return digest_file(store / ROOT)


def _check_place(work: ShardWork) -> None:
    here = socket.gethostname()
    if work.release != __version__:
        raise CasamError(
            f"the worker on {here} has casam-cache {__version__}, and the run was started with {work.release}",
            "install one release on all machines",
        )
    if not work.root.is_dir():
        raise CasamError(
            f"the worker on {here} sees no folder {work.root}",
            "datasets and stores must have the same paths on all machines",
        )
    until = time.monotonic() + SEEN_WITHIN
    while not ((work.store / ROOT).is_file() and metadata_of(work.store) == work.metadata):
        if time.monotonic() > until:
            raise CasamError(
                f"the worker on {here} sees another store at {work.store}, or none",
                "--store must be on a disk that all machines share, under one path",
            )
        time.sleep(1)


def _check_asked(work: ShardWork) -> None:
    """Stops between two batches once the run is over; what is encoded is kept."""
    if not is_held(work.store):
        raise CasamError(f"shard {work.shard} of {work.store} is no longer asked for: its run has ended")


def _encoders(work: ShardWork, identity: Mapping[str, Any]) -> Sequence[FrozenEncoder]:
    """Encoders of the store on this machine's devices, loaded once a process."""
    options = work.options
    key = canonical_json([options.model, str(options.checkpoint), options.device, identity])
    if key in _loaded:
        return _loaded[key]
    _loaded.clear()
    devices = choose_devices(options.device)
    here = socket.gethostname()
    if devices[0].type != work.device:
        raise CasamError(
            f"the worker on {here} computes on {devices[0].type}, others on {work.device}: bits would differ",
            f"--device {work.device} for all, or end that worker",
        )
    loaded = [load_backbone(options.model, options.checkpoint, device=device) for device in devices]
    whole = [as_in_store(backbone, identity) for backbone in loaded]
    if canonical_json(whole[0].identity) != canonical_json(identity["backbone"]):
        raise CasamError(
            f"the worker on {here} has other weights of {options.model} than the store {work.store}",
            "one checkpoint for all: --checkpoint on the shared disk, or one CASAM_CACHE_DIR",
        )
    _loaded[key] = [FrozenEncoder.of(backbone, identity) for backbone in whole]
    return _loaded[key]
