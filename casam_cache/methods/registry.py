"""Methods by name: installed ones, or a class in a file: `my_file.py:MyMethod`."""

from __future__ import annotations

from casam_cache.methods.base import Method
from casam_cache.registry import Registry

METHODS: Registry[Method] = Registry("method", Method, "casam_cache.methods")
