"""EXIF orientations of a dataset's images: whether its masks were drawn on the pixels as shown or as stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from casam_cache.datasets.images import image_header
from casam_cache.datasets.labels import ImageHeader
from casam_cache.datasets.sample import DatasetOptions, Problem, Sample
from casam_cache.errors import ImageError


def fits_as_stored(path: Path, mask: tuple[int, int], header: ImageHeader) -> ImageError | None:
    """The error for a mask whose size is that of its image before the orientation is applied; None for any other.

    Args:
        path: the mask.
        mask: its height and width, which are not those of the image.
        header: of the image.
    """
    if header.size is None or header.orientation < 5 or mask != (header.size[1], header.size[0]):
        return None
    height, width = header.size
    return ImageError(
        f"{path}: the mask has {mask[1]} x {mask[0]} pixels, its image {width} x {height} once its EXIF orientation "
        f"({header.orientation}) is applied: the mask fits the unrotated pixels",
        "--exif ignore reads all images and masks as they are stored; or turn the masks",
    )


def orientation_warnings(
    root: Path, samples: Sequence[Sample], headers: Sequence[ImageHeader], options: DatasetOptions
) -> list[Problem]:
    """A warning where images are turned by their orientation and no size tells whether their masks are meant so.

    That is where the turned image has the size of the stored one (180 degrees, mirrored, squares), and a mask carries
    no such orientation itself. Nothing where the options say what to do.
    """
    if options.exif is not None:
        return []
    turned = [
        sample
        for sample, header in zip(samples, headers, strict=True)
        if header.size is not None and header.orientation != 1 and sample.masks
        if header.orientation < 5 or header.size[0] == header.size[1]
        if any(_orientation(root / mask, options) != header.orientation for mask in sample.masks)
    ]
    if not turned:
        return []
    images = "1 image carries" if len(turned) == 1 else f"{len(turned)} images carry"
    return [
        Problem(
            turned[0].source,
            f"{images} an EXIF orientation, which is applied (this is the first); the size of their masks does not "
            "tell whether they were drawn on the upright pixels or on the unrotated ones",
            "look at them in the contact sheet of casam data check; --exif ignore reads all as they are stored, "
            "--exif apply says that this is right",
            "warning",
        )
    ]


def _orientation(path: Path, options: DatasetOptions) -> int:
    try:
        return image_header(path, options.max_pixels).orientation
    except ImageError:
        return 1
