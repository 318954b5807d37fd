"""Datasets: folders of images and masks, read into samples; decoding, splits, checks and pictures of them."""

from casam_cache.datasets.check import CheckReport, TaskReport, check, check_dataset
from casam_cache.datasets.contact_sheet import contact_sheet, overlay
from casam_cache.datasets.images import image_size, load_image, parse_intensity
from casam_cache.datasets.listing import listing
from casam_cache.datasets.masks import interior_point, iter_masks, load_masks, mask_box
from casam_cache.datasets.readers import Reader, find_tasks, read_dataset, task_name
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

__all__ = [
    "MASK_MODES",
    "SPLITS",
    "CheckReport",
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
    "find_tasks",
    "image_size",
    "interior_point",
    "iter_masks",
    "listing",
    "load_image",
    "load_masks",
    "mask_box",
    "overlay",
    "parse_intensity",
    "read_dataset",
    "task_name",
]
