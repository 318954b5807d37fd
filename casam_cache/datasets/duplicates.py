"""Images that are in two splits: of equal pixels, however they are saved, and such as look the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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
_TURNS: tuple[tuple[str, Image.Transpose | None], ...] = (
    ("", None),
    ("mirrored", Image.Transpose.FLIP_LEFT_RIGHT),
    ("upside down", Image.Transpose.FLIP_TOP_BOTTOM),
    ("turned", Image.Transpose.ROTATE_90),
    ("turned", Image.Transpose.ROTATE_180),
    ("turned", Image.Transpose.ROTATE_270),
    ("mirrored and turned", Image.Transpose.TRANSPOSE),
    ("mirrored and turned", Image.Transpose.TRANSVERSE),
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
        if look is not None:
            names.append((look.pixels, "pixels"))
        others = [(first.setdefault(name, sample), how) for name, how in names]
        found = next(((other, how) for other, how in others if other.split != sample.split), None)
        if found:
            yield sample, *found


def _near(samples: Sequence[Sample], looks: Sequence[Look | None]) -> Iterator[_Pair]:
    known = [place for place, look in enumerate(looks) if look is not None and np.ptp(look.thumbnail) > 0]
    by_split = {
        split: [place for place in known if samples[place].split == split]
        for split in ("train", "val", "test")
    }
    hashes: dict[int, np.ndarray] = {}
    found: set[int] = set()
    for split, other in _SIDES:
        here, there = by_split[split], by_split[other]
        if not here or not there:
            continue
        for place in (place for place in there if place not in hashes):
            hashes[place] = _hash(_thumbnail(looks, place), None)
        for start in range(0, len(here), _BLOCK):
            block = [place for place in here[start : start + _BLOCK] if place not in found]
            for place, match, how in _matches(looks, block, there, hashes) if block else ():
                found.add(place)
                yield samples[place], samples[match], f", {how}," if how else ""


def _matches(
    looks: Sequence[Look | None], block: Sequence[int], there: Sequence[int], hashes: dict[int, np.ndarray]
) -> list[tuple[int, int, str]]:
    """The best match of each image of `block` among `there`, where it has one, in any of the eight ways to turn it."""
    best: dict[int, tuple[float, int, str]] = {}
    for how, turn in _TURNS:
        ours = np.stack([_hash(_thumbnail(looks, place), turn) for place in block])
        for start in range(0, len(there), _BLOCK):
            others = there[start : start + _BLOCK]
            # Hashes are of -1 and 1, so that their product counts the bits that agree.
            agree = ours @ np.stack([hashes[place] for place in others]).T
            for row, column in zip(*np.nonzero(agree >= 64 - 2 * NEAR_BITS), strict=True):
                place, match = block[row], others[column]
                alike = _correlation(_turned(_thumbnail(looks, place), turn), _thumbnail(looks, match))
                if alike >= NEAR_CORRELATION and alike > best.get(place, (0.0, 0, ""))[0]:
                    best[place] = (alike, match, how)
    return [(place, match, how) for place, (_, match, how) in sorted(best.items())]


def _thumbnail(looks: Sequence[Look | None], place: int) -> np.ndarray:
    look = looks[place]
    assert look is not None
    return look.thumbnail


def _turned(thumbnail: np.ndarray, turn: Image.Transpose | None) -> np.ndarray:
    return thumbnail if turn is None else np.asarray(Image.fromarray(thumbnail).transpose(turn))


def _hash(thumbnail: np.ndarray, turn: Image.Transpose | None) -> np.ndarray:
    """The perceptual hash, float32 (64,) of -1 and 1."""
    import imagehash  # brings SciPy

    bits = imagehash.phash(Image.fromarray(_turned(thumbnail, turn))).hash
    return np.where(bits.reshape(-1), 1, -1).astype(np.float32)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1])
