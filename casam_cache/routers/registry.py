"""Routers and poolings by name: installed ones, registered ones, or a class in a file: `my_file.py:MyRouter`."""

from __future__ import annotations

from casam_cache.registry import Registry
from casam_cache.routers.base import Router
from casam_cache.routers.pooling import Pooling

ROUTERS: Registry[Router] = Registry("router", Router, "casam_cache.routers")
POOLINGS: Registry[Pooling] = Registry("pooling", Pooling, "casam_cache.poolings")
