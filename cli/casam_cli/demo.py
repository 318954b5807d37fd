"""`casam demo`: the main job, end to end, on what the package ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from casam_cli import console

if TYPE_CHECKING:
    from casam_cache.training.loop import FitProgress


def demo(
    out: Path = typer.Option(
        Path("casam_demo"), help="The folder to work in. An interrupted demo goes on there."
    ),
    images: int = typer.Option(24, help="How many phantoms are drawn for each task, at least 6."),
    epochs: int | None = typer.Option(
        None, help="How many epochs each fit takes. The recipe says it otherwise."
    ),
    seed: int = typer.Option(0, help="The seed of the phantoms and of the fits."),
    device: str = typer.Option("auto", help="The device to compute on: auto, cpu, cuda, cuda:N or mps."),
    json_: bool = console.JsonOption,
) -> None:
    """Draw phantoms, encode them, fit each task, then learn some one after the other; tables and pictures."""
    from casam_cache.report.demo import run_demo
    from casam_cache.report.fit_table import fit_table

    with console.bar("demo", unit="images") as bar:

        def on_fit(task: str, progress: FitProgress) -> None:
            note = f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f}"
            bar.update_named(f"fit {task}", progress.step, progress.steps, note, progress.samples_per_second)

        report = run_demo(
            out, images=images, epochs=epochs, seed=seed, device=device,
            on_encode=bar.update_named, on_fit=on_fit, say=console.show_line,
        )  # fmt: skip
    if json_:
        console.print_json(report.to_json())
        return
    console.show_table(fit_table(report.fits))
    for table in report.sequence.tables:
        console.show_table(table)
    console.show_line(f"tables: {report.table}, {report.sequence.page}")
    console.show_line(f"pictures: {report.pictures[0].parent}")
    console.show_line(f"in a browser: casam report {out / 'runs'} --html {out / 'report'} --open")
