"""`casam bench`: continual-learning methods over task orders, every stage computed once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from casam_cache.errors import CasamError, OptionError
from casam_cli import console
from casam_cli.report import open_report
from casam_cli.stores import stores_folder

FOLDER = "bench"  # of a folder of runs, where results are

if TYPE_CHECKING:
    from casam_cache.bench.bench import Bench, BenchProgress
    from casam_cache.bench.recipe import Recipe
    from casam_cache.bench.results import Results
    from casam_cache.engine.runs import Changed


def bench(
    tasks: str | None = typer.Option(
        None, metavar="A,B,...", help="The tasks to learn. Without it, all stores are learnt."
    ),
    order: str | None = typer.Option(
        None, help="The order of the tasks: paper, random, table8, a file, or A,B,C. The default is paper."
    ),
    orders: int | None = typer.Option(
        None, min=1, help="How many orders to run. Random ones follow the named ones."
    ),
    order_seed: int | None = typer.Option(
        None, help="The seed of random orders. With more --orders, the first ones stay the same."
    ),
    methods: str | None = typer.Option(
        None,
        metavar="all|A,B,...",
        help="The methods to compare. FILE.py:CLASS is one of your own. Beside --recipe FILE: its rows of these names.",
    ),
    method: list[str] = typer.Option(
        [], help="A further method, or FILE.py:CLASS. It may be given several times."
    ),
    set_: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=V1,V2",
        help="Set an option of every method that has it, or METHOD.KEY for one. Several values make a grid.",
    ),
    epochs: int | None = typer.Option(
        None, min=1, help="How often each training image is visited. The default is 24."
    ),
    select: str | None = typer.Option(
        None,
        metavar="iou|biou",
        help="Choose the best of each grid on the validation split, and report test once.",
    ),
    seeds: int | None = typer.Option(None, min=1, help="How many seeds to run: 0, 1, and so on."),
    unseen: str | None = typer.Option(
        None,
        metavar="none|paper|A,B",
        help="The sets that no method trains on, for OOD accuracy and zero-shot IoU.",
    ),
    evaluate: str | None = typer.Option(None, help="The split to score: test or val."),
    prompts: str | None = typer.Option(
        None,
        metavar="PROMPT",
        help="The prompt of each scored mask: box, jitter:0.1, jitter:5px, point, point:random or clicks:5.",
    ),
    metric: list[str] = typer.Option(
        [], help="A further metric beside IoU, Boundary IoU and Dice, or FILE.py:CLASS. It may be repeated."
    ),
    weight: str | None = typer.Option(
        None, help="What weights the tasks in Last and Avg: images, masks or tasks."
    ),
    forgetting: str | None = typer.Option(
        None, help="The variant of forgetting: paper, mammoth or avalanche."
    ),
    recipe: Path | None = typer.Option(
        None,
        help="A recipe (YAML); options given here come before it. Or paper: the paper's options of fits, where the"
        " backbone's own stand otherwise.",
    ),
    reference: str | None = typer.Option(
        None,
        metavar="DIR",
        help="The folder of stores of adapter-tuned features, for the distances of Table 4.",
    ),
    store: Path = typer.Option(
        Path("casam_store"), parser=stores_folder, metavar="DIR", help="The folder of stores."
    ),
    runs: Path = typer.Option(Path("casam_runs"), help="The folder of runs."),
    model: str | None = typer.Option(
        None, help="The backbone. It is needed only where there are stores of several."
    ),
    device: str = typer.Option("auto", help="Where to compute: auto, cpu, cuda, cuda:N or mps."),
    jobs: int | None = typer.Option(
        None, min=1, help="How many processes to use. The default is one a core on a CPU, and one on a GPU."
    ),
    executor: str = typer.Option(
        "processes",
        help="Where stages run: processes, dask, dask:ADDRESS, cluster:FILE.yaml. A cluster must see the same folders.",
    ),
    dry_run: bool = typer.Option(
        False,
        "--dry-run",
        help="Print the plan and stop: its stages, what exists, what is shared, and the time.",
    ),
    open_: bool = typer.Option(
        False,
        "--open",
        help="Write a report for a browser of this bench into the folder of runs, and open it.",
    ),
    recompute: bool = console.RecomputeOption,
    keep: bool = console.KeepOption,
    json_: bool = console.JsonOption,
) -> None:
    """Compare continual-learning methods over task orders, from cached embeddings; nothing is computed twice."""
    from casam_cache.bench.bench import Bench
    from casam_cache.engine.executors import default_jobs

    asked = _recipe(
        recipe,
        {
            "tasks": _names(tasks),
            "order": order,
            "orders": orders,
            "order_seed": order_seed,
            "select": select,
            "seeds": seeds,
            "unseen": _names(unseen, "none", "paper"),
            "evaluate": evaluate,
            "prompts": prompts,
            "metrics": metric or None,
            "weight": weight,
            "forgetting": forgetting,
            "reference": reference,
        },
        methods,
        method,
        [*set_, *([] if epochs is None else [f"epochs={epochs}"])],
    )
    named = methods not in (None, "all") or bool(method)
    planned = Bench.plan(asked, store, runs, model=model, device=device, lenient=not named)
    for skipped in planned.skipped:
        console.show_line(f"left out: {skipped['method']}: {skipped['reason']}", "yellow")
        console.show_line(f"  {skipped['hint']}")
    if dry_run:
        if open_:
            raise OptionError(
                "--open beside --dry-run, which makes nothing to open", "leave out one of the two"
            )
        _show_plan(planned, json_)
        return
    places = jobs or default_jobs(planned.tasks.place.device)
    results = _run(planned, places, executor, console.changed(recompute, keep))
    if not json_:
        _show_results(results)
    picture = _picture(planned, results)
    report = open_report(runs / FOLDER / results.key) if open_ else None
    if json_:
        console.print_json({**results.to_json(), "pictures": picture, "report": report})
    elif report is None:
        console.show_line(f"report: casam report {runs / FOLDER / results.key} --html DIR --open")


def _picture(planned: Bench, results: Results) -> str | None:
    """What reports show of routers and masks; Figure 7, whose path is said, where it can be drawn."""
    from casam_cache.report.bench_notes import note_bench

    try:
        path, said = note_bench(planned, results)
    except CasamError as error:
        console.show_line(f"no picture: {error.message}")
        return None
    note = f" (outlines alone: {said})" if said else ""
    console.show_line(f"worst, median and best masks: {path}{note}")
    return str(path)


def _recipe(
    path: Path | None,
    given: dict[str, Any],
    methods: str | None,
    more: list[str],
    settings: list[str],
) -> Recipe:
    """The recipe of a file, or an empty one, with what the command line says."""
    from casam_cache.bench.configs import ALL_METHODS, with_settings
    from casam_cache.bench.recipe import load_recipe, read_recipe

    chosen = {key: value for key, value in given.items() if value is not None}
    asked: list[str] = [] if methods in (None, "all") else _names(methods) or []
    names: list[Any] = [*ALL_METHODS] if methods in (None, "all") else asked
    if path is None or str(path) in ("default", "paper"):
        if more and methods is None:
            names = []
        content: dict[str, Any] = {
            "title": "Continual learning",
            "table": "bench",
            "methods": [*names, *more],
        }
        content["defaults"] = "paper" if str(path) == "paper" else "backbone"
        return with_settings(read_recipe({**content, **chosen}, "of this command line"), settings)
    recipe = load_recipe(path)
    rows: list[Any] = names if methods == "all" else [entry.model_dump() for entry in recipe.methods]
    if methods not in (None, "all"):
        of_name = {name: recipe.rows_of(name) for name in asked}
        rows = [row for name, own in of_name.items() for row in own or [{"method": name}]]
        if lacking := [name for name, own in of_name.items() if not own]:
            console.show_line(f"no row of {path}, so without settings of it: {', '.join(lacking)}")
    content = {**recipe.model_dump(), "methods": [*rows, *more], **chosen}
    return with_settings(read_recipe(content, str(path)), settings)


def _names(text: str | None, *words: str) -> Any:
    """A comma-separated list; `all` and the given words stay words."""
    if text is None or text in ("all", *words):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _run(planned: Bench, jobs: int, spec: str, changed: Changed) -> Results:
    from casam_cache.engine.clusters import open_executor

    with open_executor(spec, jobs, console.show_line) as (executor, places), _Live() as live:
        return planned.run(
            changed=changed, jobs=places, executor=executor, on_progress=live.update, say=console.show_line
        )


class _Live:
    """A table that fills while the bench runs; plain lines where stderr is no terminal."""

    def __init__(self) -> None:
        self._live: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> _Live:
        if console.err.is_terminal:
            from rich.live import Live

            self._live = Live(console=console.err, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def update(self, progress: BenchProgress) -> None:
        plan = progress.plan
        eta = "" if plan.eta_seconds is None else f"ETA {_duration(plan.eta_seconds)}"
        status = f"bench {plan.done}/{plan.total} stages {eta}".rstrip()
        if self._live is not None:
            self._live.update(self._table(progress, status))
        elif time.monotonic() - self._said >= console.LINE_SECONDS:
            self._said = time.monotonic()
            console.show_line(f"{status} {_some(plan.running)}".rstrip())

    def _table(self, progress: BenchProgress, status: str) -> Any:
        from rich.table import Table

        table = Table(title=status, caption=_some(progress.plan.running), caption_justify="left")
        for column in ("method", "stages", "Last-IoU", "Avg-IoU", "FF-IoU", "Last-BIoU"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for label in dict.fromkeys(progress.labels):
            own = [place for place, other in enumerate(progress.labels) if other == label]
            rows = [row for place in own if (row := progress.rows[place]) is not None]
            done, total = (sum(progress.parts[place][side] for place in own) for side in (0, 1))
            figures = [_mean(rows, name) for name in ("last_iou", "avg_iou", "ff_iou", "last_biou")]
            table.add_row(label, f"{done}/{total}", *figures)
        return table


def _some(labels: tuple[str, ...], most: int = 3) -> str:
    """The first few of what is running: a group of routers may be a hundred."""
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return "; ".join(labels[:most]) + more


def _mean(rows: list[dict[str, Any]], name: str) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    return f"{100 * sum(values) / len(values):.2f}" if values else ""


def _show_plan(planned: Bench, json_: bool) -> None:
    summary = planned.summary()
    if json_:
        console.print_json(summary.to_json())
        return
    from casam_cache.report.bench_table import plan_table

    console.show_table(plan_table(summary.to_json()))
    if summary.seconds is None:
        console.show_result("time: unknown until a stage of each kind has been timed in this runs folder")
    else:
        console.show_result(f"time: about {_duration(summary.seconds)} of work for one process")


def _show_results(results: Results) -> None:
    from casam_cache.report.bench_table import bench_tables

    for place, table in enumerate(bench_tables(results.to_json())):
        if place:
            console.show_result("")
        console.show_table(table)
    counts = results.stages
    console.show_line(
        f"{counts['requested']} stages without sharing, {counts['distinct']} distinct:"
        f" {counts['computed']} computed, {counts['reused']} reused"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
