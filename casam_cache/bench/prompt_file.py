"""Prompts as people write them: options of the command line, CSV and JSON files.

CSV has a header with any of these columns; a row is a box, a point, or both:

    image             path of the image in its folder, or `id`, an item of a store
    x0, y0, x1, y1    a box
    x, y, label       a point; its label is 1 for the object, 0 for what is not the object, and 1 where it is empty
    mask              path of a mask prompt, relative to this file
    object            a whole number from 1: rows of one image with the same one are one object

Without `object` each row is an object of its own, numbered from 1 in each image. JSON is a list of objects:

    [{"image": "a.png", "box": [x0, y0, x1, y1], "points": [[x, y], [x, y, 0]], "mask": "m.png", "object": 1}, ...]

Coordinates are pixels of the image after EXIF rotation.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from casam_cache.errors import OptionError

Box = tuple[float, float, float, float]
BOX, POINT = ("x0", "y0", "x1", "y1"), ("x", "y")
COLUMNS = ("image", "id", *BOX, *POINT, "label", "mask", "object")
FIELDS = ("image", "id", "box", "points", "mask", "object")
_GUIDE = "columns: image or id; x0,y0,x1,y1; x,y,label; mask; object (JSON: image or id, box, points, mask, object)"


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
    """

    name: str
    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    mask: Path | None = None
    number: int = 0

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
        }


def from_options(boxes: Sequence[str], points: Sequence[str], mask: Path | None) -> list[ObjectPrompt]:
    """The objects that --box, --point and --mask ask for: one for each box, or one for all that is given.

    Args:
        boxes: `x0,y0,x1,y1`.
        points: `x,y`, or `x,y,0` for what is not the object.
        mask: file of a mask prompt.

    Raises:
        OptionError: an option that cannot be read, or points that could belong to any of several boxes.
    """
    read = [_box(numbers(f"--box {text}", text.split(","), (4,))) for text in boxes]
    spots = [numbers(f"--point {text}", text.split(","), (2, 3)) for text in points]
    if len(read) > 1:
        if spots or mask is not None:
            what = "--point" if spots else "--mask"
            raise OptionError(
                f"{what} beside {len(read)} boxes does not say which object it belongs to",
                "each --box is an object; a prompts file joins boxes and points: --prompts FILE",
            )
        return [ObjectPrompt("", box, number=number) for number, box in enumerate(read, start=1)]
    if not (read or spots or mask is not None):
        raise OptionError("no prompt", "give --box x0,y0,x1,y1, --point x,y, --mask FILE or --prompts FILE")
    return [
        ObjectPrompt(
            "",
            read[0] if read else None,
            tuple((spot[0], spot[1]) for spot in spots),
            tuple(_label(f"--point {text}", spot) for text, spot in zip(points, spots, strict=True)),
            mask,
            1,
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
    return {image: _joined(prompts) for image, prompts in images.items()}


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


def _joined(prompts: Sequence[ObjectPrompt]) -> list[ObjectPrompt]:
    """Prompts of one image with those of the same object as one, numbered where they were not."""
    numbered = [prompt for prompt in prompts if prompt.number]
    if not numbered:
        return [replace(prompt, number=number) for number, prompt in enumerate(prompts, start=1)]
    if len(numbered) < len(prompts):
        missing = next(prompt for prompt in prompts if not prompt.number)
        raise OptionError(
            f"{missing.name} names no object, and others of the same image do",
            "name the object of all, or of none",
        )
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
        entry: dict[str, Any] = {key: given[key] for key in ("image", "id", "mask", "object") if key in given}
        for what, columns in (("box", BOX), ("points", POINT)):
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
    box = numbers(f"{name}, box", entry["box"], (4,)) if "box" in entry else None
    spots = [
        numbers(f"{name}, point", point if isinstance(point, list) else (), (2, 3))
        for point in entry.get("points", [])
    ]
    if box is None and not spots and mask is None:
        raise OptionError(f"{name} asks for nothing", _GUIDE)
    return image, ObjectPrompt(
        name,
        None if box is None else _box(box),
        tuple((spot[0], spot[1]) for spot in spots),
        tuple(_label(f"{name}, point", spot) for spot in spots),
        None if mask is None else path.parent / mask,
        _number(name, entry["object"]) if "object" in entry else 0,
    )


def _number(name: str, value: Any) -> int:
    try:
        number = int(value) if not isinstance(value, bool | float) else 0
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= 65535:
        raise OptionError(f"{name}: the object {value} is no whole number from 1 to 65535")
    return number


def _box(values: Sequence[float]) -> Box:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1


def _label(name: str, spot: Sequence[float]) -> int:
    label = spot[2] if len(spot) == 3 else 1
    if label not in (0, 1):
        raise OptionError(
            f"{name}: the label {label:g} is neither 1 nor 0", "1 is the object, 0 what is not the object"
        )
    return int(label)
