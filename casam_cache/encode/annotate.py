"""Masks, frozen test prompts, splits and groups of a dataset into its store; no encoder is involved."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from casam_cache.datasets import Dataset, Mask, Reader, Sample, innermost, read_ignored, read_masks
from casam_cache.encode.tile_masks import own_masks, united
from casam_cache.errors import ImageError, memory_for
from casam_cache.registry import revision_of
from casam_cache.store import EmbeddingStore, StoreWriter
from casam_cache.store.annotations import AnnotatedMask, AnnotatedSample, current_version, write_annotations
from casam_cache.store.runs import encode_runs
from casam_cache.store.schema import OK

THREADS = 2


@dataclass
class Annotated:
    """What was written.

    Attributes:
        masks: masks of all samples.
        refreshed: whether these annotations differ from those that were current.
        unusable: ids of encoded images whose mask files cannot be used; they are not in the annotations, since an
            unreadable mask is not an empty one.
        problems: a line for each of them, by its id.
        margins: pieces of objects in the margins of tiles, which count in the neighbouring tile alone.
    """

    masks: int = 0
    refreshed: bool = False
    unusable: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    margins: int = 0


def annotate(dataset: Dataset, writer: StoreWriter) -> Annotated:
    """Makes the dataset's masks and splits the current annotations of a store.

    Each mask keeps its tight box and its innermost point as frozen test prompts: they follow from the mask alone.

    Args:
        dataset: whose encoded samples to annotate.
        writer: of the store, with everything encoded committed.

    Raises:
        StoreError: the store cannot be written.
    """
    done = Annotated()
    store = EmbeddingStore.open(writer.path)
    before = current_version(writer.path)
    attributes: dict[str, Any] = {
        "mask_mode": dataset.mask_mode,
        "mask_reason": dataset.mask_reason,
        "values": list(dataset.values.values),
        "split_source": dataset.split_source,
        "options": dataset.options.to_json(),
        "reader": described_reader(dataset.reader),
    }
    names = dataset.values.class_names
    if names:
        attributes["class_names"] = {str(number): name for number, name in names.items()}
    if dataset.volumes:
        attributes["volumes"] = [dict(volume) for volume in dataset.volumes]
    if dataset.tiled:
        attributes["tiled"] = [dict(image) for image in dataset.tiled]
    version = write_annotations(writer.path, _samples(dataset, store, done), attributes, writer.lock)
    done.refreshed = version != before
    return done


def described_reader(reader: Reader) -> dict[str, int | str]:
    """What a store records of the reader; the revision of one from a user's file is the SHA-256 of that file."""
    return {"name": reader.name, "revision": revision_of(type(reader))}


def recorded_reader(store: EmbeddingStore) -> dict[str, int | str]:
    """What `described_reader` gave when the store's annotations were written; empty where nothing says it."""
    recorded: dict[str, int | str] = (
        store.annotations.attributes.get("reader", {}) if store.has_annotations else {}
    )
    return recorded


def _samples(dataset: Dataset, store: EmbeddingStore, done: Annotated) -> Iterator[AnnotatedSample]:
    status = store.status
    usable = [sample for sample in dataset.samples if status[store.index(sample.id)] == OK]

    def read(sample: Sample) -> tuple[AnnotatedSample, int] | ImageError:
        item = store.index(sample.id)
        geometry = store.geometry(item)
        size = (geometry.height, geometry.width)
        try:
            with memory_for(str(dataset.root / sample.source), ImageError):
                found, margins = own_masks(read_masks(dataset, sample, size), sample)
                masks = tuple(map(_annotated, found))
                ignored = united(read_ignored(dataset, sample, size), margins, size)
        except ImageError as error:
            return error
        runs = None if ignored is None else (encode_runs(ignored), size)
        return AnnotatedSample(item, sample.split, sample.group, masks, runs), len(margins)

    with ThreadPoolExecutor(THREADS) as pool:
        for sample, found in zip(usable, pool.map(read, usable), strict=True):
            if isinstance(found, ImageError):
                done.unusable.add(sample.id)
                done.problems[sample.id] = f"{found.message} ({found.hint})" if found.hint else found.message
                continue
            annotated, left = found
            done.masks += len(annotated.masks)
            done.margins += left
            yield annotated


def _annotated(mask: Mask) -> AnnotatedMask:
    cutout = mask.cutout.tight()
    return AnnotatedMask.from_cutout(cutout, mask.class_id, mask.instance, cutout.box, innermost(cutout))
