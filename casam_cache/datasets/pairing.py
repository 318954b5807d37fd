"""Which mask file belongs to which image, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from casam_cache.datasets.images import image_suffixes

MASK_MARKS = (
    "mask", "masks", "segmentation", "seg", "segm", "gt", "groundtruth", "ground_truth", "ground-truth", "label",
    "labels", "annotation", "annotations", "anno", "manual",
)  # fmt: skip
"""What a mask's name adds to its image's: `x_mask`, `x-mask`, `mask_x`, and `x_mask_1`, `x_mask_2` for several."""

IMAGE_MARKS = ("image", "img", "im")
"""What an image's name may add where its mask's does not: `x_img` beside `x_mask`."""

_SEPARATORS = r"[ ._-]"


def _suffix_pattern(marks: Sequence[str], number: str) -> re.Pattern[str]:
    listed = "|".join(sorted(marks, key=len, reverse=True))
    return re.compile(rf"(?P<core>.+?)(?P<mark>{_SEPARATORS}+(?:{listed})){number}", re.IGNORECASE)


def _prefix_pattern(marks: Sequence[str]) -> re.Pattern[str]:
    listed = "|".join(sorted(marks, key=len, reverse=True))
    return re.compile(rf"(?P<mark>(?:{listed}){_SEPARATORS}+)(?P<core>.+)", re.IGNORECASE)


_MASK_SUFFIX = _suffix_pattern(MASK_MARKS, rf"(?:{_SEPARATORS}?\(?(?P<number>\d{{1,4}})\)?)?")
_MASK_PREFIX = _prefix_pattern(MASK_MARKS)
_IMAGE_SUFFIX = _suffix_pattern(IMAGE_MARKS, "")
_IMAGE_PREFIX = _prefix_pattern(IMAGE_MARKS)


@dataclass(frozen=True)
class Form:
    """One way to read a file's name: `core` is what it shares with its partner, `mark` what it adds.

    Attributes:
        core: the stem path without the mark.
        mark: e.g. `_mask`, `mask_`, or `.jpg` where the name of the image is kept whole (`x.jpg.png`).
        numbered: a number follows the mark, so that there may be several.
    """

    core: str
    mark: str
    numbered: bool = False


def mask_forms(stem: str) -> Iterator[Form]:
    """Every way in which a name reads as that of a mask: `a_mask_1` is the mask `_mask` of `a`."""
    yield from _forms(stem, _MASK_SUFFIX, _MASK_PREFIX)
    pure = PurePosixPath(stem)
    if pure.suffix.lower() in image_suffixes():
        yield Form(pure.with_suffix("").as_posix(), pure.suffix)


def _image_forms(stem: str) -> Iterator[Form]:
    yield from _forms(stem, _IMAGE_SUFFIX, _IMAGE_PREFIX)


def _forms(stem: str, suffix: re.Pattern[str], prefix: re.Pattern[str]) -> Iterator[Form]:
    parent, slash, name = stem.rpartition("/")
    for pattern in (suffix, prefix):
        match = pattern.fullmatch(name)
        if match:
            numbered = bool(match.groupdict().get("number"))
            yield Form(f"{parent}{slash}{match['core']}", match["mark"], numbered)


@dataclass
class Pairs:
    """What names say.

    Attributes:
        masks: stems of the masks of each image stem, sorted; images without a mask are not in it.
        ambiguous: for an image, or a mask that fits several images, the readings there are, as (image, mask) stems.
        orphans: masks of no image.
        mark: what the name of its masks adds to that of an image: nothing for the same name, `_mask`, and so on.
    """

    masks: dict[str, list[str]] = field(default_factory=dict)
    ambiguous: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    mark: dict[str, str] = field(default_factory=dict)


class _Images:
    """Image stems, found by name, by name without `_img`, and without regard to case."""

    def __init__(self, stems: Iterable[str]) -> None:
        self.exact = set(stems)
        self.marked: dict[str, list[str]] = {}
        self.folded: dict[str, list[str]] = {}
        for stem in sorted(self.exact):
            self.folded.setdefault(stem.casefold(), []).append(stem)
            for form in _image_forms(stem):
                self.marked.setdefault(form.core, []).append(stem)
                self.folded.setdefault(form.core.casefold(), []).append(stem)

    def of(self, forms: Sequence[Form]) -> dict[str, Form]:
        """The images that a mask may belong to, by the closest kind of match that there is."""
        exact = {form.core: form for form in forms if form.core in self.exact}
        if exact:
            return exact
        for known, key in ((self.marked, str), (self.folded, str.casefold)):
            found = {stem: form for form in forms for stem in known.get(key(form.core), ())}
            if found:
                return found
        return {}


def pair(images: Iterable[str], masks: Iterable[str]) -> Pairs:
    """Give each mask its image, by stem paths; nothing is guessed where two readings are possible.

    The same name comes first, then a mark at either end (`x_mask`, `mask_x`, `x.jpg.png`), then one at the image's name
    too (`x_img` and `x_mask`), then the same with other case. Several masks of an image differ by a number after the
    same mark.
    """
    known, result = _Images(images), Pairs()
    found: dict[str, dict[str, list[tuple[str, Form]]]] = {}
    for mask in sorted(masks):
        forms = [Form(mask, "")] if mask in known.exact else [*mask_forms(mask), Form(mask, "")]
        owners = known.of(forms)
        if len(owners) > 1:
            result.ambiguous[mask] = [(image, mask) for image in sorted(owners)]
        elif owners:
            ((image, form),) = owners.items()
            found.setdefault(image, {}).setdefault(form.mark.casefold(), []).append((mask, form))
        else:
            result.orphans.append(mask)
    for image, by_mark in sorted(found.items()):
        unnumbered = max(sum(not form.numbered for _, form in group) for group in by_mark.values())
        if len(by_mark) > 1 or unnumbered > 1:
            result.ambiguous[image] = [
                (image, mask) for group in by_mark.values() for mask, _ in sorted(group, key=_mask_of)
            ]
            continue
        ((mark, group),) = by_mark.items()
        result.masks[image] = [mask for mask, _ in sorted(group, key=_mask_of)]
        result.mark[image] = mark
    return result


def _mask_of(entry: tuple[str, Form]) -> tuple[list[str | int], str]:
    """`x_mask_2` before `x_mask_10`."""
    parts = re.split(r"(\d+)", entry[0])
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], entry[0]


def split_marked(stems: Iterable[str]) -> tuple[set[str], set[str]]:
    """The images and the masks of one folder that holds both: a mask has a mark, and what remains is an image there.

    Returns:
        Stems of images, and stems of masks; what is named as other masks are counts as a mask without its image too.
    """
    forms = {stem: list(mask_forms(stem)) for stem in stems}
    images = {stem for stem in forms if not forms[stem]}
    cores = {core for stem in images for core in _cores(stem)}
    masks: set[str] = set()
    for stem in sorted(forms.keys() - images, key=lambda stem: (len(stem), stem)):
        if any(form.core.casefold() in cores for form in forms[stem]):
            masks.add(stem)
        else:  # an image may itself be called so: x_seg, whose mask is x_seg_mask
            images.add(stem)
            cores.update(_cores(stem))
    owned = {form.core.casefold() for mask in masks for form in forms[mask]}
    used = {form.mark.casefold() for mask in masks for form in forms[mask]}
    orphans = {
        stem
        for stem in images
        if stem.casefold() not in owned and any(form.mark.casefold() in used for form in forms[stem])
    }
    return images - orphans, masks | orphans


def _cores(image: str) -> set[str]:
    return {image.casefold(), *(form.core.casefold() for form in _image_forms(image))}


def what_parts(image: str, mask: str) -> str:
    """What keeps the names of an image and a mask apart, for people; empty where they have nothing in common."""
    if mask.casefold() == image.casefold():
        return "upper and lower case"
    for longer, shorter, whose in ((mask, image, "mask"), (image, mask, "image")):
        if longer.casefold().startswith(shorter.casefold()):
            return f"the ending '{longer[len(shorter) :]}' of the {whose}"
        if longer.casefold().endswith(shorter.casefold()):
            return f"the beginning '{longer[: -len(shorter)]}' of the {whose}"
    if _without_zeros(image) == _without_zeros(mask):
        return "the zeros in front of a number"
    return ""


class Neighbours:
    """Finds the image whose name is nearest to that of a mask that has none."""

    def __init__(self, images: Iterable[str]) -> None:
        self._folded = {image.casefold(): image for image in images}
        self._zeros = {_without_zeros(image): image for image in self._folded.values()}

    def of(self, mask: str) -> str | None:
        """The image that a mask's name begins or ends with, or that differs in zeros alone; None where none does."""
        folded = mask.casefold()
        pieces = (folded[:cut] for cut in range(len(folded), 0, -1))
        ends = (folded[cut:] for cut in range(1, len(folded)))
        for piece in (*pieces, *ends):
            if piece in self._folded:
                return self._folded[piece]
        return self._zeros.get(_without_zeros(mask))


def nearest_pair(images: Sequence[str], masks: Sequence[str]) -> tuple[str, str] | None:
    """An image and a mask that might belong together; None where no two names look so."""
    of_image, of_mask = Neighbours(images), Neighbours(masks)
    for mask in masks:
        if (image := of_image.of(mask)) is not None:
            return image, mask
    for image in images:
        if (found := of_mask.of(image)) is not None:
            return image, found
    return None


def _without_zeros(stem: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", stem.casefold())
