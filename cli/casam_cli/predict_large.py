"""`casam predict` on an image that is larger than a tile -> a mask or map of its size, as a tiled TIFF."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from casam_cache.errors import OptionError
from casam_cli import console

if TYPE_CHECKING:
    from casam_cache.bench.predict import Predictor
    from casam_cache.bench.prompt_file import ObjectPrompt
    from casam_cache.bench.tiled_image import LargeImage

TILE = typer.Option(
    None,
    metavar="PIXELS",
    help="Cut images of more pixels a side into tiles of this side. A run that was fitted on tiles says it itself.",
)
OVERLAP = typer.Option(None, metavar="PIXELS", help="Overlap of neighbouring tiles (an eighth of --tile).")


def large_image(
    image: Path | None, run: Path | None, tile: int | None, overlap: int | None
) -> LargeImage | None:
    """An image that is to be cut into tiles, as the options or the run say; None of a small one or where none do.

    Raises:
        OptionError: options that make no tiles, or that say what the run was not fitted on.
        ImageError: the image cannot be read.
    """
    from casam_cache.bench.tiled_image import TiledImage, recorded_grid, size_of
    from casam_cache.datasets.tiles import Grid

    asked, recorded = Grid.of(tile, overlap), recorded_grid(run)
    if asked is not None and recorded is not None and asked.side != recorded.side:
        raise OptionError(
            f"--tile {asked.side}, and {run} was fitted on tiles of {recorded.side} pixels",
            "leave --tile out: the run says it itself",
        )
    grid = asked or recorded
    if grid is None or image is None or image.is_dir():
        return None
    return TiledImage(image, grid) if grid.cuts(size_of(image)) else None


def stored_image(store: Path, item: str) -> LargeImage | None:
    """The large image of that id, of whose tiles a store holds the features; None where the store has an item of it.

    Raises:
        StoreError: the store cannot be read.
    """
    from casam_cache.bench.tiled_image import StoredImage
    from casam_cache.store import EmbeddingStore

    return StoredImage.find(EmbeddingStore.open(store), item)


def refuse_large(images: list[Path], run: Path | None, tile: int | None, overlap: int | None) -> None:
    """Images of a folder are predicted whole.

    Raises:
        OptionError: one is larger than a tile.
    """
    for image in images:
        if large_image(image, run, tile, overlap) is not None:
            raise OptionError(
                f"{image} is larger than a tile", "large images are predicted one by one: casam predict IMAGE"
            )


def predict_large(
    image: LargeImage,
    asked: dict[str, list[ObjectPrompt]],
    out: Path | None,
    opened: Callable[[], Predictor],
    *,
    from_file: bool,
    each: bool,
    overwrite: bool,
    json_: bool,
) -> None:
    """Prompts on a large image; arguments as of `casam predict`."""
    from casam_cache.bench.stitched import tiles_of
    from casam_cache.report.large_masks import write_objects
    from casam_cache.report.predictions import prompts_of

    target = _target(out, each=each, overwrite=overwrite)
    prompts, notes = prompts_of(image.name, image.names, asked)
    for tile, _ in tiles_of(image, prompts):  # what is wrong is said before a model is loaded
        image.check(tile)
    for note in notes:
        console.show_line(note)
    predictor = opened()
    if predictor.stand_in:
        console.show_line(predictor.stand_in)
    with console.bar("predict", unit="tiles") as bar:
        report = write_objects(
            image, predictor, prompts, target, label_map=from_file or len(prompts) > 1,
            progress=lambda done, total: bar.update(done, total, image.name),
        )  # fmt: skip
    if json_:
        console.print_json(report)
        return
    by = (
        "a routed model"
        if predictor.routed
        else f"{report['head']} of {report['task']}"
        if report["task"]
        else None
    )
    count = len(report["objects"])
    console.show_line(
        f"{report['mask']}: {'1 object' if count == 1 else f'{count} objects'}, {_share(report)} % of the image, "
        f"predicted IoU {report['predicted_iou']:.2f}, by {by or 'the frozen SAM'}"
    )


def predict_large_classes(
    image: LargeImage,
    run: Path,
    out: Path | None,
    opened: dict[str, Any],
    *,
    each: bool,
    overwrite: bool,
    json_: bool,
) -> None:
    """The map of classes of a large image; arguments as of `casam predict`."""
    from casam_cache.bench.class_maps import ClassMapPredictor
    from casam_cache.report.large_masks import write_classes

    target = _target(out, each=each, overwrite=overwrite)
    for tile in image.tiles:
        image.check(tile)
    predictor = ClassMapPredictor(run, **opened)
    if predictor.stand_in:
        console.show_line(predictor.stand_in)
    with console.bar("predict", unit="tiles") as bar:
        report = write_classes(
            image, predictor, target, progress=lambda done, total: bar.update(done, total, image.name)
        )
    if json_:
        console.print_json(report)
        return
    pixels = report["height"] * report["width"]
    shares = ", ".join(
        f"{each_['name'] or 'class ' + str(each_['class'])} {100 * each_['area'] / pixels:.1f} %"
        for each_ in report["classes"]
    )
    console.show_line(f"{report['mask']}: {shares} of the image, by {report['head']} of {report['task']}")


def _share(report: dict[str, Any]) -> str:
    return f"{100 * report['area'] / (report['height'] * report['width']):.2f}"


def _target(out: Path | None, *, each: bool, overwrite: bool) -> Path:
    """NAME.tif, which may be written.

    Raises:
        OptionError: it may not.
    """
    from casam_cache.report.large_masks import large_files
    from casam_cache.report.predictions import check_overwriting

    if each:
        raise OptionError("--each of an image in tiles", "a label map holds each object: leave --each out")
    file = out or Path("mask.tif")
    if file.suffix.lower() not in (".tif", ".tiff"):
        raise OptionError(
            f"--out {file}: the mask of an image in tiles is a TIFF", "give a name that ends in .tif"
        )
    if not file.parent.is_dir():
        raise OptionError(f"--out {file}: the folder {file.parent} does not exist")
    check_overwriting(large_files(file), overwrite)
    return file
