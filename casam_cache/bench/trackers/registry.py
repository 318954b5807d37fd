"""Trackers by name: installed ones, registered ones, or a class in a file: `my_file.py:MyTracker`."""

from __future__ import annotations

from casam_cache.bench.trackers.base import Tracker
from casam_cache.registry import Registry

TRACKERS: Registry[Tracker] = Registry("tracker", Tracker, "casam_cache.trackers", options=False)
