"""`casam predict`: images, volumes or stored items and prompts -> masks of their size, pictures and scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from casam_cache.errors import CasamError, OptionError
from casam_cli import console
from casam_cli.predict_classes import predict_classes, refuse_prompts
from casam_cli.predict_large import (
    OVERLAP,
    TILE,
    large_image,
    predict_large,
    predict_large_classes,
    refuse_large,
    stored_image,
)
from casam_cli.predict_volume import VolumeOptions, predict_volume, volume_at
from casam_cli.stores import stores_folder

if TYPE_CHECKING:
    from casam_cache.bench.predict import Predictor
    from casam_cache.bench.prompt_file import ObjectPrompt
    from casam_cache.bench.tiled_image import LargeImage

PIXELS = "pixels of the image after EXIF rotation"


def predict(
    image: Path | None = typer.Argument(
        None,
        help="The image: any file that can be read as one; a volume: NIfTI, DICOM (a file or the folder of a series), "
        "MetaImage, NRRD, .npy or a TIFF stack; or a folder of images, with --prompts. With --id it is only drawn on.",
    ),
    box: list[str] = typer.Option(
        [],
        help=f"A box x0,y0,x1,y1 in {PIXELS}, or in a volume's slices: on all of them or --slices, or on those from z0 "
        "to z1: x0,y0,z0,x1,y1,z1. It may be given several times: each is an object.",
    ),
    point: list[str] = typer.Option(
        [],
        help=f"A point x,y in {PIXELS}; x,y,0 is a point that is not the object. It may be given several "
        "times: all belong to one object, as does one --box beside them.",
    ),
    mask: Path | None = typer.Option(
        None,
        help="A mask prompt: an image of the same size, or .npy with the low-res logits of an earlier pass.",
    ),
    prompts: Path | None = typer.Option(
        None,
        help="Prompts of one image or many: CSV with the columns image or id, x0,y0,x1,y1, x,y,label, object, mask, "
        "slice; or JSON, a list of objects with image or id, box, points, object, mask, slice.",
    ),
    store: Path | None = typer.Option(
        None,
        parser=stores_folder,
        metavar="DIR",
        help="A store, or the folder of stores: prompts are answered from it without the encoder (with --id, "
        "or with the ids of --prompts). With an image: where the run's store is now.",
    ),
    id_: str | None = typer.Option(
        None, "--id", help="The item of the store to segment, or the whole image of tiles."
    ),
    task: str | None = typer.Option(None, help="The task, where --store is a folder with several."),
    run: Path | None = typer.Option(
        None,
        help="The folder of a fit, or of a routed model of casam bench; one of casam fit --head takes no prompt, and "
        "gives a map of classes, or objects. Without it, the frozen SAM is used.",
    ),
    model: str | None = typer.Option(None, help="The backbone of the frozen SAM. A run names its own."),
    checkpoint: Path | None = typer.Option(
        None, help="The backbone's checkpoint, if it is not where it was."
    ),
    out: Path | None = typer.Option(
        None,
        help="The mask to write, by default mask.png; for many images a folder, by default masks; of an image in tiles "
        "a TIFF, by default mask.tif; for a volume a label "
        "map in its own space, by default mask.nii.gz for NIfTI, mask.dcm (DICOM-SEG) for DICOM, and so on. A label "
        "map where there are several objects. An overlay and the scores go beside it.",
    ),
    each: bool = typer.Option(
        False, "--each", help="Write a mask an object, NAME_1.png, ..., not a label map."
    ),
    axis: str | None = typer.Option(
        None,
        help="What a volume's slices are cut along: axial, coronal, sagittal, or the number of a voxel axis (axial).",
    ),
    slices: str | None = typer.Option(
        None,
        metavar="FIRST-LAST",
        help="The slices of a volume that prompts are about which do not say it, from 0: 12, or 3-20 (all).",
    ),
    channels: int | None = typer.Option(
        None, metavar="N", help="Which of several volumes in one file (channels, time points), from 1."
    ),
    series: str | None = typer.Option(
        None, help="The UID, number or description of a DICOM series, where a folder has several."
    ),
    window: str | None = typer.Option(
        None,
        "--window",
        help="Of a volume, for the frozen SAM: the values that become black and white, as of casam encode (auto). A "
        "run or store says it itself.",
    ),
    tile: int | None = TILE,
    overlap: int | None = OVERLAP,
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace files that exist."),
    device: str = typer.Option("auto", help="Where to compute: auto, cpu, cuda, cuda:N or mps."),
    trust: bool = typer.Option(
        False,
        "--trust",
        help="Run the Python files that the run brings. Read them first if they are not yours.",
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Segment objects by prompts, with a fitted head or the frozen SAM, or classes without: in images or a store."""
    of_volumes = VolumeOptions(axis, slices, channels, series, window)
    if run is not None and _takes_no_prompts(run):
        refuse_prompts(run, {"box": box, "point": point, "mask": mask, "prompts": prompts})
        if image is None and (store is None or id_ is None):
            raise OptionError("nothing to segment", "name an image or a folder, or give --store and --id")
        if window is not None:
            raise OptionError("--window beside a run, which says itself how it sees values", "leave it out")
        volume = volume_at(None if id_ is not None else image, of_volumes)
        large, store = _large(
            None if volume is not None else image, run, tile, overlap, store, id_, task, model
        )
        if large is not None:
            _refuse_objects(run, large.name)
            opening: dict[str, Any] = {
                "checkpoint": checkpoint,
                "store": store,
                "device": device,
                "trust": trust,
            }
            predict_large_classes(large, run, out, opening, each=each, overwrite=overwrite, json_=json_)
            return
        predict_classes(
            run, image, volume, of_volumes, out, store=store, item=id_, task=task, model=model, checkpoint=checkpoint,
            device=device, trust=trust, each=each, overwrite=overwrite, json_=json_, target=_target,
        )  # fmt: skip
        return
    if run is not None and not (box or point or mask or prompts):
        raise OptionError(
            f"no prompt, and {run} needs one",
            "give --box x0,y0,x1,y1, --point x,y, --mask FILE or --prompts FILE; casam fit --head fits what needs none",
        )
    asked = _asked(box, point, mask, prompts)
    stored = store is not None and (image is None or id_ is not None)
    if image is None and not stored:
        raise OptionError("nothing to segment", "name an image or a folder, or give --store and --id")
    if id_ is not None and not stored:
        raise OptionError("--id without --store", "name the store that holds the item: --store STORE")
    if window is not None and (run is not None or store is not None):
        raise OptionError(
            "--window beside a run or store, which says itself how it sees values", "leave it out"
        )
    volume = volume_at(None if stored else image, of_volumes)

    def opened() -> Predictor:
        from casam_cache.bench.predict import Predictor

        return Predictor(run, model=model, checkpoint=checkpoint, store=store, device=device, trust=trust)

    if volume is not None:
        predict_volume(volume, asked, of_volumes, out, opened, each=each, overwrite=overwrite, json_=json_)
        return
    large, named_store = _large(image, run, tile, overlap, store if stored else None, id_, task, model)
    if large is not None:
        store, model = named_store or store, None if stored else model
        predict_large(
            large, asked, out, opened, from_file=prompts is not None, each=each, overwrite=overwrite, json_=json_
        )  # fmt: skip
        return
    many = id_ is None if stored else image is not None and image.is_dir()
    if many and prompts is None:
        what = f"{store} holds" if stored else f"{image} holds"
        raise OptionError(
            f"{what} many images", "say which and where with --prompts FILE, or give --id for one item"
        )
    target = _target(out, many)

    from casam_cache.report import predictions as wanted
    from casam_cache.store import EmbeddingStore

    items = None
    if stored and store is not None:
        named = wanted.one_store(store, task, model)
        model = model if named == store else None  # else it has named the store
        store, items = named, EmbeddingStore.open(named)
        plan = wanted.plan_items(
            items, id_, asked, target, image=image, from_file=prompts is not None, each=each
        )
    elif image is not None and many:
        plan = wanted.plan_folder(image, asked, target, each=each)
    else:
        assert image is not None
        plan = wanted.plan_image(image, asked, target, from_file=prompts is not None, each=each)
    if many and not stored:
        refuse_large([job.image for job in plan.jobs if job.image is not None], run, tile, overlap)
    wanted.check_files(plan.jobs, overwrite)
    for note in plan.notes:
        console.show_line(note)
    predictor = opened()
    if predictor.stand_in:
        console.show_line(predictor.stand_in)
    reports: list[dict[str, Any]] = []
    failed = dict(plan.failed)
    for job, found in wanted.run_plan(plan, predictor, items):
        if isinstance(found, CasamError):
            failed[job.name] = found
            continue
        reports.append(found)
        if not json_:
            _show(found)
    console.end_of_many(plan.many, reports, failed, json_)


def _large(
    image: Path | None,
    run: Path | None,
    tile: int | None,
    overlap: int | None,
    store: Path | None,
    item: str | None,
    task: str | None,
    model: str | None,
) -> tuple[LargeImage | None, Path | None]:
    """An image in tiles, of a file or of a store by its id; and the store that was meant, where one was named."""
    if store is None or item is None:
        return large_image(image, run, tile, overlap), store
    from casam_cache.report.predictions import one_store

    named = one_store(store, task, model)
    return stored_image(named, item), named


def _takes_no_prompts(run: Path) -> bool:
    from casam_cache.bench.run_kinds import takes_no_prompts

    return takes_no_prompts(run)


def _refuse_objects(run: Path, image: str) -> None:
    """Objects are found in images that are encoded whole.

    Raises:
        OptionError: the run finds objects.
    """
    from casam_cache.bench.run_kinds import finds_objects

    if finds_objects(run):
        raise OptionError(
            f"{image} is larger than a tile: {run} finds objects in one tile, not over their borders",
            "save its parts as images, or fit a map of classes (casam fit --head fcn)",
        )


def _asked(
    box: list[str], point: list[str], mask: Path | None, prompts: Path | None
) -> dict[str, list[ObjectPrompt]]:
    """The prompts by name of the image; of those of the options the name is empty."""
    from casam_cache.bench.prompt_file import from_options, read_prompts

    if prompts is None:
        return {"": from_options(box, point, mask)}
    if box or point or mask is not None:
        raise OptionError(
            "--prompts beside --box, --point or --mask", "put all of them into the file, or none"
        )
    return read_prompts(prompts)


def _target(out: Path | None, many: bool) -> Path:
    if many:
        folder = out or Path("masks")
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"--out {folder} is a file", "many images are written to a folder")
        return folder
    file = out or Path("mask.png")
    if file.suffix.lower() != ".png":
        raise OptionError(f"--out {file}: masks are written as PNG", "give a name that ends in .png")
    if not file.parent.is_dir():
        raise OptionError(f"--out {file}: the folder {file.parent} does not exist")
    return file


def _show(report: dict[str, Any]) -> None:
    """What was written for one image."""
    routing = report.get("routing")
    if routing is not None:
        sides = f"score {routing['score']:.4g}, threshold {routing['threshold']:.4g}"
        where = "to none: the frozen SAM" if routing["fallback"] else f"to {routing['task']}"
        console.show_line(f"routed {where} (nearest task {routing['nearest']}, {sides})")
    by = f"{report['head']} of {report['task']}" if report["task"] else "the frozen SAM"
    if report["head"] != "identity" and not report["task"]:
        by = report["head"]
    share = 100 * report["area"] / (report["height"] * report["width"])
    count, mask = len(report["objects"]), report["mask"] or report["objects"][0]["mask"]
    objects = "" if count == 1 else f"{count} objects, "
    more = f" and {count - 1} more" if report["mask"] is None and count > 1 else ""
    console.show_line(
        f"{mask}{more}: {objects}{share:.1f} % of the image, predicted IoU {report['predicted_iou']:.2f}, by {by}"
    )
    if report["overlay"]:
        console.show_line(f"{report['overlay']}: objects and prompts over the image")
