"""Heads by name: installed ones, registered ones, or a class in a file: `my_file.py:MyHead`."""

from __future__ import annotations

from casam_cache.heads.base import Head
from casam_cache.registry import Registry

HEADS: Registry[Head] = Registry("head", Head, "casam_cache.heads")
