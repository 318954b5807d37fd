"""`casam data check | list | show | phantoms`: look at datasets before encoding them; draw one to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from casam_cli import catalogue, console, dataset_options
from casam_cli.problems import first_of_each_kind

MOST = 50  # problems of one kind
data_app = typer.Typer(help="Look at datasets before encoding them, or draw phantoms.", no_args_is_help=True)
data_app.command("list")(catalogue.list_datasets)
data_app.command("show")(catalogue.show_dataset)


@data_app.command()
@dataset_options.takes_dataset_options
def check(
    path: Path = typer.Argument(..., help="A dataset (images/ and masks/), or a folder of datasets."),
    reader: str | None = dataset_options.READER,
    read_as: Any = None,
    sheets: Path = typer.Option(Path("casam_check"), help="Folder that contact sheets are written to."),
    json_: bool = console.JsonOption,
) -> None:
    """Print what was found and every problem by file, and draw a contact sheet; exit code 1 if anything is unusable."""
    from casam_cache.datasets.check import check as check_datasets
    from casam_cache.datasets.contact_sheet import contact_sheet

    with console.bar("check") as bar:
        report = check_datasets(path, read_as, lambda done, total: bar.update(done, total), reader)
    pictures = {}
    for found in report.datasets:
        if found.samples:
            sheets.mkdir(parents=True, exist_ok=True)
            pictures[found.task] = str(contact_sheet(found, _unused(sheets, found.task)))
    if json_:
        console.print_json({**report.to_json(), "contact_sheets": pictures})
    else:
        for task in report.tasks:
            _show(task, pictures.get(task.task))
    if report.errors:
        raise typer.Exit(1)


@data_app.command()
def phantoms(
    out: Path = typer.Argument(..., help="Folder to draw into; it must not exist or be empty."),
    seed: int = typer.Option(0, help="Another seed draws other phantoms of the same looks."),
    images: int = typer.Option(24, help="Number of images that each task gets."),
    json_: bool = console.JsonOption,
) -> None:
    """Draw nine small procedural tasks of different look, and unseen ones: OUT/tasks and OUT/unseen."""
    from casam_cache.datasets.phantoms import write_phantoms

    folders = write_phantoms(out, seed=seed, images_per_task=images)
    if json_:
        console.print_json({"folders": [str(folder) for folder in folders]})
        return
    for folder in folders:
        console.show_line(str(folder))


def _unused(folder: Path, name: str) -> Path:
    """NAME.png, or NAME-2.png and so on: an earlier sheet is kept."""
    path, number = folder / f"{name}.png", 2
    while path.exists():
        path, number = folder / f"{name}-{number}.png", number + 1
    return path


def _show(task: Any, picture: str | None) -> None:
    out = console.show_result
    out(f"{task.task}  {task.path}")
    for note in task.notes:
        out(f"  {note}")
    out(f"  images {task.images}, masks {task.objects} ({task.mask_mode}: {task.mask_reason})")
    out(f"  without any mask content {task.empty}, unlabelled {task.unlabelled}")
    for name, (height, width) in task.sizes.items():
        out(f"  size {name.replace('_', ' ')}: {width} x {height}")
    out("  pixels: " + ", ".join(f"{kind}: {count}" for kind, count in task.kinds.items()))
    for entry in task.classes:
        named = f"class {entry.class_id}" + (f" ({entry.name})" if entry.name else "")
        out(f"  {named}: {entry.objects} masks in {entry.images} images, {100 * entry.area:.1f} % area")
    splits = ", ".join(
        f"{name} {entry.images} images, {entry.groups} groups, {entry.objects} masks"
        for name, entry in task.splits.items()
    )
    out(f"  splits ({task.split_source}): {splits}; {task.groups} groups")
    shown = first_of_each_kind(task.problems, MOST, lambda problem: f"{problem.severity}: {problem}")
    for problem, more in shown:
        style = "red" if problem.severity == "error" else "yellow"
        console.show_line(f"  {problem.severity}: {problem}", style)
        if more:
            console.show_line(f"  and {more} more of this kind; --json lists all", style)
    if picture:
        out(f"  contact sheet: {picture}")
