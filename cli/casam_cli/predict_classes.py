"""`casam predict` with a run that takes no prompts: images or a stored item -> maps of classes, or objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from casam_cache.errors import CasamError, OptionError
from casam_cli import console
from casam_cli.predict_volume import VolumeOptions, said_shape

if TYPE_CHECKING:
    from casam_cache.datasets.volumes import Volume


def refuse_prompts(run: Path, given: dict[str, object]) -> None:
    """A run without prompts takes none.

    Raises:
        OptionError: one was given.
    """
    named = [f"--{name}" for name, value in given.items() if value]
    if named:
        raise OptionError(
            f"{', '.join(named)}: {run} was fitted to work without prompts", "leave prompts out"
        )


def predict_classes(
    run: Path,
    image: Path | None,
    volume: Volume | None,
    of_volumes: VolumeOptions,
    out: Path | None,
    *,
    store: Path | None,
    item: str | None,
    task: str | None,
    model: str | None,
    checkpoint: Path | None,
    device: str,
    trust: bool,
    each: bool,
    overwrite: bool,
    json_: bool,
    target: Any,
) -> None:
    """Predicts, writes and reports; arguments as of `casam predict`, `target` says where one image or many go."""
    from casam_cache.bench.class_maps import ClassMapPredictor
    from casam_cache.bench.found_objects import InstancePredictor
    from casam_cache.bench.run_kinds import finds_objects
    from casam_cache.report.class_maps import MapJob, folder_images, write_map
    from casam_cache.report.instances import InstanceJob, write_instances
    from casam_cache.report.predictions import check_overwriting, one_store

    objects = finds_objects(run)
    if objects and each:
        raise OptionError(f"--each: {run} writes objects as one label map", "its JSON file has every mask")
    if objects and volume is not None:
        raise OptionError(
            f"{image} is a volume: {run} finds objects in images, not from slice to slice",
            "save its slices as images, or fit a map of classes (casam fit --head fcn)",
        )
    stored = store is not None and (image is None or item is not None)
    if stored and item is None:
        raise OptionError(f"{store} holds many images", "say which with --id, or name a folder of images")
    if stored and image is not None:
        raise OptionError(
            f"{image} beside --id", "name the image alone to get an overlay: the run encodes it"
        )
    opened: dict[str, Any] = {"checkpoint": checkpoint, "store": store, "device": device, "trust": trust}
    if volume is not None:
        _predict_volume(run, volume, of_volumes, out, opened, each=each, overwrite=overwrite, json_=json_)
        return
    many = not stored and image is not None and image.is_dir()
    usual = Path("instances" if many else "instances.png") if objects else None
    place = target(out or usual, many)
    predictor = InstancePredictor(run, **opened) if objects else ClassMapPredictor(run, **opened)
    made: Any = InstanceJob if objects else MapJob
    jobs: list[Any] = []
    if stored:
        assert store is not None
        assert item is not None
        named = one_store(store, task, model)
        jobs.append(made(item, place, pictured=False, predict=lambda: predictor.predict_item(named, item)))
    elif image is not None:
        for file, goal in folder_images(image, place) if many else [(image, place)]:
            jobs.append(
                made(str(file), goal, pictured=True, predict=lambda file=file: predictor.predict(file))
            )
    files = (
        path for job in jobs for path in (job.files() if objects else job.files(predictor.classes, each))
    )
    check_overwriting(files, overwrite)
    if predictor.stand_in:
        console.show_line(predictor.stand_in)
    reports: list[dict[str, Any]] = []
    failed: dict[str, CasamError] = {}
    for job in jobs:
        try:
            report = write_instances(job) if objects else write_map(job, each)
        except CasamError as error:
            if not many:
                raise
            failed[job.name] = error
            continue
        reports.append(report)
        if not json_:
            (_show_objects if objects else _show)(report)
    console.end_of_many(many, reports, failed, json_)


def _predict_volume(
    run: Path,
    volume: Volume,
    options: VolumeOptions,
    out: Path | None,
    opened: dict[str, Any],
    *,
    each: bool,
    overwrite: bool,
    json_: bool,
) -> None:
    from casam_cache.bench.class_maps import ClassMapPredictor
    from casam_cache.bench.prompt_file import slice_range
    from casam_cache.datasets.label_volumes import default_suffix
    from casam_cache.report.predictions import check_overwriting
    from casam_cache.report.volume_class_maps import plan_volume_classes, predict_volume_classes

    if each:
        raise OptionError("--each: a volume without prompts is written as one label map", "leave it out")
    slices = None if options.slices is None else slice_range("--slices", options.slices)
    target = out or Path(f"mask{default_suffix(volume)}")
    if not target.parent.is_dir():
        raise OptionError(f"--out {target}: the folder {target.parent} does not exist")
    job = plan_volume_classes(volume, target, options.axis)
    check_overwriting(job.files, overwrite)
    name = volume.path.name
    for note in volume.notes:
        console.show_line(f"{name}: {note}")
    console.show_line(f"{name}: {said_shape(volume)}")
    predictor = ClassMapPredictor(run, **opened)
    if predictor.stand_in:
        console.show_line(predictor.stand_in)
    with console.bar(f"predict {name}", unit="slices") as bar:
        report = predict_volume_classes(job, predictor, slices, bar.update)
    if json_:
        console.print_json(report)
        return
    for note in report["notes"]:
        console.show_line(note)
    for entry in report["classes"]:
        size = "" if entry["ml"] is None else f", {entry['ml']:.4g} ml"
        named = entry["name"] or f"class {entry['class']}"
        by = f"by {report['head']} of {report['task']}"
        console.show_line(f"{report['mask'] or 'not written'}: {named}, {entry['voxels']} voxels{size}, {by}")
    console.show_line(f"{report['overlay']}: classes over the slices")


def _show(report: dict[str, Any]) -> None:
    pixels = report["height"] * report["width"]
    shares = ", ".join(
        f"{each['name'] or 'class ' + str(each['class'])} {100 * each['area'] / pixels:.1f} %"
        for each in report["classes"]
    )
    written = report["mask"] or report["classes"][0]["mask"]
    console.show_line(f"{written}: {shares} of the image, by {report['head']} of {report['task']}")
    if report["overlay"]:
        console.show_line(f"{report['overlay']}: classes over the image")


def _show_objects(report: dict[str, Any]) -> None:
    count, share = len(report["objects"]), 100 * report["area"] / (report["height"] * report["width"])
    console.show_line(
        f"{report['instances']}: {count} object{'' if count == 1 else 's'} of score {report['threshold']:.2f} or more, "
        f"{share:.1f} % of the image, by {report['head']} of {report['task']}"
    )
    if report["overlay"]:
        console.show_line(f"{report['overlay']}: objects over the image, and the boxes that prompted them")
