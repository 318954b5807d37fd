"""The plain types every reader of datasets produces and everything after it consumes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.datasets.catalogue import get_entry
from casam_cache.datasets.legend import check_legend, read_legend
from casam_cache.datasets.named_values import parse_value
from casam_cache.datasets.portion import check_pages, parse_channels
from casam_cache.datasets.tiles import Grid, Tile
from casam_cache.errors import OptionError

if TYPE_CHECKING:
    from casam_cache.datasets.base import Reader

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
MASK_MODES = ("binary", "classes", "instances", "components")
SPLIT_SOURCES = ("folders", "table", "drawn")
EXIF = ("apply", "ignore")
_UNSET = (
    ("masks", "auto"), ("group_regex", ""), ("split_by", "auto"), ("pages", "auto"), ("channels", "auto"),
    ("exif", "auto"), ("background", "auto"), ("ignore", "none"), ("legend", "none"),
)  # fmt: skip
AXES = ("axial", "coronal", "sagittal", "0", "1", "2")
SLICES = r"nonempty|all|every:[1-9]\d*"
TILES = ("nonempty", "all")
DEFAULT_MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Sample:
    """One image of a dataset, by name: its pixels and masks are asked of the reader. Plain text, so it travels.

    Attributes:
        id: unique in its task. The built-in reader takes the posix path of the image inside `images/`, without suffix;
            images of the layout `train/images`, `test/images` carry the split folder in front (`train/0001`), since
            numbering often restarts.
        source: what the reader finds the image by, and what the store records: a posix path relative to the dataset
            folder. Of several images in one file each adds what tells it apart, e.g. `volume.npz#12`.
        split: `train`, `val` or `test`.
        group: what must not be parted over splits (a patient, a parent slide).
        masks: names that the reader finds its masks by, e.g. files relative to the dataset folder.
        labelled: False when there is no mask at all, which is not the same as an empty mask.
        one_object_a_file: each of `masks` is one object (a folder `masks/STEM/`), not a label map.
        tile: where it lies in a larger image that was cut into tiles; its split and group are those of that image.
    """

    id: str
    source: str
    split: SplitName
    group: str
    masks: tuple[str, ...] = ()
    labelled: bool = True
    one_object_a_file: bool = False
    tile: Tile | None = None


@dataclass(frozen=True, init=False)
class Mask:
    """One object or class of one image: `Mask(bitmap, class_id, instance)`, bool (H, W) at the image's original size.

    A reader of many small objects gives `Mask(Cutout(...), class_id, instance)`, which costs the object's rectangle
    and not the image. Either way it holds at least one pixel.

    Attributes:
        cutout: where it is.
        class_id: >= 1.
        instance: >= 1, number of the object inside its class (`instances`: the label's own number).
    """

    cutout: Cutout
    class_id: int
    instance: int

    def __init__(self, bitmap: np.ndarray | Cutout, class_id: int, instance: int) -> None:
        cutout = bitmap if isinstance(bitmap, Cutout) else Cutout.of(bitmap)
        object.__setattr__(self, "cutout", cutout)
        object.__setattr__(self, "class_id", class_id)
        object.__setattr__(self, "instance", instance)

    @property
    def bitmap(self) -> np.ndarray:
        """Bool (H, W) at the image's original size; of a cutout it is made anew each time."""
        return self.cutout.bitmap


@dataclass(frozen=True)
class MaskValues:
    """How the pixel values of all mask files of one dataset are to be read.

    Attributes:
        values: every distinct value, sorted; packed 0xRRGGBB when `coloured`.
        coloured: some mask uses real colours, so values are colours and classes count the sorted colours from
            1.
        soft: all masks show one thing with soft edges, or in several codings: each is cut in the middle between
            background and `white`.
        lossy: what becomes of files whose values a lossy compression changed: they are `cut` too, or `refused`.
        white: value of the thing that is cut out.
        codings: what stands for white in files that are cut: 1, 255 or 65535, where not only `white` does.
        refused: why files that hold other values than `values` are refused; empty: they are not.
        background: the value that is no class; None is 0. Where it is another, 0 is a class as others are, and takes
            the number of the background, which nothing else has.
        ignore: the value of pixels that count nowhere.
        alpha: the labels are in the alpha channel.
        legend: names and values of the classes, in their order: colours are numbered by it, from 1.
    """

    values: tuple[int, ...] = ()
    coloured: bool = False
    soft: bool = False
    lossy: Literal["", "cut", "refused"] = ""
    white: int = 255
    codings: tuple[int, ...] = ()
    refused: str = ""
    background: int | None = None
    ignore: int | None = None
    alpha: bool = False
    legend: tuple[tuple[str, int], ...] = ()

    @property
    def foreground(self) -> tuple[int, ...]:
        """All values but the background's, which in coloured masks is black unless another was named."""
        ordered = [value for _, value in self.legend] or self.values
        return tuple(value for value in ordered if value not in (self.background or 0, self.ignore))

    @property
    def legend_of_colours(self) -> bool:
        return self.coloured and bool(self.legend)

    @property
    def class_names(self) -> dict[int, str]:
        """Names by class number, of classes that a legend names."""
        names = {value: name for name, value in self.legend}
        if self.coloured:
            return {number: names[value] for number, value in enumerate(self.foreground, 1) if value in names}
        return {value or self.background or 0: names[value] for value in self.foreground if value in names}


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file, row or setting.

    Attributes:
        path: the file, relative to the dataset folder.
        message: what is wrong.
        hint: what to do about it.
        severity: `error` when the item cannot be used, `warning` when it can but should be looked at.
        sample: id of the sample concerned, empty when there is none.
    """

    path: str
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"
    sample: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class DatasetOptions:
    """What a reader needs to be told; the same for every task of one command.

    What is not given is taken from the store that is gone on with (`over`), and only then is the default meant. A new
    option is one field here, of plain JSON data (a tuple for a list) and with a default that changes nothing for those
    who do not give it, and one line in `casam_cli.dataset_options`; stores, `data check` and `encode` then know it.

    Attributes:
        masks: one of `MASK_MODES`, or None to decide between binary and classes from all values of the
            dataset.
        unlabelled: images without a mask are kept (unlabelled) instead of being reported and left out.
        group_regex: finds the group in an id: its first capture group, or the whole match; empty is None.
        test_fraction: share of the images that become test where the dataset itself has no split; 1 makes all
            test.
        val_fraction: share of the train images, in whole groups, that become validation.
        seed: of both splits.
        split_by: one of `SPLIT_SOURCES`: what says the split where a plain folder has several answers. None takes the
            one there is, and a draw where there is none.
        folds, fold: the images are divided into so many folds by group, and this one, from 1, is the test split, or the
            validation split where the dataset has a test split of its own. 0 is none.
        background: the value or colour (`#rrggbb`) of masks that is background; None is 0 or black.
        ignore: the value or colour of masks whose pixels count nowhere, neither in training nor in any score.
        legend: names of classes with their colours or values, or the file that lists them (`read_legend`).
        max_pixels: larger images and masks are refused before they are decoded.
        dataset: which of `casam_cache.datasets.catalogue` it is; names the task and chooses the reader.
        pages: what counts of files with several pages: `first`, the number of one from 1, `all` (each is an image, of
            a stack that is one group), or `objects` (each page of a mask is one object); None, also written `auto`,
            refuses such files.
        channels: one number, or three for red, green and blue, as `3,2,1`; None, also written `auto`, takes grey and
            RGB as they are and refuses files of other channels.
        exif: `apply` the orientation that a camera noted, or `ignore` it, in images and masks; None, also written
            `auto`, applies it, with a warning where it cannot be told whether the masks are meant so.
        axis: that volumes are cut along: `axial`, `coronal`, `sagittal`, or the number of a voxel axis; None is axial,
            or as stored where a file does not say how it lies in the patient.
        slices: of volumes: `nonempty` (None, those that hold a label), `all`, or `every:K`.
        series: instance UID, number or description of the DICOM series that is meant, where there are several.
        tile: images larger than so many pixels are cut into tiles of this side; None cuts none.
        overlap: of neighbouring tiles, pixels; None is an eighth of `tile`.
        tiles: of images with masks, `nonempty` (None, those that hold something of a mask), or `all`.
    """

    masks: str | None = None
    unlabelled: bool = False
    group_regex: str | None = None
    test_fraction: float = 0.3
    val_fraction: float = 0.0
    seed: int = 0
    max_pixels: int = DEFAULT_MAX_PIXELS
    split_by: str | None = None
    dataset: str | None = None
    pages: str | None = None
    channels: str | None = None
    exif: str | None = None
    folds: int = 0
    fold: int = 0
    background: str | None = None
    ignore: str | None = None
    axis: str | None = None
    slices: str | None = None
    series: str | None = None
    legend: str | tuple[tuple[str, str], ...] | None = None
    tile: int | None = None
    overlap: int | None = None
    tiles: str | None = None

    def __new__(cls, *values: Any, **named: Any) -> DatasetOptions:
        made = super().__new__(cls)
        names = [field.name for field in fields(cls)]
        object.__setattr__(made, "_given", frozenset((*names[: len(values)], *named)))
        return made

    def __post_init__(self) -> None:
        for name, unset in _UNSET:
            if getattr(self, name) == unset:
                object.__setattr__(self, name, None)
        if self.dataset is not None:
            object.__setattr__(self, "dataset", get_entry(self.dataset).name)
        if self.pages is not None:
            check_pages(self.pages)
        if self.channels is not None:
            parse_channels(self.channels)
        if self.exif is not None and self.exif not in EXIF:
            raise OptionError(
                f"unknown way with EXIF orientations '{self.exif}'", f"available: auto, {', '.join(EXIF)}"
            )
        if isinstance(self.legend, str):
            object.__setattr__(self, "legend", read_legend(Path(self.legend).expanduser()))
        elif self.legend is not None:
            rows = [(str(name), str(value)) for name, value in self.legend]
            object.__setattr__(self, "legend", check_legend(rows, "of the store"))
        for name in ("background", "ignore"):
            if getattr(self, name) is not None:
                parse_value(getattr(self, name), f"--{name}")
        if self.masks is not None and self.masks not in MASK_MODES:
            raise OptionError(f"unknown mask mode '{self.masks}'", f"available: {', '.join(MASK_MODES)}")
        if self.split_by is not None and self.split_by not in SPLIT_SOURCES:
            raise OptionError(
                f"a split by '{self.split_by}' is unknown", f"available: auto, {', '.join(SPLIT_SOURCES)}"
            )
        if self.folds < 0 or self.folds == 1 or self.fold < 0:
            raise OptionError(
                f"fold {self.fold} of {self.folds} folds", "for example --folds 5 --fold 2; --folds 0: none"
            )
        if not 0 <= self.test_fraction <= 1:
            raise OptionError(f"the test fraction is {self.test_fraction}", "give a number from 0 to 1")
        if not 0 <= self.val_fraction < 1:
            raise OptionError(
                f"the validation fraction is {self.val_fraction}", "give a number from 0 to below 1"
            )
        if self.axis is not None and self.axis not in AXES:
            raise OptionError(f"unknown axis '{self.axis}'", f"available: {', '.join(AXES)}")
        if self.slices is not None and not re.fullmatch(SLICES, self.slices):
            raise OptionError(
                f"unknown choice of slices '{self.slices}'", "available: nonempty, all, every:K"
            )
        if self.tiles is not None and self.tiles not in TILES:
            raise OptionError(f"unknown choice of tiles '{self.tiles}'", f"available: {', '.join(TILES)}")
        if self.tile is not None:
            Grid.of(self.tile, self.overlap)
        if self.max_pixels < 1:
            raise OptionError(f"the pixel limit is {self.max_pixels}", "give a positive number")
        if self.group_regex is not None:
            try:
                re.compile(self.group_regex)
            except re.error as error:
                raise OptionError(
                    f"the group pattern '{self.group_regex}' is not a regular expression: {error}",
                    r"for example --group-regex '^(patient\d+)_'",
                ) from None

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """Names and colours or values of the legend's classes; none without a legend."""
        return () if self.legend is None or isinstance(self.legend, str) else self.legend

    @property
    def grid(self) -> Grid | None:
        """How large images are cut; None: they are not.

        Raises:
            OptionError: an overlap is given and no side.
        """
        return Grid.of(self.tile, self.overlap)

    @property
    def given(self) -> frozenset[str]:
        """Names of the fields that were given when this was made, be it with the value that they have by default."""
        found: frozenset[str] = self.__dict__.get("_given", frozenset())
        return found

    def over(self, recorded: Mapping[str, Any]) -> DatasetOptions:
        """These options where they were given, else those of `recorded`, which `to_json` of an earlier run gave.

        Raises:
            OptionError: `recorded` has an option that this release does not know.
        """
        unknown = recorded.keys() - {field.name for field in fields(self)}
        if unknown:
            raise OptionError(
                f"made with the dataset option '{min(unknown)}', which this release does not know",
                "pip install --upgrade casam-cache",
            )
        kept = {name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()}
        if "folds" in self.given and not self.folds:
            kept.pop("fold", None)
        return DatasetOptions(**{**kept, **{name: getattr(self, name) for name in self.given}})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Dataset:
    """One task: its samples and how to read their masks.

    Attributes:
        task: name of the dataset folder.
        root: the dataset folder.
        samples: usable samples, sorted by id. A sample whose image or mask later fails to decode is still
            listed: loading it raises an `ImageError`, so that whoever encodes can record it and go on.
        mask_mode: one of `MASK_MODES`.
        mask_reason: how the mode was decided, for people.
        values: how mask pixels are read.
        problems: everything found wrong, in the order of the files.
        split_source: where the split came from, for people.
        options: what the dataset was read with.
        notes: lines for people about what was recognised or decided, said before anything is encoded.
        volumes: where the slices of each volume lie, as plain JSON (`casam_cache.datasets.volumes.look.record_of`); the
            store keeps it.
        tiled: the images that were cut into tiles, as plain JSON: `name` (their id), `source`, `height` and `width`;
            the store keeps it.
        class_names: of each class by its number, where the annotations name them.
        read_by: set by `read_dataset`; ask for `reader`.
    """

    task: str
    root: Path
    samples: tuple[Sample, ...]
    mask_mode: str
    mask_reason: str = ""
    values: MaskValues = MaskValues()
    problems: tuple[Problem, ...] = ()
    split_source: str = ""
    options: DatasetOptions = field(default_factory=DatasetOptions)
    notes: tuple[str, ...] = ()
    volumes: tuple[Mapping[str, Any], ...] = ()
    tiled: tuple[Mapping[str, Any], ...] = ()
    class_names: Mapping[int, str] = field(default_factory=dict, hash=False)
    read_by: Reader | None = field(default=None, compare=False)

    @property
    def reader(self) -> Reader:
        """The reader that supplies the pixels and masks.

        Raises:
            ValueError: the dataset does not come from `read_dataset`.
        """
        if self.read_by is None:
            raise ValueError("this dataset has no reader: get it from read_dataset")
        return self.read_by

    def split(self, name: str) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.split == name)
