"""Encode images with a frozen SAM once; train and evaluate adapters from the cached embeddings.

    import casam_cache as casam

    casam.encode_dataset("data/polyps", "casam_store", casam.EncodeOptions(model="small"))
    report = casam.fit_task("polyps", "casam_store", "casam_runs")
    prediction = casam.Predictor(report.run).predict("image.png", box=(40, 60, 200, 220))

Importing this package imports neither torch nor zarr; the names load what they need when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from casam_cache.bench.fit import FitReport, fit_task
    from casam_cache.bench.predict import Prediction, Predictor
    from casam_cache.datasets import DatasetOptions
    from casam_cache.encode.dataset import encode_dataset
    from casam_cache.encode.options import EncodeOptions
    from casam_cache.encode.report import EncodeReport
    from casam_cache.errors import CasamError
    from casam_cache.store import EmbeddingStore

__version__ = "0.1.0"

__all__ = [
    "CasamError",
    "DatasetOptions",
    "EmbeddingStore",
    "EncodeOptions",
    "EncodeReport",
    "FitReport",
    "Prediction",
    "Predictor",
    "encode_dataset",
    "fit_task",
]

_HOMES = {
    "CasamError": "errors",
    "DatasetOptions": "datasets",
    "EmbeddingStore": "store",
    "EncodeOptions": "encode.options",
    "EncodeReport": "encode.report",
    "FitReport": "bench.fit",
    "Prediction": "bench.predict",
    "Predictor": "bench.predict",
    "encode_dataset": "encode.dataset",
    "fit_task": "bench.fit",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'casam_cache' has no attribute '{name}'")
    return getattr(import_module(f"casam_cache.{_HOMES[name]}"), name)
