"""Readers by name: installed ones, registered ones, or a class in a file: `my_file.py:MyReader`."""

from __future__ import annotations

from casam_cache.datasets.base import Reader
from casam_cache.registry import Registry

READERS: Registry[Reader] = Registry("reader", Reader, "casam_cache.readers", options=False)
