"""Label maps of volumes as files in the space of what they were predicted on: the way back of `datasets.volumes`."""

from casam_cache.datasets.label_volumes.write import check_format, default_suffix, label_files

__all__ = ["check_format", "default_suffix", "label_files"]
