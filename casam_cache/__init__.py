"""Encode images with a frozen SAM once; train and evaluate adapters from the cached embeddings.

    import casam_cache as casam

    casam.encode_dataset("data/polyps", "casam_store", casam.EncodeOptions(model="small"))
    report = casam.fit_task("polyps", "casam_store", "casam_runs")
    prediction = casam.Predictor(report.run).set_image("image.png").predict(boxes=(40, 60, 200, 220))

Importing this package imports neither torch nor zarr; the names load what they need when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from casam_cache.backbones.base import Backbone
    from casam_cache.bench.bench import Bench
    from casam_cache.bench.fit import FitReport, fit_task
    from casam_cache.bench.predict import Prediction, Predictor
    from casam_cache.bench.recipe import Recipe
    from casam_cache.datasets import DatasetOptions, Reader
    from casam_cache.encode.dataset import encode_dataset
    from casam_cache.encode.options import EncodeOptions
    from casam_cache.encode.report import EncodeReport
    from casam_cache.errors import CasamError
    from casam_cache.export.onnx_files import export_onnx
    from casam_cache.export.sam import load_sam
    from casam_cache.heads.base import Head
    from casam_cache.methods.base import Method
    from casam_cache.metrics.base import Metric
    from casam_cache.routers.base import Router
    from casam_cache.routers.pooling import Pooling
    from casam_cache.store import EmbeddingStore
    from casam_cache.training.options import TrainingOptions

__version__ = "0.2.0"

__all__ = [
    "Backbone",
    "Bench",
    "CasamError",
    "DatasetOptions",
    "EmbeddingStore",
    "EncodeOptions",
    "EncodeReport",
    "FitReport",
    "Head",
    "Method",
    "Metric",
    "Pooling",
    "Prediction",
    "Predictor",
    "Reader",
    "Recipe",
    "Router",
    "TrainingOptions",
    "encode_dataset",
    "export_onnx",
    "fit_task",
    "load_sam",
]

_HOMES = {
    "Backbone": "backbones.base",
    "Bench": "bench.bench",
    "CasamError": "errors",
    "DatasetOptions": "datasets",
    "EmbeddingStore": "store",
    "EncodeOptions": "encode.options",
    "EncodeReport": "encode.report",
    "FitReport": "bench.fit",
    "Head": "heads.base",
    "Method": "methods.base",
    "Metric": "metrics.base",
    "Pooling": "routers.pooling",
    "Prediction": "bench.predict",
    "Predictor": "bench.predict",
    "Reader": "datasets",
    "Recipe": "bench.recipe",
    "Router": "routers.base",
    "TrainingOptions": "training.options",
    "encode_dataset": "encode.dataset",
    "export_onnx": "export.onnx_files",
    "fit_task": "bench.fit",
    "load_sam": "export.sam",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'casam_cache' has no attribute '{name}'")
    return getattr(import_module(f"casam_cache.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
