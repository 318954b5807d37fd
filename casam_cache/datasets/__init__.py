"""Datasets: folders of images and masks, read into samples; decoding, splits, checks and pictures of them."""

from casam_cache.cutout import Cutout
from casam_cache.datasets.arrays import (
    pixels_sha256,
    read_array,
    read_ignored,
    read_image,
    read_masks,
    read_window,
)
from casam_cache.datasets.base import Reader
from casam_cache.datasets.check import CheckReport, TaskReport, check, check_dataset
from casam_cache.datasets.contact_sheet import contact_sheet, overlay
from casam_cache.datasets.images import image_size, load_image
from casam_cache.datasets.intensity import parse_intensity
from casam_cache.datasets.mask_values import decide_mode
from casam_cache.datasets.masks import innermost, interior_point, mask_box, split_labels
from casam_cache.datasets.readers import find_reader, find_tasks, read_dataset, task_name
from casam_cache.datasets.sample import (
    MASK_MODES,
    SPLITS,
    Dataset,
    DatasetOptions,
    Mask,
    MaskValues,
    Problem,
    Sample,
)
from casam_cache.datasets.splits import draw_splits

__all__ = [
    "MASK_MODES",
    "SPLITS",
    "CheckReport",
    "Cutout",
    "Dataset",
    "DatasetOptions",
    "Mask",
    "MaskValues",
    "Problem",
    "Reader",
    "Sample",
    "TaskReport",
    "check",
    "check_dataset",
    "contact_sheet",
    "decide_mode",
    "draw_splits",
    "find_reader",
    "find_tasks",
    "image_size",
    "innermost",
    "interior_point",
    "load_image",
    "mask_box",
    "overlay",
    "parse_intensity",
    "pixels_sha256",
    "read_array",
    "read_dataset",
    "read_ignored",
    "read_image",
    "read_masks",
    "read_window",
    "split_labels",
    "task_name",
]
