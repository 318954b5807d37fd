"""One task: compare the dataset with its store, encode what is missing, refresh the annotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.devices import choose_devices
from casam_cache.backbones.registry import load_backbone
from casam_cache.datasets import Dataset, parse_intensity, read_dataset
from casam_cache.datasets.check import empty_masks
from casam_cache.datasets.portion import split_portion
from casam_cache.encode.annotate import Annotated, annotate, described_reader, recorded_reader
from casam_cache.encode.begun import recorded_attributes, say_what_changed
from casam_cache.encode.choices import Choices, batch_size_of, choices_of, dtype_of, encoder_of, identity_of
from casam_cache.encode.decode import Preprocessing, source_sha256
from casam_cache.encode.finished import forget, remember, remembered_files
from casam_cache.encode.looks import duplicates, join_left
from casam_cache.encode.one_shard import decoders
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.passes import passes_of
from casam_cache.encode.pipeline import ImageProgress, PipelineResult, run_pipeline
from casam_cache.encode.preprocessing import as_in_store, intensity_of, resize_of, with_preprocessing
from casam_cache.encode.report import EncodeReport
from casam_cache.encode.shards import Workers, encode_shards
from casam_cache.encode.sources import preparation, remember_backbone
from casam_cache.encode.store_name import check_store_name
from casam_cache.errors import DatasetError, StoreError
from casam_cache.store import EmbeddingStore, StoreWriter, store_path
from casam_cache.store.quantise import stored_dtype
from casam_cache.store.schema import EMBEDDING, FAILED
from casam_cache.views import View, view_of

Warn = Callable[[str], None]


def encode_task(
    root: Path,
    stores: Path,
    options: EncodeOptions,
    *,
    workers: Workers | None = None,
    progress: ImageProgress | None = None,
    warn: Warn | None = None,
) -> EncodeReport:
    """Encodes what a dataset's store lacks and brings its annotations up to date.

    Args:
        root: dataset folder; its name is the task's.
        stores: folder of stores; DIR/TASK/BACKBONE.zarr is made or continued.
        options: what to do, as `as_begun` gives it.
        workers: who encode, shard by shard; by default this process.
        progress: called with (items done, items in all, note, items/s) while encoding.
        warn: called with a line for a person where something unusual is done.

    Raises:
        DatasetError: nothing usable in the folder; with `strict`, anything unusable.
        CheckpointError: the backbone cannot be loaded.
        OptionError: other weights than the model's own would go by its name.
        IdentityMismatchError: the store holds features made otherwise.
        HeldError: another process is encoding it.
        StoreError: damaged, read-only, full disk, or images changed since they were encoded.
        ImageError: the first bad image, with `strict`.
    """
    parse_intensity(options.intensity)
    dataset = read_dataset(root, options.dataset, reader=options.reader)
    say = warn or (lambda line: None)
    for note in dataset.notes:
        say(f"{dataset.task}: {note}")
    if not dataset.samples:
        detail = "; ".join(str(problem) for problem in dataset.problems[:3])
        raise DatasetError(
            f"{root}: no usable image" + (f": {detail}" if detail else ""),
            f"casam data check {root} lists every problem by file; --unlabelled accepts images without masks",
        )
    if options.strict:
        _refuse([str(problem) for problem in dataset.problems if problem.severity == "error"], root)
    path = store_path(stores, dataset.task, options.backbone_name)
    # Who only plans needs no GPU: what the machine has a say in is asked of a worker.
    device, *others = choose_devices(options.device if workers is None else "cpu")
    backbone = load_backbone(
        options.model, options.checkpoint, device=device, progress=_downloading(progress)
    )
    say_what_changed(recorded_attributes(path), dataset, say)
    for note in backbone.notes:
        say(note)
    check_store_name(path, backbone, options, warn)
    backbone = with_preprocessing(backbone, options.preprocess, options.checkpoint, identity_of(path), warn)
    if backbone.stand_in:
        say(f"{backbone.name}: {backbone.stand_in}")
    choices = choices_of(path, backbone, options) if workers is None else workers.choose(path, options)
    with _open_writer(path, backbone, options, choices) as writer:
        previously = remembered_files(path)
        forget(path, {"options": dataset.options.to_json(), "reader": described_reader(dataset.reader)})
        remember_backbone(stores, backbone)
        join_left(path)
        for name in options.extra:
            shape = backbone.feature_shape(name)
            writer.add_array(name, shape, stored_dtype(shape, dtype_of(options, path)))
        embedding = writer.meta.arrays[EMBEDDING]
        for view in options.views:
            writer.add_array(View(view).array, embedding.shape, embedding.dtype.name)
        encoded = _encode_missing(
            writer, dataset, backbone, others, options, choices, previously, workers, progress, warn
        )
        annotated = annotate(dataset, writer)
    if annotated.margins:
        say(
            f"{dataset.task}: {annotated.margins:,} pieces of objects that reach no further than the overlap of a tile "
            "count in its neighbour alone"
        )
    report = _report(path, dataset, encoded, annotated)
    remember(root, path, options, report)
    if options.strict and report.failed:
        _refuse(report.problems, root)
    return report


def _refuse(problems: Sequence[str], root: Path) -> None:
    """With `strict`, an unusable mask, and an image that failed in an earlier run, are as fatal as a bad image now."""
    if problems:
        raise DatasetError(
            f"{root}: {problems[0]}", "without --strict it is reported and the rest is encoded"
        )


def _downloading(progress: ImageProgress | None) -> Callable[[int, int], None] | None:
    """Shows a checkpoint's download, in MB, where the images will be shown."""
    if progress is None:
        return None
    shown = progress
    return lambda done, total: shown(done // 10**6, total // 10**6, "MB of the checkpoint", None)


def _open_writer(path: Path, backbone: Backbone, options: EncodeOptions, choices: Choices) -> StoreWriter:
    for name in options.extra:  # before a store is begun
        backbone.feature_shape(name)
    stored = identity_of(path)
    # A feature that the backbone has learned to give since the store was begun concerns it only where it is asked for.
    others = [
        name
        for name in backbone.features()
        if name != EMBEDDING and (stored is None or name in stored["extra"] or name in options.extra)
    ]
    grid = options.dataset.grid
    identity = {
        "backbone": backbone.identity,
        "preprocessing": backbone.preprocessing_identity(
            resize_of(backbone, options.resize, stored),
            intensity_of(options.intensity, stored),
        ),
        "precision": choices.precision,
        "extra": {name: backbone.feature_identity(name) for name in others},
        **choices.settings,
        **({"compiled": True} if choices.compiled else {}),
        **({} if grid is None else {"tiles": {"side": grid.side, "overlap": grid.overlap}}),
    }
    return StoreWriter.open_or_create(
        path,
        identity,
        embedding_shape=backbone.feature_shape(EMBEDDING),
        image_size=backbone.image_size,
        patch_size=backbone.patch_size,
        dtype=dtype_of(options, path),
    )


def _encode_missing(
    writer: StoreWriter,
    dataset: Dataset,
    backbone: Backbone,
    others: Sequence[torch.device],
    options: EncodeOptions,
    choices: Choices,
    previously: dict[str, tuple[int, int]],
    workers: Workers | None,
    progress: ImageProgress | None,
    warn: Warn | None,
) -> PipelineResult:
    """Plans the new items, uncommits the changed ones where asked, and encodes all that is pending."""
    source_of = {sample.id: sample.source for sample in dataset.samples}
    known = writer.ids()
    new = [sample for sample in dataset.samples if sample.id not in set(known)]
    _check_unchanged(writer, dataset, source_of, previously, options)
    segments = writer.meta.segments
    if (
        options.batch_size is not None
        and warn is not None
        and any(s[2] != options.batch_size for s in segments)
    ):
        warn(f"{dataset.task}: batches of what is already planned stay at {segments[-1][2]} images")
    encoders = []
    if workers is None and (new or passes_of(writer, options)):
        loaded = [load_backbone(options.model, options.checkpoint, device=device) for device in others]
        more = [as_in_store(part, writer.meta.identity) for part in loaded]
        encoders = [encoder_of(writer.path, part) for part in (backbone, *more)]
    if new:
        size = choices.batch_size or batch_size_of(options, encoders)
        writer.plan([(sample.id, sample.source) for sample in new], size)
    passes = passes_of(writer, options)
    total = PipelineResult()
    if not passes:
        return total
    preprocessing = Preprocessing(
        backbone.image_size,
        backbone.patch_size,
        writer.meta.identity["preprocessing"]["resize"],
        writer.meta.identity["preprocessing"]["intensity"],
        options.dataset.max_pixels,
        preparation(writer.path.parent.parent, backbone),
        reader=dataset.reader,
    )
    names = [source_of.get(name) for name in writer.ids()]
    items = {item for _, batches in passes for batch in batches for item in range(batch.start, batch.stop)}
    if workers is not None:
        total = encode_shards(
            writer, workers, dataset.root, names, preprocessing, options, choices.device, progress=progress, say=warn
        )  # fmt: skip
        failed = items & EmbeddingStore.open(writer.path).failures.keys()  # of workers that were killed, too
    else:
        for arrays, batches in passes:
            part = run_pipeline(
                writer, encoders, batches, dataset.root, names, arrays,
                replace(preprocessing, view=view_of(arrays[0])), workers=decoders(options, choices.device),
                strict=options.strict, progress=progress,
            )  # fmt: skip
            total.add(part)
        failed = items & total.failures.keys()
    total.encoded = len(items - failed)
    return total


def _check_unchanged(
    writer: StoreWriter,
    dataset: Dataset,
    source_of: dict[str, str],
    previously: dict[str, tuple[int, int]],
    options: EncodeOptions,
) -> None:
    """Features of an image that has changed since are stale: refuse, or with `update` encode it again.

    A changed image that had failed is simply tried again: it has no features. A file that another reader, or another
    revision of it, has read may give other pixels though its bytes are the same, and so may one of which now another
    page or other channels are taken.
    """
    store = EmbeddingStore.open(writer.path)
    reader = dataset.reader
    reread = recorded_reader(store) not in ({}, described_reader(reader))
    now = {name: (size, time) for name, size, time in reader.files(dataset.root)}
    committed, paths = store.committed(EMBEDDING), store.paths
    stale: list[int] = []
    retry: list[int] = []
    for index, name in enumerate(store.ids):
        source = source_of.get(name)
        if source is None or not committed[index]:
            continue
        file = reader.file_of(source)
        same = now == previously if file is None else file in now and previously.get(file) == now[file]
        if same and not reread and source == paths[index]:
            continue
        sha256 = source_sha256(reader, dataset.root, source, options.dataset.max_pixels)
        if (reread and file is not None) or sha256 != store.source_sha256[index].tobytes():
            (retry if store.status[index] == FAILED else stale).append(index)
    if stale and not options.update:
        names = ", ".join(store.ids[index] for index in stale[:5]) + (" ..." if len(stale) > 5 else "")
        first = store.ids[stale[0]]
        was, is_now = split_portion(paths[stale[0]]), split_portion(source_of[first])
        if was[1] != is_now[1]:
            raise StoreError(
                f"{writer.path}: {len(stale)} images are read in another way than they were encoded: {names} (of "
                f"{is_now[0]} {is_now[1].describe()} counts now, {was[1].describe()} did)",
                "casam encode --update encodes them again; or read them as before",
            )
        raise StoreError(
            f"{writer.path}: {len(stale)} images have changed since they were encoded: {names}",
            "casam encode --update encodes them again; or restore the files",
        )
    if stale or retry:
        writer.uncommit(stale + retry)


def _report(path: Path, dataset: Dataset, encoded: PipelineResult, annotated: Annotated) -> EncodeReport:
    store = EmbeddingStore.open(path)
    here = {sample.id for sample in dataset.samples}
    failures = {
        store.ids[index]: reason for index, reason in store.failures.items() if store.ids[index] in here
    }
    gone = sum(name not in here for name in store.ids)
    lines = [f"{name}: {reason}" for name, reason in failures.items()]
    lines += [str(problem) for problem in dataset.problems if problem.sample not in failures]
    known = {problem.sample for problem in dataset.problems if problem.severity == "error"}
    lines += [line for id, line in annotated.problems.items() if id not in known]
    labelled = sum(sample.labelled for sample in dataset.samples)
    if labelled and not annotated.masks and not annotated.unusable:
        lines.append(str(empty_masks(labelled)))
    lines += [str(problem) for problem in duplicates(dataset, store)]
    if gone:
        lines.append(f"{gone} encoded images are no longer in the dataset; they stay in the store, unused")
    unusable = {problem.sample or problem.path for problem in dataset.problems if problem.severity == "error"}
    failed = len({*failures, *annotated.unusable, *unusable})
    images = len(here | unusable)
    return EncodeReport(
        task=dataset.task,
        images=images,
        encoded=encoded.encoded,
        skipped=max(0, images - failed - encoded.encoded),
        failed=failed,
        store=str(path),
        mask_mode=dataset.mask_mode,
        masks=annotated.masks,
        refreshed=annotated.refreshed,
        seconds=encoded.timing.to_json() if encoded.encoded else {},
        problems=tuple(lines),
    )
