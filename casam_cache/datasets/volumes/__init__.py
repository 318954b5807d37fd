"""Volumes: NIfTI, DICOM, MetaImage, NRRD and NumPy files as one type, their slices, and datasets of them."""

from casam_cache.datasets.volumes.layout import Layout, layout_of
from casam_cache.datasets.volumes.read import is_volume, read_volume, volume_stem
from casam_cache.datasets.volumes.volume import Plane, Volume

__all__ = ["Layout", "Plane", "Volume", "is_volume", "layout_of", "read_volume", "volume_stem"]
