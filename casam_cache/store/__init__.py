"""The embedding store: features of frozen backbones in Zarr, planned, committed, checked and readable by any Zarr reader."""

from casam_cache.store.pooling import attention_pool, mean_pool
from casam_cache.store.reader import EmbeddingStore, find_stores, store_path
from casam_cache.store.writer import Batch, ItemResult, StoreWriter

__all__ = [
    "Batch",
    "EmbeddingStore",
    "ItemResult",
    "StoreWriter",
    "attention_pool",
    "find_stores",
    "mean_pool",
    "store_path",
]
