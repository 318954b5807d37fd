"""`casam fit`: train a method on one task from its cache, and compare with the frozen SAM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from casam_cli import console

if TYPE_CHECKING:
    from casam_cache.training.loop import Progress


def fit(
    task: str = typer.Option(..., help="Name of the dataset, as casam encode printed it."),
    store: Path = typer.Option(Path("casam_store"), help="Folder of stores."),
    runs: Path = typer.Option(Path("casam_runs"), help="Folder of runs."),
    method: str = typer.Option("alignment", help="alignment | decoder | hq-sam | my_file.py:MyMethod"),
    set_: list[str] = typer.Option(
        [], "--set", metavar="KEY=VALUE", help="An option of the method or the training."
    ),
    epochs: int | None = typer.Option(None, help="Visits of each training image (24 unless given)."),
    seed: int = typer.Option(0, help="Of initial weights, order, masks and prompts."),
    evaluate: str = typer.Option("test", help="Split to score: test | val"),
    model: str | None = typer.Option(None, help="Backbone, needed only where the task has several."),
    device: str = typer.Option("auto", help="auto | cpu | cuda | cuda:N | mps"),
    json_: bool = console.JsonOption,
) -> None:
    """Train on a task's train split from the cache, and score beside the frozen SAM on the same prompts."""
    from casam_cache.bench.fit import fit_task
    from casam_cache.report.fit_table import fit_table

    options = [*set_, *([] if epochs is None else [f"epochs={epochs}"])]
    with console.bar(f"fit {task}", unit="samples") as bar:

        def on_fit(progress: Progress) -> None:
            note = f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f}"
            bar.update(progress.step, progress.steps, note, progress.samples_per_second)

        report = fit_task(
            task, store, runs, method=method, options=options, seed=seed, split=evaluate, model=model, device=device,
            on_fit=on_fit, on_evaluate=lambda done, total: bar.update(done, total, "scoring"),
        )  # fmt: skip
    if json_:
        console.print_json(report.to_json())
        return
    console.show_table(fit_table([report]))
    console.show_line(f"{'computed' if report.computed else 'found, nothing recomputed'}: {report.run}")
