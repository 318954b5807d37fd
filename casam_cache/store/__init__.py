"""The embedding store: features of frozen backbones in Zarr, committed shard by shard."""

from casam_cache.store.annotations import AnnotatedMask, AnnotatedSample, Annotations, write_annotations
from casam_cache.store.pooling import attention_pool, mean_pool
from casam_cache.store.reader import EmbeddingStore, find_stores, store_path
from casam_cache.store.results import Batch, ItemResult
from casam_cache.store.writer import StoreWriter

__all__ = [
    "AnnotatedMask",
    "AnnotatedSample",
    "Annotations",
    "Batch",
    "EmbeddingStore",
    "ItemResult",
    "StoreWriter",
    "attention_pool",
    "find_stores",
    "mean_pool",
    "store_path",
    "write_annotations",
]
