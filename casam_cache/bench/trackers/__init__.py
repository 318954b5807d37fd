"""Where a fit's curves and scores go beside its own files: TensorBoard, Weights & Biases, or a class of one's own."""

from casam_cache.bench.trackers.base import Tracker, Tracking
from casam_cache.bench.trackers.registry import TRACKERS

__all__ = ["TRACKERS", "Tracker", "Tracking"]
