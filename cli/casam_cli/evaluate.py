"""`casam evaluate`: a fit beside the frozen SAM from several kinds of prompts, and after each click."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from casam_cli import console
from casam_cli.stores import stores_folder

if TYPE_CHECKING:
    from casam_cache.training.loop import FitProgress


def evaluate(
    run: Path | None = typer.Argument(None, help="The folder of a fit, as casam fit printed it."),
    task: str | None = typer.Option(
        None, help="Instead of RUN: the name of the dataset. The fit of these options is found or computed."
    ),
    prompts: str | None = typer.Option(
        None,
        metavar="A,B,...",
        help="The prompts: box, jitter:0.1 (share of the side), jitter:5px, point, point:random, clicks:5."
        " The default is box,jitter:0.05,jitter:0.1,jitter:0.2,point,clicks:5.",
    ),
    store: Path | None = typer.Option(
        None,
        parser=stores_folder,
        metavar="DIR",
        help="The folder of stores. The default is the run's own, or casam_store.",
    ),
    runs: Path | None = typer.Option(
        None, help="The folder of runs. The default is where RUN lies, or casam_runs."
    ),
    method: str | None = typer.Option(
        None, help="With --task, the method: alignment (the default), decoder, hq-sam, or FILE.py:CLASS."
    ),
    set_: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=VALUE",
        help="With --task, an option of the method or the training.",
    ),
    epochs: int | None = typer.Option(None, help="With --task, how often each training image is visited."),
    recipe: str | None = typer.Option(
        None, help="With --task, what stands where options say nothing: default or paper."
    ),
    seed: int | None = typer.Option(None, help="With --task, the seed of the fit. The default is 0."),
    evaluate: str = typer.Option("test", help="The split to score: test or val."),
    metric: list[str] = typer.Option(
        [], help="A further metric beside IoU, Boundary IoU and Dice, as of casam fit. It may be repeated."
    ),
    model: str | None = typer.Option(
        None, help="With --task, the backbone. It is needed only where the task has several."
    ),
    device: str = typer.Option("auto", help="Where to compute: auto, cpu, cuda, cuda:N or mps."),
    out: Path | None = typer.Option(
        None,
        help="The folder for the table and the curve. The default is casam_evaluation/TASK-METHOD-MODEL.",
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace files of other results in --out."),
    recompute: bool = console.RecomputeOption,
    keep: bool = console.KeepOption,
    json_: bool = console.JsonOption,
) -> None:
    """Score a fit beside the frozen SAM from boxes that are off, points and clicks; nothing is computed twice."""
    from casam_cache.bench.evaluation import DEFAULT_PROMPTS, evaluate_prompts
    from casam_cache.errors import OptionError
    from casam_cache.report.prompt_table import prompt_table, write_prompt_files

    options = [*set_, *([] if epochs is None else [f"epochs={epochs}"])]
    of_task = {
        "--method": method,
        "--set/--epochs": options or None,
        "--seed": seed,
        "--model": model,
        "--recipe": recipe,
    }
    given = [name for name, value in of_task.items() if value is not None]
    if run is not None and given:
        raise OptionError(
            f"{', '.join(given)} beside a run", "the run says itself how it was fitted: leave it out"
        )
    with console.bar("evaluate", unit="images") as bar:

        def on_fit(progress: FitProgress) -> None:
            note = f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f}"
            bar.update_named("fit", progress.step, progress.steps, note)

        report = evaluate_prompts(
            run, task=task, prompts=prompts or DEFAULT_PROMPTS, store=store, runs=runs,
            method=method, options=options, recipe=recipe or "default", seed=seed or 0,
            split=evaluate, metrics=metric,
            model=model, device=device, changed=console.changed(recompute, keep), say=console.show_line,
            on_fit=on_fit, on_evaluate=bar.update_named,
        )  # fmt: skip
    folder = out or Path("casam_evaluation") / f"{report.task}-{report.method}-{report.model}"
    replace = overwrite or out is None  # the folder that nobody chose holds the newest
    written = write_prompt_files(report, folder, overwrite=replace, say=console.show_line)
    if json_:
        console.print_json({**report.to_json(), "files": [str(path) for path in written]})
        return
    console.show_table(prompt_table(report))
    found = f"{report.computed} stages computed" if report.computed else "found, nothing recomputed"
    console.show_line(f"{found}: {report.run}")
    console.show_line(f"table and curve: {folder}")
