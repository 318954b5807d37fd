"""Encode images with a frozen SAM once; train and evaluate adapters from the cached embeddings.

Importing this package imports neither torch nor zarr; the names below load what they need when first used.
"""

from __future__ import annotations

__version__ = "0.1.0"
