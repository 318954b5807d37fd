"""The options that say how a dataset is read, the same for every command that reads one.

A new one is a field of `casam_cache.datasets.DatasetOptions` and a line in `_Options`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, get_type_hints

import typer

READER = typer.Option(
    None,
    metavar="NAME|FILE.py:CLASS",
    help="Reader of the dataset. The default is the one that recognises the folder.",
)
TABLE: Path | None = typer.Option(
    None,
    metavar="FILE",
    help="Table (CSV with the columns image, mask, split, group) of what to read in the folder, as dataset.csv in it.",
)


class _Options:
    """A line for each field of `DatasetOptions`, by its name.

    All are None unless given: `encode` then goes on with what the store was begun with.
    """

    masks: str | None = typer.Option(
        None,
        help="What a mask's values mean: binary (one object), classes (a class each), instances (an object each), "
        "components (every connected region is an object), or auto, which looks at all of them.",
    )
    unlabelled: bool | None = typer.Option(
        None, "--unlabelled/--no-unlabelled", help="Keep images that have no mask."
    )
    group_regex: str | None = typer.Option(
        None,
        help="Regular expression that finds the group (patient) in an id. Its first capture group counts.",
    )
    test_fraction: float | None = typer.Option(
        None,
        help="Share of the images that is kept for test, in whole groups, where the dataset has no split (0.3).",
    )
    val_fraction: float | None = typer.Option(
        None, help="Share of the training images that is set apart for validation, in whole groups (0)."
    )
    seed: int | None = typer.Option(
        None,
        "--split-seed",
        help="Seed of the splits that are drawn here. Another seed draws other ones (0).",
    )
    split_by: str | None = typer.Option(
        None,
        help="What says the split where several do: folders (images/train, images/test), table (split.csv), drawn, "
        "or auto, which takes the one there is and refuses two that differ.",
    )
    dataset: str | None = typer.Option(
        None,
        metavar="NAME",
        help="Which public dataset it is (casam data list): names the task, and chooses the reader of its layout.",
    )
    folds: int | None = typer.Option(
        None, help="Divide the images into so many folds by group; --fold says which one is held out."
    )
    fold: int | None = typer.Option(
        None,
        help="The fold, from 1, that is the test split, or the validation split where the dataset has a test split.",
    )
    background: str | None = typer.Option(
        None,
        metavar="VALUE",
        help="Value or colour ('#rrggbb') of masks that is background, where it is not 0 or black; auto: it is.",
    )
    legend: str | None = typer.Option(
        None,
        metavar="FILE",
        help="File that names classes with their colours or values in masks: lines of name,#rrggbb or r g b name, or "
        "JSON. What it does not list is an error; none: no legend.",
    )
    ignore: str | None = typer.Option(
        None,
        metavar="VALUE",
        help="Value or colour ('#rrggbb') of masks whose pixels count nowhere, neither in training nor in any score; "
        "none: all count.",
    )
    max_pixels: int | None = typer.Option(
        None, help="Images of more pixels are refused before they are decoded (100000000)."
    )
    pages: str | None = typer.Option(
        None,
        metavar="first|N|all|objects",
        help="What counts of files of several pages: the first, page N, all (each page is an image), or, of masks, "
        "objects (each page is one object). Unless it is said (auto), such files are refused.",
    )
    channels: str | None = typer.Option(
        None,
        metavar="N|R,G,B",
        help="Channels of the images that are taken, counted from 1: one as grey, or three as red, green and blue. "
        "Unless it is said (auto), images that are neither grey nor RGB are refused.",
    )
    exif: str | None = typer.Option(
        None,
        metavar="auto|apply|ignore",
        help="The orientation that a camera noted: apply it to images and masks, or ignore it. Unless said (auto) it "
        "is applied, with a warning where it cannot be told whether the masks are meant so.",
    )
    axis: str | None = typer.Option(
        None,
        help="Volumes are cut along it: axial, coronal, sagittal, or the number of an axis of voxels, 0 to 2 (axial, "
        "or as stored where a file does not say how it lies).",
    )
    slices: str | None = typer.Option(
        None, help="Slices of volumes: nonempty (those that hold a label), all, or every:K (nonempty)."
    )
    series: str | None = typer.Option(
        None, help="UID, number or description of the DICOM series that is meant where there are several."
    )
    tile: int | None = typer.Option(
        None,
        metavar="PIXELS",
        help="Cut images of more pixels a side into tiles of this side; each is an item of the store.",
    )
    overlap: int | None = typer.Option(
        None, metavar="PIXELS", help="Overlap of neighbouring tiles (an eighth of --tile)."
    )
    tiles: str | None = typer.Option(
        None,
        metavar="nonempty|all",
        help="Tiles of images that have masks: nonempty (those that hold something of a mask), or all (nonempty).",
    )


def takes_dataset_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds all of `_Options` to a command, which gets what was given of them as `read_as`, a `DatasetOptions`."""
    types = get_type_hints(_Options)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=vars(_Options)[name], annotation=kind)
        for name, kind in types.items()
    ]
    own = inspect.signature(command, eval_str=True)
    first = list(own.parameters).index("read_as")
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.parameters.values()
    ]

    @wraps(command)
    def with_options(**arguments: Any) -> None:
        from casam_cache.datasets import DatasetOptions

        asked = {name: arguments.pop(name) for name in types}
        given = {name: value for name, value in asked.items() if value not in (None, [])}
        table = arguments.pop("table")
        if table is not None:
            arguments["reader"] = _reader_of(table, arguments["reader"])
        command(**arguments, read_as=DatasetOptions(**given))

    table = inspect.Parameter("table", inspect.Parameter.KEYWORD_ONLY, default=TABLE, annotation=Path | None)
    parameters[first : first + 1] = [table, *options]
    with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def _reader_of(table: Path, reader: str | None) -> str:
    """The name of the reader of a table."""
    from casam_cache.datasets.layouts.table import TABLE as NAMED
    from casam_cache.errors import OptionError

    if reader is not None:
        raise OptionError(f"both --table {table} and --reader {reader} are given", "leave one out")
    return f"{NAMED}{table.absolute()}"
