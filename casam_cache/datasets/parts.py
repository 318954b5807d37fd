"""The images of a plain folder, each with its mask files, or a problem that says why not."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from casam_cache.datasets.file_kinds import kind_of
from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.listing import entries, is_folder, walk
from casam_cache.datasets.pairing import Neighbours, Pairs, nearest_pair, pair, split_marked, what_parts
from casam_cache.datasets.places import EXPECTED, Place
from casam_cache.datasets.sample import Problem, SplitName
from casam_cache.datasets.seen import other_folders, unread_annotations
from casam_cache.errors import DatasetError
from casam_cache.printable import printable

_SECOND = (
    "a second mask of an image is named as its first with _1 behind, or both lie in a folder of its name"
)


@dataclass
class Found:
    """One image on its way to becoming a sample; `name` is its id without the split folder in front.

    `folder_split` is its official split, and `group` what may not be parted, where the layout says so.
    """

    id: str
    name: str
    image: str
    folder_split: SplitName | None
    masks: tuple[str, ...] = ()
    labelled: bool = True
    one_object_a_file: bool = False
    group: str = ""


@dataclass
class Part:
    """The files of one place."""

    root: Path
    place: Place
    problems: list[Problem] = field(default_factory=list)
    pairs: Pairs = field(default_factory=Pairs)
    orphans: dict[str, list[str]] = field(default_factory=dict)
    bare: dict[str, str] = field(default_factory=dict)

    def files(self, folder: str) -> dict[str, list[str]]:
        """Paths relative to the dataset folder of all image files in `folder`, by normalised stem path."""
        found: dict[str, list[str]] = {}
        whole = self.root / folder
        names: Sequence[str] = []
        if whole.is_dir():
            names = (
                [name for name, _ in walk(whole)]
                if self.place.deep
                else [entry.name for entry in entries(whole) if not is_folder(entry)]
            )
        for name in names:
            path = f"{folder}{name}"
            pure = PurePosixPath(name)
            if not name.isprintable():  # also true for bytes that are no UTF-8, which no store could keep
                self.problems.append(
                    Problem(
                        f"{folder}{printable(name)}", "a file name that is not printable text", "rename it"
                    )
                )
            elif pure.stem.endswith(self.place.skip):
                continue
            elif pure.suffix.lower() not in image_suffixes():
                kind = kind_of(whole / name)
                if kind is not None:
                    self.problems.append(Problem(path, f"{kind.name}, not read among image files", kind.hint))
                elif folder:  # beside images in the dataset's own folder lie its README and its tables
                    self.problems.append(
                        Problem(path, "not an image by its suffix, ignored", "move it elsewhere", "warning")
                    )
            else:
                stem = unicodedata.normalize("NFC", pure.with_suffix("").as_posix())
                found.setdefault(stem, []).append(path)
        return found

    def read(self, unlabelled: bool) -> list[Found]:
        """Every image that has one file, with its masks; the rest becomes problems."""
        images = self.files(self.place.images)
        if self.place.shared:
            own, marked = split_marked(images)
            masks = {stem: images[stem] for stem in marked}
            images = {stem: images[stem] for stem in own}
        else:
            masks = self.files(self.place.masks)
        objects: dict[str, list[str]] = {}
        for stem in [stem for stem in masks if stem not in images]:
            parent = stem.rpartition("/")[0]
            if parent in images and not self.place.shared:
                objects.setdefault(parent, []).extend(masks.pop(stem))
        self.pairs = pair(images, masks)
        found = []
        for stem, paths in sorted(images.items()):
            maps = [masks[mask] for mask in self.pairs.masks.get(stem, ())]
            id = self.place.prefix + stem
            if len(paths) > 1:
                self.refuse(stem, paths, "two images of one name")
            elif stem in self.pairs.ambiguous:
                readings = [path for _, mask in self.pairs.ambiguous[stem] for path in masks[mask]]
                self.refuse(id, readings, "two readings, the mask of this image may be", paths[0])
            else:
                one = Found(id, stem, paths[0], self.place.split)
                if self.attach(one, maps, objects.get(stem, []), unlabelled):
                    found.append(one)
        for mask, owners in self.pairs.ambiguous.items():
            if mask not in images:
                shown = " and ".join(images[image][0] for image, _ in owners)
                message = f"two readings, it may be the mask of {shown}"
                self.problems.append(Problem(masks[mask][0], message, "give it the name of its image"))
        self.report_orphans(images, masks)
        return found

    def attach(self, one: Found, maps: list[list[str]], objects: list[str], unlabelled: bool) -> bool:
        """Give an image its masks; False when it cannot be used."""
        folder = self.root / self.place.masks / one.name
        twice = next((paths for paths in maps if len(paths) > 1), None)
        if twice or (maps and objects):
            paths = twice or [path for paths in maps for path in paths]
            self.refuse(one.id, [*paths, *objects[:1]], "two masks of one name")
            return False
        files = [path for paths in maps for path in paths]
        one.masks = tuple(files or sorted(objects))
        one.one_object_a_file = len(files) > 1 or bool(objects) or (not files and folder.is_dir())
        one.labelled = bool(one.masks) or one.one_object_a_file
        if one.labelled or unlabelled:
            return True
        self.bare[one.name] = one.image
        wanted = f"{self.place.masks}{one.name}{'_mask' if self.place.shared else ''}.png"
        hint = f"add {wanted} (all black if empty)"
        hint += "" if self.pairs.orphans else ", or use --unlabelled"
        self.problems.append(Problem(one.image, "no mask", hint, sample=one.id))
        return False

    def report_orphans(self, images: dict[str, list[str]], masks: dict[str, list[str]]) -> None:
        near = Neighbours(images)
        for stem in self.pairs.orphans:
            self.orphans[stem] = masks[stem]
            image = near.of(stem)
            message, hint = "a mask without an image", "give it the name of its image, or remove it"
            if image is not None and image in self.pairs.masks:
                message += f"; the nearest, {images[image][0]}, has a mask"
                hint = f"{_SECOND}; or remove it"
            elif image is not None:
                message += f"; {what_parts(image, stem)} keeps it from {images[image][0]}"
            self.problems.extend(Problem(path, message, hint, "warning") for path in masks[stem])

    def refuse(self, sample: str, paths: Sequence[str], what: str, path: str = "") -> None:
        paths = sorted(paths)
        self.problems.append(
            Problem(path or paths[0], f"{what}: {' and '.join(paths)}", "keep one", sample=sample)
        )


def describe(parts: Sequence[Part], found: Sequence[Found]) -> str:
    """What was recognised, with an example of every way in which images and masks are paired."""
    examples: dict[str, Found] = {}
    counts: Counter[str] = Counter()
    pairs = {part.place.prefix: part.pairs for part in parts}
    for one in found:
        objects = "objects" if one.one_object_a_file else ""
        way = pairs[one.id.removesuffix(one.name)].mark.get(one.name, objects if one.masks else "no mask")
        counts[way] += 1
        if way not in examples or len(one.masks) > len(examples[way].masks):
            examples[way] = one  # the one with most masks shows best what is done with several
    shown = []
    for way, count in counts.most_common():
        names = [examples[way].image, *examples[way].masks[:3]]
        text = " + ".join(names) + (", no mask" if way == "no mask" else "")
        text += ", ..." if len(examples[way].masks) > 3 else ""
        shown.append(text + (f" ({count} images)" if len(counts) > 1 else ""))
    kind = "images and masks in one folder" if parts[0].place.shared else "folders of images and masks"
    return f"{kind}: {'; '.join(shown)}"


def refuse_nothing(
    root: Path, parts: Sequence[Part], found: Sequence[Found], problems: Sequence[Problem]
) -> None:
    """Raise when there is nothing to work with, or half of it could be read in two ways, saying the likely reason."""
    two = [problem for problem in problems if problem.message.startswith("two readings")]
    if two and len(two) >= len(found):
        raise DatasetError(
            f"{root}: {two[0].path}: {two[0].message}; so for {len(two)} files",
            "move the masks that are not meant elsewhere, or list images and masks in a table dataset.csv",
        )
    if found:
        return
    images = [image for part in parts for image in part.bare.values()]
    missing = [part.place.masks for part in parts if not (root / part.place.masks).is_dir()]
    if images and missing:
        raise DatasetError(*_without_masks(root, parts, missing[0]))
    if images:
        raise DatasetError(*_unpaired(root, parts, images))
    if problems:
        raise DatasetError(f"{root}: no usable image, for example {problems[0]}", EXPECTED)
    raise DatasetError(
        f"{root}: {parts[0].place.images} is empty", "put the images there, or give another folder"
    )


def _without_masks(root: Path, parts: Sequence[Part], missing: str) -> tuple[str, str]:
    """The message and the hint where there is no folder of masks: what there is instead."""
    message = f"{root}: no {missing} folder"
    unread = unread_annotations(root)
    others = other_folders(root, [part.place.images for part in parts])
    if others:
        message += f"; {', '.join(f'{name}/' for name in others)} may hold masks by another name"
        return (
            message,
            f"rename the folder that is meant to {missing}, or list its files in a table dataset.csv",
        )
    if unread:
        message += f"; {', '.join(unread)} is in no layout that is read"
        return message, (
            "export the annotations as COCO, YOLO segmentation (a class and corners between 0 and 1 a line), Label "
            "Studio's JSON or mask images; or use --unlabelled to encode images without masks"
        )
    return (
        message,
        "add masks with the names of the images, or use --unlabelled to encode images without masks",
    )


def _unpaired(root: Path, parts: Sequence[Part], images: list[str]) -> tuple[str, str]:
    message = f"{root}: no mask has the name of an image, for example "
    orphans = [path for part in parts for paths in part.orphans.values() for path in paths]
    if not orphans:
        return (
            f"{message}{images[0]}, and no mask at all",
            "a mask needs the file name of its image (the suffix may differ), or use --unlabelled",
        )
    hint = (
        "a mask has the name of its image, alone or with _mask, _segmentation, _gt, _label; rename them, "
        "or list images and masks in a table dataset.csv"
    )
    for part in parts:
        near = nearest_pair(list(part.bare), list(part.orphans))
        if near is not None:
            image, mask = near
            what = f"{what_parts(image, mask)} keeps them apart"
            return f"{message}{part.bare[image]} and {part.orphans[mask][0]}: {what}", hint
    return f"{message}{images[0]} and {orphans[0]}", hint
