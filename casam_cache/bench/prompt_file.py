"""Prompts as people write them: options of the command line, CSV and JSON files.

CSV has a header with any of these columns; a row is a box, a point, or both:

    image             path of the image in its folder, or `id`, an item of a store
    x0, y0, x1, y1    a box
    z0, z1            of a volume: first and last slice of the box
    slice             of a volume, in place of z0 and z1: the slice of the row (12), or first and last (3-20)
    x, y, label       a point; its label is 1 for the object, 0 for what is not the object, and 1 where it is empty
    mask              path of a mask prompt, relative to this file
    object            a whole number from 1: rows of one image with the same one are one object

Without `object` each row is an object of its own, numbered from 1 in each image; rows of a volume on slices that differ
are one object. JSON is a list of objects, whose `box` has six numbers, x0, y0, z0, x1, y1, z1, on a volume:

    [{"image": "a.png", "box": [x0, y0, x1, y1], "points": [[x, y], [x, y, 0]], "mask": "m.png", "object": 1}, ...]

Coordinates are pixels of the image after EXIF rotation.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from casam_cache.errors import OptionError

Box = tuple[float, float, float, float]
BOX, POINT = ("x0", "y0", "x1", "y1"), ("x", "y")
DEPTH = ("z0", "z1")
_BOX_3D = ("x0", "y0", "z0", "x1", "y1", "z1")
COLUMNS = ("image", "id", *BOX, *DEPTH, "slice", *POINT, "label", "mask", "object")
FIELDS = ("image", "id", "box", "slice", "points", "mask", "object")
_GUIDE = (
    "columns: image or id; x0,y0,x1,y1; x,y,label; mask; object; of volumes slice, or z0,z1 "
    "(JSON: image or id, box, points, mask, object, slice)"
)


@dataclass(frozen=True)
class ObjectPrompt:
    """What asks for one object of one image; not checked against the image yet.

    Attributes:
        name: for messages, e.g. `prompts.csv, line 4`; empty for the options of the command line.
        box: x0, y0, x1, y1.
        points: x, y of each.
        labels: 1 foreground or 0 background of each.
        mask: file of a mask prompt.
        number: of the object in a label map, from 1.
        slices: of a volume, the first and the last that it is about; None: all, or an image.
    """

    name: str
    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    mask: Path | None = None
    number: int = 0
    slices: tuple[int, int] | None = None

    def name_of(self, what: str) -> str:
        """How a message calls its `box`, `point` or `mask`."""
        return f"{self.name}, {what}" if self.name else f"--{what}"

    def to_json(self) -> dict[str, Any]:
        """What was asked, without what was not."""
        points = [[*point, label] for point, label in zip(self.points, self.labels, strict=True)]
        return {
            **({} if self.box is None else {"box": list(self.box)}),
            **({"points": points} if points else {}),
            **({} if self.mask is None else {"mask_prompt": str(self.mask)}),
            **({} if self.slices is None else {"slices": list(self.slices)}),
        }


def from_options(boxes: Sequence[str], points: Sequence[str], mask: Path | None) -> list[ObjectPrompt]:
    """The objects that --box, --point and --mask ask for: one for each box, or one for all that is given.

    Args:
        boxes: `x0,y0,x1,y1`, or of a volume `x0,y0,z0,x1,y1,z1`.
        points: `x,y`, or `x,y,0` for what is not the object.
        mask: file of a mask prompt.

    Raises:
        OptionError: an option that cannot be read, or points that could belong to any of several boxes.
    """
    read = [_box(f"--box {text}", numbers(f"--box {text}", text.split(","), (4, 6))) for text in boxes]
    spots = [numbers(f"--point {text}", text.split(","), (2, 3)) for text in points]
    if len(read) > 1:
        if spots or mask is not None:
            what = "--point" if spots else "--mask"
            raise OptionError(
                f"{what} beside {len(read)} boxes does not say which object it belongs to",
                "each --box is an object; a prompts file joins boxes and points: --prompts FILE",
            )
        return [
            ObjectPrompt("", box, number=number, slices=slices)
            for number, (box, slices) in enumerate(read, start=1)
        ]
    if not (read or spots or mask is not None):
        raise OptionError("no prompt", "give --box x0,y0,x1,y1, --point x,y, --mask FILE or --prompts FILE")
    return [
        ObjectPrompt(
            "",
            read[0][0] if read else None,
            tuple((spot[0], spot[1]) for spot in spots),
            tuple(_label(f"--point {text}", spot) for text, spot in zip(points, spots, strict=True)),
            mask,
            1,
            read[0][1] if read else None,
        )
    ]


def read_prompts(path: Path) -> dict[str, list[ObjectPrompt]]:
    """The objects of each image in a file, by what its `image` or `id` says, in the file's order.

    Rows that name no image have the empty name.

    Args:
        path: .csv or .json, see above.

    Raises:
        OptionError: it cannot be read; the message names the line or the object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"--prompts {path} cannot be read: {reason}") from None
    if path.suffix.lower() not in (".csv", ".json"):
        raise OptionError(f"--prompts {path}: the name ends neither in .csv nor in .json", _GUIDE)
    rows = _json_rows(path, text) if path.suffix.lower() == ".json" else _csv_rows(path, text)
    images: dict[str, list[ObjectPrompt]] = {}
    for image, prompt in rows:
        images.setdefault(image, []).append(prompt)
    if not images:
        raise OptionError(f"--prompts {path} holds no prompt", _GUIDE)
    return {image: joined(prompts) for image, prompts in images.items()}


def numbers(name: str, parts: Sequence[Any], counts: Sequence[int]) -> tuple[float, ...]:
    """As many numbers as one of `counts`.

    Raises:
        OptionError: they are others; `name` says which.
    """
    try:
        found = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        found = ()
    if len(found) not in counts:
        wanted = " or ".join(map(str, counts))
        raise OptionError(f"{name}: expected {wanted} numbers with commas between")
    return found


def joined(prompts: Sequence[ObjectPrompt]) -> list[ObjectPrompt]:
    """Prompts of one image with those of the same object as one, numbered where they were not."""
    if any(prompt.slices for prompt in prompts):
        return joined_slices(prompts)
    numbered = [prompt for prompt in prompts if prompt.number]
    if not numbered:
        return [replace(prompt, number=number) for number, prompt in enumerate(prompts, start=1)]
    _refuse_some_numbered(prompts)
    found: dict[int, ObjectPrompt] = {}
    for prompt in prompts:
        first = found.get(prompt.number)
        if first is None:
            found[prompt.number] = prompt
            continue
        for what in ("box", "mask"):
            if getattr(first, what) is not None and getattr(prompt, what) is not None:
                raise OptionError(
                    f"{prompt.name} is a second {what} of object {prompt.number}, after {first.name}",
                    "an object has one box and one mask; give the other object another number",
                )
        found[prompt.number] = replace(
            first,
            box=first.box or prompt.box,
            points=first.points + prompt.points,
            labels=first.labels + prompt.labels,
            mask=first.mask or prompt.mask,
        )
    return list(found.values())


def joined_slices(prompts: Sequence[ObjectPrompt]) -> list[ObjectPrompt]:
    """Prompts of one volume, each still of its own slices, numbered where they were not: then all are one object.

    Raises:
        OptionError: two are about one slice and name no object, or only some name one.
    """
    if any(prompt.number for prompt in prompts):
        _refuse_some_numbered(prompts)
        return list(prompts)
    ordered = sorted(prompts, key=lambda prompt: prompt.slices or (0, 0))
    for before, after in pairwise(ordered):
        if before.slices is None or after.slices is None or after.slices[0] <= before.slices[1]:
            raise OptionError(
                f"{before.name} and {after.name} are about the same slice, and name no object",
                "give each row the number of its object: rows of one number are one object over the slices",
            )
    return [replace(prompt, number=1) for prompt in prompts]


def _refuse_some_numbered(prompts: Sequence[ObjectPrompt]) -> None:
    missing = next((prompt for prompt in prompts if not prompt.number), None)
    if missing is not None:
        raise OptionError(
            f"{missing.name} names no object, and others of the same image do",
            "name the object of all, or of none",
        )


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, ObjectPrompt]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or []]
    if not header:
        raise OptionError(f"--prompts {path} is empty", _GUIDE)
    unknown = sorted(set(header) - set(COLUMNS))
    if unknown or len(set(header)) < len(header):
        raise OptionError(f"--prompts {path}: unknown or repeated column in {','.join(header)}", _GUIDE)
    reader.fieldnames = header
    for row in reader:
        name = f"{path.name}, line {reader.line_num}"
        if None in row or None in row.values():
            raise OptionError(f"{name} has not {len(header)} values, as the header has")
        given = {key: value.strip() for key, value in row.items() if value.strip()}
        entry: dict[str, Any] = {
            key: given[key] for key in ("image", "id", "mask", "object", "slice") if key in given
        }
        deep = any(column in given for column in DEPTH)
        for what, columns in (("box", _BOX_3D if deep else BOX), ("points", POINT)):
            found = [column for column in columns if column in given]
            if found and len(found) < len(columns):
                raise OptionError(f"{name}: {', '.join(found)} without the rest of {','.join(columns)}")
            if found:
                entry[what] = [given[column] for column in columns]
        if "points" in entry:
            entry["points"] = [entry["points"] + ([given["label"]] if "label" in given else [])]
        elif "label" in given:
            raise OptionError(f"{name}: a label without x,y")
        yield _object(path, name, entry)


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, ObjectPrompt]]:
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise OptionError(f"--prompts {path} is not JSON: {error}", _GUIDE) from None
    if not isinstance(entries, list):
        raise OptionError(f"--prompts {path} holds no list of objects", _GUIDE)
    for number, entry in enumerate(entries, start=1):
        name = f"{path.name}, object {number}"
        if not isinstance(entry, dict) or not set(entry) <= set(FIELDS):
            raise OptionError(f"{name} has other fields than {', '.join(FIELDS)}", _GUIDE)
        if not isinstance(entry.get("points", []), list) or not isinstance(entry.get("box", []), list):
            raise OptionError(f"{name}: a box is [x0, y0, x1, y1], points are [[x, y], [x, y, label], ...]")
        yield _object(path, name, entry)


def _object(path: Path, name: str, entry: Mapping[str, Any]) -> tuple[str, ObjectPrompt]:
    if "image" in entry and "id" in entry:
        raise OptionError(f"{name} names an image and an id", "name one of the two")
    image = entry.get("image", entry.get("id", ""))
    mask = entry.get("mask")
    if not isinstance(image, str) or not isinstance(mask, str | None):
        raise OptionError(f"{name}: image, id and mask are text")
    box, slices = None, slice_range(f"{name}, slice", entry["slice"]) if "slice" in entry else None
    if "box" in entry:
        box, deep = _box(f"{name}, box", numbers(f"{name}, box", entry["box"], (4, 6)))
        if deep is not None and slices is not None:
            raise OptionError(f"{name} says twice which slices it is about", "give z0 and z1, or slice")
        slices = deep or slices
    spots = [
        numbers(f"{name}, point", point if isinstance(point, list) else (), (2, 3))
        for point in entry.get("points", [])
    ]
    if box is None and not spots and mask is None:
        raise OptionError(f"{name} asks for nothing", _GUIDE)
    return image, ObjectPrompt(
        name,
        box,
        tuple((spot[0], spot[1]) for spot in spots),
        tuple(_label(f"{name}, point", spot) for spot in spots),
        None if mask is None else path.parent / mask,
        _number(name, entry["object"]) if "object" in entry else 0,
        slices,
    )


def _number(name: str, value: Any) -> int:
    try:
        number = int(value) if not isinstance(value, bool | float) else 0
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= 65535:
        raise OptionError(f"{name}: the object {value} is no whole number from 1 to 65535")
    return number


def slice_range(name: str, value: Any) -> tuple[int, int]:
    """First and last slice of 12, `12`, `3-20` or [3, 20].

    Raises:
        OptionError: of anything else; `name` says where it stands.
    """
    parts = value if isinstance(value, list) else str(value).split("-")
    try:
        found = [int(str(part)) for part in parts]
    except ValueError:
        found = []
    if len(found) not in (1, 2) or not 0 <= found[0] <= found[-1]:
        raise OptionError(
            f"{name}: {value} is no slice", "give one from 0, such as 12, or first and last, such as 3-20"
        )
    return found[0], found[-1]


def _box(name: str, values: Sequence[float]) -> tuple[Box, tuple[int, int] | None]:
    """A box, and of six numbers its slices."""
    if len(values) == 4:
        x0, y0, x1, y1 = values
        return (x0, y0, x1, y1), None
    x0, y0, z0, x1, y1, z1 = values
    if not (z0.is_integer() and z1.is_integer() and 0 <= z0 <= z1):
        raise OptionError(
            f"{name}: the slices {z0:g} to {z1:g} are not two whole numbers, the first not above the last",
            "a box of a volume is x0,y0,z0,x1,y1,z1, where z0 and z1 are its first and its last slice, from 0",
        )
    return (x0, y0, x1, y1), (int(z0), int(z1))


def _label(name: str, spot: Sequence[float]) -> int:
    label = spot[2] if len(spot) == 3 else 1
    if label not in (0, 1):
        raise OptionError(
            f"{name}: the label {label:g} is neither 1 nor 0", "1 is the object, 0 what is not the object"
        )
    return int(label)
