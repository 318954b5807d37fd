"""YOLO's segmentation: `images/train/x.jpg`, `labels/train/x.txt` with a class and a polygon a line, `data.yaml`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from casam_cache.cutout import Cutout
from casam_cache.datasets.images import image_suffixes
from casam_cache.datasets.layouts.annotated import AnnotatedReader, Annotations
from casam_cache.datasets.layouts.placed import Shape
from casam_cache.datasets.layouts.polygon import fill, lies_outside
from casam_cache.datasets.listing import entries, walk
from casam_cache.datasets.sample import Dataset, DatasetOptions, Problem, Sample
from casam_cache.errors import DatasetError, ImageError

_LOOKED_AT = 200
_MOST_BYTES = 50_000_000


class Yolo(AnnotatedReader):
    """Reads polygons whose corners are shares of width and height; class 0 is class 1 here."""

    name = "yolo"

    def recognises(self, path: Path) -> bool:
        try:
            return any(_is_label(path / name) for name in islice(_label_files(path), _LOOKED_AT))
        except OSError:
            return False

    def load(self, path: Path, options: DatasetOptions) -> Annotations:
        told = Annotations(example="YOLO segmentation")
        labels = set(_label_files(path))
        by_folded = {name.casefold(): name for name in labels}
        names = _names(path)
        used: set[int] = set()
        boxes = 0
        for source in _images(path):
            wanted = _label_of(source)
            file = by_folded.get(wanted.casefold(), wanted)
            if file not in labels:
                told.bare(source, f"no {file}", "an empty file says that there is no object", options)
                continue
            labels.discard(file)
            try:
                shapes, wrong = _read(path / file)
            except ImageError as error:
                told.problems.append(
                    Problem(file, error.message.removeprefix(f"{path / file}: "), error.hint)
                )
                continue
            boxes += any("a box" in what for what in wrong)
            told.problems += [Problem(file, what, "correct the line", "warning") for what in wrong]
            used.update(shape.class_id for shape in shapes)
            told.add(source, file, shapes)
        if boxes and boxes >= len(told.found):
            raise DatasetError(
                f"{path}: its label files hold boxes, as for detection, and not polygons",
                "export it for segmentation",
            )
        told.problems += [
            Problem(file, "labels without an image", "add its image, or remove it", "warning")
            for file in sorted(labels)
        ]
        unknown = sorted(number for number in used if names and number not in names)
        if unknown:
            shown = ", ".join(str(number - 1) for number in unknown[:5])
            told.problems.append(Problem("data.yaml", f"classes without a name: {shown}", "", "warning"))
        told.classes = {number: names.get(number, str(number - 1)) for number in sorted({*names, *used})}
        return told

    def shapes(self, dataset: Dataset, sample: Sample, size: tuple[int, int]) -> Iterable[Shape]:
        return _read(dataset.root / sample.masks[0])[0]


def _read(path: Path) -> tuple[list[Shape], list[str]]:
    """The objects in one label file, and what is wrong with its lines.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ImageError(f"{path}: {path.stat().st_size:,} bytes are too many for labels", "look at it")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: cannot be read: {error}", "save it as text") from None
    shapes, wrong = [], []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            kind, numbers = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            wrong.append(f"line {number}: no class and numbers")
            continue
        if len(numbers) == 4:
            wrong.append(f"line {number}: a box, no polygon, left out")
        elif (
            kind < 0 or len(numbers) < 6 or len(numbers) % 2 or not all(-0.5 <= one <= 1.5 for one in numbers)
        ):
            wrong.append(f"line {number}: no class with corners between 0 and 1, left out")
        else:
            corners = tuple(zip(numbers[::2], numbers[1::2], strict=True))
            if lies_outside(corners, 1, 1):
                wrong.append(f"line {number}: it lies outside the image, left out")
                continue
            shapes.append(Shape(kind + 1, partial(_draw, corners)))
    return shapes, wrong


def _draw(shares: tuple[tuple[float, float], ...], size: tuple[int, int]) -> Cutout | None:
    return fill([(x * size[1], y * size[0]) for x, y in shares], size)


def _label_files(root: Path) -> Iterable[str]:
    """Text files in folders named `labels`, relative to the dataset folder."""
    for top in entries(root):
        if not top.is_dir():
            continue
        if top.name.casefold() == "labels":
            folder = top.name
        elif (root / top.name / "labels").is_dir():
            folder = f"{top.name}/labels"
        else:
            continue
        for name, _ in walk(root / folder, f"{folder}/"):
            if name.lower().endswith(".txt") and PurePosixPath(name).name.lower() != "classes.txt":
                yield name


def _images(root: Path) -> list[str]:
    return [
        name
        for name, _ in walk(root)
        if PurePosixPath(name).suffix.lower() in image_suffixes()
        and "images" in [part.casefold() for part in PurePosixPath(name).parts[:-1]]
    ]


def _label_of(source: str) -> str:
    """The label file of an image, as YOLO finds it: the last folder `images` becomes `labels`."""
    *folders, name = PurePosixPath(source).parts
    place = len(folders) - 1 - [folder.casefold() for folder in folders[::-1]].index("images")
    folders[place] = "labels"
    return "/".join([*folders, PurePosixPath(name).with_suffix(".txt").name])


def _is_label(path: Path) -> bool:
    with path.open("rb") as file:
        words = file.readline(1000).split()
    try:
        return (
            len(words) >= 5 and int(words[0]) >= 0 and all(-0.5 <= float(word) <= 1.5 for word in words[1:5])
        )
    except ValueError:
        return False


def _names(root: Path) -> dict[int, str]:
    """Name of each class, from 1, of the YAML file that lists them; empty where there is none."""
    import yaml

    for entry in entries(root):
        if entry.name.lower().endswith((".yaml", ".yml")) and entry.is_file():
            try:
                told: Any = yaml.safe_load(Path(entry.path).read_text(encoding="utf-8-sig"))
                names = told["names"]
                listed = names.items() if isinstance(names, dict) else enumerate(names)
                return {int(number) + 1: str(name) for number, name in listed}
            except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError):
                continue
    return {}
