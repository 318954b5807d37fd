"""Segmenters by name: installed ones, registered ones, or a class in a file: `my_file.py:MySegmenter`."""

from __future__ import annotations

from casam_cache.registry import Registry
from casam_cache.segmenters.base import Segmenter

SEGMENTERS: Registry[Segmenter] = Registry("head without prompts", Segmenter, "casam_cache.segmenters")
