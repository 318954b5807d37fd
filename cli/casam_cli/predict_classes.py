"""`casam predict` with a run that takes no prompts: images or a stored item -> maps of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from casam_cache.errors import CasamError, OptionError
from casam_cli import console
from casam_cli.predict_volume import VolumeOptions, volume_at


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


def refuse_volume(image: Path | None, options: VolumeOptions) -> None:
    """Maps are of images.

    Raises:
        OptionError: it is a volume, or an option is about one.
    """
    if volume_at(image, options) is not None:
        raise OptionError(
            f"{image} is a volume, and a run without prompts takes images",
            "encode it, and name its slices: casam predict --store STORE --id SLICE --run RUN",
        )


def predict_classes(
    run: Path,
    image: Path | None,
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
    from casam_cache.report.class_maps import MapJob, folder_images, write_map
    from casam_cache.report.predictions import check_overwriting, one_store

    stored = store is not None and (image is None or item is not None)
    if stored and item is None:
        raise OptionError(f"{store} holds many images", "say which with --id, or name a folder of images")
    if stored and image is not None:
        raise OptionError(
            f"{image} beside --id", "name the image alone to get an overlay: the run encodes it"
        )
    many = not stored and image is not None and image.is_dir()
    place = target(out, many)
    predictor = ClassMapPredictor(run, checkpoint=checkpoint, store=store, device=device, trust=trust)
    jobs: list[MapJob] = []
    if stored:
        assert store is not None
        assert item is not None
        named = one_store(store, task, model)
        jobs.append(MapJob(item, place, lambda: predictor.predict_item(named, item), pictured=False))
    elif image is not None:
        for file, goal in folder_images(image, place) if many else [(image, place)]:
            jobs.append(MapJob(str(file), goal, lambda file=file: predictor.predict(file), pictured=True))  # type: ignore[misc]
    check_overwriting((path for job in jobs for path in job.files(predictor.classes, each)), overwrite)
    if predictor.stand_in:
        console.show_line(predictor.stand_in)
    reports: list[dict[str, Any]] = []
    failed: dict[str, CasamError] = {}
    for job in jobs:
        try:
            report = write_map(job, each)
        except CasamError as error:
            if not many:
                raise
            failed[job.name] = error
            continue
        reports.append(report)
        if not json_:
            _show(report)
    console.end_of_many(many, reports, failed, json_)


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
