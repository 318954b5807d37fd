"""`casam fit`: train a method on one task from its cache, and compare with the frozen SAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from casam_cache.errors import CasamError, OptionError
from casam_cli import console
from casam_cli.report import open_report
from casam_cli.stores import stores_folder

if TYPE_CHECKING:
    from casam_cache.bench.fit import FitReport
    from casam_cache.engine.schedule import PlanProgress
    from casam_cache.training.loop import FitProgress


def fit(
    task: str = typer.Option(..., help="The name of the dataset, as casam encode printed it."),
    store: Path = typer.Option(
        Path("casam_store"), parser=stores_folder, metavar="DIR", help="The folder of stores."
    ),
    runs: Path = typer.Option(Path("casam_runs"), help="The folder of runs."),
    method: str | None = typer.Option(
        None,
        help="The method to train: alignment (the default), decoder, hq-sam, or FILE.py:CLASS of your own.",
    ),
    head: str | None = typer.Option(
        None,
        help="In place of a method, a head that needs no prompt: fcn or class-prompts give a map of classes, proposals"
        " finds objects; or FILE.py:CLASS of your own.",
    ),
    set_: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=VALUE",
        help="Set an option of the method, the head or the training.",
    ),
    epochs: int | None = typer.Option(
        None, help="How often each training image is visited. The recipe says it otherwise."
    ),
    patience: int | None = typer.Option(
        None, min=1, help="Stop after so many looks at the held-out groups without a better state."
    ),
    recipe: str = typer.Option(
        "default",
        metavar="default|paper|FILE",
        help="What stands where options say nothing: default, which belongs to the backbone, paper, or a file"
        " (YAML), such as casam search writes.",
    ),
    seed: int = typer.Option(0, help="The seed of initial weights, order, masks and prompts."),
    evaluate: str | None = typer.Option(None, help="The split to score: test (the default) or val."),
    folds: int | None = typer.Option(
        None, help="Fit so many times, each time without one fold of the groups, score it, and give the mean."
    ),
    prompts: str | None = typer.Option(
        None,
        metavar="PROMPT",
        help="The prompt of each scored mask: box (the default), jitter:0.1, jitter:5px, point, point:random or"
        " clicks:5.",
    ),
    metric: list[str] = typer.Option(
        [],
        help="A further metric beside IoU, Boundary IoU and Dice: biou_5px (Boundary IoU with a distance of at most 5"
        " pixels), or FILE.py:CLASS. It may be repeated.",
    ),
    model: str | None = typer.Option(
        None, help="The backbone. It is needed only where the task has several."
    ),
    device: str = typer.Option("auto", help="Where to compute: auto, cpu, cuda, cuda:N or mps."),
    track: list[str] = typer.Option(
        [],
        metavar="tensorboard|wandb",
        help="Write curves and scores for TensorBoard or Weights & Biases as well, or FILE.py:CLASS of your own.",
    ),
    open_: bool = typer.Option(
        False,
        "--open",
        help="Write a report for a browser of this fit into the folder of runs, and open it; of --head, open its"
        " picture.",
    ),
    executor: str = typer.Option(
        "processes",
        help="Where to fit and score: processes (here), dask, dask:ADDRESS, cluster:FILE.yaml. A cluster must see the"
        " same folders.",
    ),
    jobs: int | None = typer.Option(None, min=1, help="How many workers --executor dask starts here."),
    recompute: bool = console.RecomputeOption,
    keep: bool = console.KeepOption,
    json_: bool = console.JsonOption,
) -> None:
    """Train on a task's train split from the cache, and score beside the frozen SAM on the same prompts."""
    from casam_cache.bench.fit import fit_task
    from casam_cache.bench.fit_folds import fit_folds
    from casam_cache.bench.trackers import TRACKERS
    from casam_cache.report.fit_table import fit_table, folds_table

    if folds is not None and evaluate is not None:
        raise OptionError(
            "--folds scores each fold, and --evaluate another split", "leave out one of the two options"
        )
    named = {"epochs": epochs, "patience": patience}
    options = [*set_, *(f"{name}={value}" for name, value in named.items() if value is not None)]
    if head is not None:
        _refuse(
            method=method,
            prompts=prompts,
            folds=folds,
            recipe=None if recipe == "default" else recipe,
            track=track or None,
            metric=metric or None,
        )
        with _executor(executor, jobs) as places:
            _without_prompts(
                task, store, runs, head=head, options=options, seed=seed, split=evaluate or "test", model=model,
                device=device, changed=console.changed(recompute, keep), open_=open_, json_=json_, **places,
            )  # fmt: skip
        return
    with _executor(executor, jobs) as places, console.bar(f"fit {task}", unit="samples") as bar:

        def on_fit(progress: FitProgress) -> None:
            note = f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f}"
            bar.update(progress.step, progress.steps, note, progress.samples_per_second)

        asked: dict[str, Any] = {
            "method": method, "options": options, "recipe": recipe, "seed": seed, "prompts": prompts, "metrics": metric,
            "model": model,
            "device": device, "changed": console.changed(recompute, keep), "say": console.show_line, "on_fit": on_fit,
            "on_evaluate": lambda done, total: bar.update(done, total, "scoring"),
            "on_stages": partial(_on_stages, bar) if places else None, **places,
            "trackers": [TRACKERS.get(name)(runs / "tracked" / Path(name).stem) for name in track],
        }  # fmt: skip
        if folds is not None:
            every = fit_folds(task, store, runs, folds=folds, **asked)
        else:
            report = fit_task(task, store, runs, split=evaluate or "test", **asked)
    fits = every.folds if folds is not None else [report]
    pictures = _pictures(fits, device)
    reports = [open_report(Path(each.run)) for each in fits] if open_ else []
    if not (json_ or reports or folds):
        console.show_line(f"report: casam report {report.run} --html DIR --open")
    if folds is not None:
        if json_:
            console.print_json(every.to_json())
        else:
            console.show_table(folds_table(every))
            for each in every.folds:
                state = "computed" if each.computed else "found, nothing recomputed"
                console.show_line(f"{each.evaluate} {state}: {each.run}")
        return
    if json_:
        opened = reports[0] if reports else None
        console.print_json({**report.to_json(), "pictures": pictures[0], "report": opened})
        return
    console.show_table(fit_table([report]))
    console.show_line(f"{'computed' if report.computed else 'found, nothing recomputed'}: {report.run}")


@contextmanager
def _executor(spec: str, jobs: int | None) -> Iterator[dict[str, Any]]:
    """Where stages run, as `fit_task` takes it.

    Raises:
        OptionError: --jobs without an executor that starts workers.
    """
    if spec == "processes":
        if jobs is not None:
            raise OptionError("--jobs needs --executor dask", "a fit alone runs here, with all threads")
        yield {}
        return
    from casam_cache.engine.clusters import open_executor
    from casam_cache.engine.executors import default_jobs

    with open_executor(spec, jobs or default_jobs("cpu"), console.show_line) as (executor, width):
        yield {"executor": executor, "jobs": width}


def _on_stages(bar: Any, progress: PlanProgress) -> None:
    """Workers tell of a stage when it ends."""
    bar.update(progress.done, progress.total, f"stages; {', '.join(progress.running[:2])}")


def _refuse(**given: object) -> None:
    """Options that say nothing of a head without prompts."""
    for name, value in given.items():
        if value is not None:
            raise OptionError(
                f"--{name} beside --head, which needs no prompts and is no method", "leave out one of the two"
            )


def _without_prompts(
    task: str, store: Path, runs: Path, *, head: str, open_: bool, json_: bool, **asked: Any
) -> None:
    """Fits a head that needs no prompt, and says how good its maps or its objects are."""
    from casam_cache.bench.instances import fit_instances
    from casam_cache.bench.segmentation import fit_segmentation
    from casam_cache.report.instance_table import instance_table
    from casam_cache.report.segmentation_table import segmentation_table
    from casam_cache.segmenters.registry import proposes

    objects = proposes(head)
    with console.bar(f"fit {task}", unit="images") as bar:

        def on_fit(progress: FitProgress) -> None:
            note = f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f}"
            bar.update(progress.step, progress.steps, note, progress.samples_per_second)

        fitting: Any = fit_instances if objects else fit_segmentation
        report = fitting(
            task, store, runs, head=head, say=console.show_line, on_fit=on_fit,
            on_evaluate=lambda done, total: bar.update(done, total, "scoring"),
            on_stages=partial(_on_stages, bar) if "executor" in asked else None, **asked,
        )  # fmt: skip
    picture = _picture_of(report, objects, asked["device"], open_)
    if json_:
        console.print_json({**report.to_json(), "pictures": picture})
        return
    console.show_table(instance_table(report) if objects else segmentation_table(report))
    console.show_line(f"{'computed' if report.computed else 'found, nothing recomputed'}: {report.run}")


def _picture_of(report: Any, objects: bool, device: str, open_: bool) -> str | None:
    """The picture of a fit without prompts, whose path is said; the fit stands also where none can be drawn."""
    from casam_cache.report.instance_sheet import instance_sheet
    from casam_cache.report.segmentation_sheet import segmentation_sheet

    try:
        path, said = instance_sheet(report, device) if objects else segmentation_sheet(report, device)
    except CasamError as error:
        console.show_line(f"no picture: {error.message}")
        return None
    console.show_line(
        f"worst, median and best images: {path}" + (f" (outlines alone: {said})" if said else "")
    )
    if open_:
        typer.launch(str(path.resolve()))
    return str(path)


def _pictures(reports: Sequence[FitReport], device: str) -> list[str | None]:
    """A picture of each fit, whose path is said; a fit stands also where none can be drawn."""
    from casam_cache.report.fit_sheet import fit_sheet

    found: list[str | None] = []
    for report in reports:
        try:
            path, said = fit_sheet(report, device)
        except CasamError as error:
            console.show_line(f"no picture: {error.message}")
            found.append(None)
            continue
        note = f" (outlines alone: {said})" if said else ""
        console.show_line(f"worst, median and best masks: {path}{note}")
        found.append(str(path))
    return found
