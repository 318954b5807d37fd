"""Images that are in two splits: of equal pixels, however they are saved, and such as look the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from casam_cache.datasets.sample import Problem, Sample, SplitName

SIDE = 32  # of the thumbnail, pixels: what a perceptual hash looks at
NEAR_BITS = 8  # of 64 that may differ between hashes; re-saved and resized copies differ in 0 to 6
NEAR_CORRELATION = 0.98  # of thumbnails: copies reach 0.99, one disc in noise beside another 0.97
SHOWN = 10  # pairs that are named of each kind; the rest is counted
_BLOCK = 4096  # images compared at once
_SIDES: tuple[tuple[SplitName, SplitName], ...] = (("test", "train"), ("val", "train"), ("test", "val"))
_TURNS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("", lambda images: images),
    ("mirrored", lambda images: images[:, :, ::-1]),
    ("upside down", lambda images: images[:, ::-1]),
    ("turned", lambda images: np.rot90(images, 1, (1, 2))),
    ("turned", lambda images: np.rot90(images, 2, (1, 2))),
    ("turned", lambda images: np.rot90(images, 3, (1, 2))),
    ("mirrored and turned", lambda images: images.transpose(0, 2, 1)),
    ("mirrored and turned", lambda images: np.rot90(images, 2, (1, 2)).transpose(0, 2, 1)),
)


@dataclass(frozen=True)
class Look:
    """What tells whether two images are one.

    Attributes:
        pixels: SHA-256 over the size and the pixels as 8-bit RGB, 32 bytes.
        thumbnail: uint8 (SIDE, SIDE), grey.
    """

    pixels: bytes
    thumbnail: np.ndarray


def look_of(image: np.ndarray) -> Look:
    """The look of an image, uint8 RGB (H, W, 3); a millisecond a megapixel."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    picture = Image.fromarray(image)
    picture = picture.reduce(max(1, min(picture.size) // (4 * SIDE))).convert("L")
    small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Look(digest.digest(), np.asarray(small))


def across_splits(
    samples: Sequence[Sample], looks: Sequence[Look | None], files: Sequence[str]
) -> list[Problem]:
    """A warning for each pair of images in two splits that are one; where there are many, some and their number.

    Args:
        samples: of one dataset.
        looks: of each; None where it is unknown.
        files: what names the bytes of each one's file; empty where it is unknown.
    """
    same = list(_equal(samples, looks, files))
    known = {one.id for sample, other, _ in same for one in (sample, other)}
    near = [pair for pair in _near(samples, looks) if pair[0].id not in known]
    hint = "keep one, or put both in a group"
    told = "each has a copy in another split"
    problems = _listed(same, "the same {how} as", hint, told)
    hint = "look at both: a copy, or a neighbour of one patient or slide, belongs into one split"
    return problems + _listed(near, "looks the same{how} as", hint, "each looks like one of another split")


_Pair = tuple[Sample, Sample, str]


def _listed(pairs: Sequence[_Pair], words: str, hint: str, told: str) -> list[Problem]:
    problems = [
        Problem(
            sample.source,
            f"{words.format(how=how)} '{other.id}', which is in {other.split}; this one is in {sample.split}",
            hint, "warning", sample.id,
        )
        for sample, other, how in pairs[:SHOWN]
    ]  # fmt: skip
    if len(pairs) > SHOWN:
        problems.append(Problem(".", f"{len(pairs) - SHOWN:,} more images: {told}", hint, "warning"))
    return problems


def _equal(samples: Sequence[Sample], looks: Sequence[Look | None], files: Sequence[str]) -> Iterator[_Pair]:
    first: dict[bytes | str, Sample] = {}
    for sample, look, file in zip(samples, looks, files, strict=True):
        names: list[tuple[bytes | str, str]] = [(file, "file")] if file else []
        blank = sample.tile is not None and look is not None and np.ptp(look.thumbnail) == 0
        if look is not None and not blank:  # the glass of two slides is no copy
            names.append((look.pixels, "pixels"))
        others = [(first.setdefault(name, sample), how) for name, how in names]
        found = next(((other, how) for other, how in others if other.split != sample.split), None)
        if found:
            yield sample, *found


def _near(samples: Sequence[Sample], looks: Sequence[Look | None]) -> Iterator[_Pair]:
    # Tiles of two slides of one tissue look the same without being copies: only equal pixels count there.
    known = [
        place
        for place, look in enumerate(looks)
        if look is not None and np.ptp(look.thumbnail) > 0 and samples[place].tile is None
    ]
    by_split = {
        split: [at for at in known if samples[at].split == split] for split in ("train", "val", "test")
    }
    found: set[int] = set()
    for split, other in _SIDES:
        there = by_split[other]
        here = [place for place in by_split[split] if place not in found]
        if not here or not there:
            continue
        for place, match, how in _matches(looks, here, there):
            found.add(place)
            yield samples[place], samples[match], f", {how}," if how else ""


def _matches(
    looks: Sequence[Look | None], here: Sequence[int], there: Sequence[int]
) -> list[tuple[int, int, str]]:
    """The best match of each image of `here` among `there`, where it has one, in any of the eight ways to turn it."""
    best: dict[int, tuple[float, int, str]] = {}
    for first, others in _blocks(looks, there):
        theirs, their_shapes = perceptual_hashes(others), _shapes(others)
        for start, ours in _blocks(looks, here):
            for how, turn in _TURNS:
                turned = turn(ours)
                # Hashes are of -1 and 1, so that their product counts the bits that agree.
                rows, columns = np.nonzero(perceptual_hashes(turned) @ theirs.T >= 64 - 2 * NEAR_BITS)
                if not len(rows):
                    continue
                ours_at, row = np.unique(rows, return_inverse=True)
                theirs_at, column = np.unique(columns, return_inverse=True)
                alike = (_shapes(turned[ours_at]) @ their_shapes[theirs_at].T)[row, column]
                for place in np.flatnonzero(alike >= NEAR_CORRELATION):
                    mine, match = here[start + rows[place]], there[first + columns[place]]
                    if alike[place] > best.get(mine, (0.0, 0, ""))[0]:
                        best[mine] = (float(alike[place]), match, how)
    return [(place, match, how) for place, (_, match, how) in sorted(best.items())]


def _blocks(looks: Sequence[Look | None], places: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Thumbnails, uint8 (n, SIDE, SIDE), some at a time, each time with the position of the first."""
    for start in range(0, len(places), _BLOCK):
        found = [looks[place] for place in places[start : start + _BLOCK]]
        yield start, np.stack([look.thumbnail for look in found if look is not None])


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """What `imagehash.phash` gives of each, of many at once: uint8 (n, SIDE, SIDE) -> float32 (n, 64) of -1 and 1."""
    from scipy.fft import dct

    waves = dct(dct(thumbnails.astype(np.float64), axis=1), axis=2)[:, :8, :8].reshape(-1, 64)
    return np.where(waves > np.median(waves, axis=1, keepdims=True), 1, -1).astype(np.float32)


def _shapes(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails of mean 0 and length 1, so that products are correlations: float32 (n, SIDE * SIDE)."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    shapes: np.ndarray = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return shapes
