"""From options to portions: which pages and channels of its files a dataset consists of, decided for all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from casam_cache.datasets.images import ANY_SIZE, by_region, image_header
from casam_cache.datasets.pixels import Header
from casam_cache.datasets.portion import Portion, parse_channels
from casam_cache.datasets.sample import DatasetOptions, Problem, Sample
from casam_cache.errors import ImageError


def choose_portions(
    root: Path, samples: Sequence[Sample], options: DatasetOptions, problems: list[Problem]
) -> list[Sample]:
    """The samples with what the options take of each file written behind its name; sorted by id.

    `--pages all` makes a sample of each page, with the page's number behind the id and the file's split and group; its
    masks have as many pages. Without options that ask for it no file is opened. A file that cannot be read keeps its
    name: whoever reads it reports it.

    Args:
        root: the dataset folder.
        samples: one a file, sorted by id.
        options: of the dataset.
        problems: get those of samples that are left out, since image and mask have not the same pages.
    """
    if options.pages is None and options.channels is None and options.exif != "ignore":
        return list(samples)
    names = [name for sample in samples for name in (sample.source, *sample.masks)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: _header(root / name, options), names)
        headers = dict(zip(names, found, strict=True))
    chosen: list[Sample] = []
    for sample in samples:
        if options.pages == "all" and _pages(headers[sample.source]) > 1:
            chosen += _each_page(sample, headers, options, problems)
        else:
            chosen.append(_one(sample, headers, options))
    return sorted(chosen, key=lambda sample: sample.id)


def _header(path: Path, options: DatasetOptions) -> Header | None:
    try:
        tiles = options.tile is not None and by_region(path)
        return image_header(path, ANY_SIZE if tiles else options.max_pixels)
    except (ImageError, OSError):
        return None


def _pages(header: Header | None) -> int:
    return 1 if header is None else header.pages


def _one(sample: Sample, headers: dict[str, Header | None], options: DatasetOptions) -> Sample:
    """A sample of one page, whose masks are the same page, or each page an object."""
    page = {None: None, "first": 1, "all": None, "objects": None}.get(options.pages, options.pages)
    page = None if page is None else int(page)
    masks: list[str] = []
    for name in sample.masks:
        header = headers[name]
        if options.pages == "objects":
            pages = _pages(header)
            numbers: list[int | None] = [None] if pages == 1 else list(range(1, pages + 1))
        else:
            numbers = [_of(header, page)]
        masks += [name + _written(header, number, options) for number in numbers]
    header = headers[sample.source]
    written = _written(header, _of(header, page), options, _channels(header, options))
    objects = sample.one_object_a_file or (options.pages == "objects" and bool(sample.masks))
    return replace(sample, source=sample.source + written, masks=tuple(masks), one_object_a_file=objects)


def _each_page(
    sample: Sample, headers: dict[str, Header | None], options: DatasetOptions, problems: list[Problem]
) -> list[Sample]:
    """A sample for each page of an image, or none and a problem where a mask has other pages."""
    header = headers[sample.source]
    pages = _pages(header)
    for name in sample.masks:
        mask = headers[name]
        if mask is not None and mask.pages != pages:
            has = "1 page" if mask.pages == 1 else f"{mask.pages} pages"
            problems.append(
                Problem(
                    name,
                    f"the mask has {has}, its image {pages}",
                    "save a page of the mask for each page of the image, or take one page: --pages first or --pages N",
                    sample=sample.id,
                )
            )
            return []
    channels, width = _channels(header, options), len(str(pages))
    return [
        replace(
            sample,
            id=f"{sample.id}#{page:0{width}d}",
            source=sample.source + _written(header, page, options, channels),
            masks=tuple(name + _written(headers[name], page, options) for name in sample.masks),
        )
        for page in range(1, pages + 1)
    ]


def _of(header: Header | None, page: int | None) -> int | None:
    """The page to name: none where the file is that page."""
    return None if page is None or (page == 1 and _pages(header) == 1) else page


def _channels(header: Header | None, options: DatasetOptions) -> tuple[int, ...] | None:
    """The channels to name: none where they are what the file shows anyway."""
    if options.channels is None:
        return None
    channels = parse_channels(options.channels)
    if header is not None and header.plain and (header.pages == 1 or options.pages is not None):
        shown = (1,) if header.channels <= 2 else (1, 2, 3)
        return None if channels == shown else channels
    return channels


def _written(
    header: Header | None,
    page: int | None,
    options: DatasetOptions,
    channels: tuple[int, ...] | None = None,
) -> str:
    if header is None:
        return ""
    as_stored = options.exif == "ignore" and header.orientation != 1
    return str(Portion(page, channels, as_stored))
