"""What is computed together for a store: the arrays that a batch lacks of the images themselves, then each view."""

from __future__ import annotations

from collections.abc import Sequence

from casam_cache.encode.options import EncodeOptions
from casam_cache.store import Batch
from casam_cache.store.schema import EMBEDDING
from casam_cache.store.shard_writer import ShardWriter
from casam_cache.views import View

Passes = Sequence[tuple[tuple[str, ...], list[Batch]]]


def passes_of(writer: ShardWriter, options: EncodeOptions, shard: int | None = None) -> Passes:
    """Arrays to compute together, and the batches of the store, or of one shard, that lack them."""
    arrays = (EMBEDDING, *options.extra)
    pending = {name: set(writer.pending((name,), shard)) for name in arrays}
    found: dict[tuple[str, ...], list[Batch]] = {}
    for batch in writer.pending(arrays, shard):
        found.setdefault(tuple(name for name in arrays if batch in pending[name]), []).append(batch)
    for name in options.views:
        array = View(name).array
        if batches := writer.pending((array,), shard):
            found[array,] = batches
    return list(found.items())


def images_in(passes: Passes) -> int:
    """Images to encode, one that is encoded in several passes once in each."""
    return sum(len(batch) for _, batches in passes for batch in batches)
