"""`casam search`: which options of a head are worth their cost, tried on validation groups."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from casam_cache.errors import OptionError
from casam_cli import console
from casam_cli.stores import stores_folder

if TYPE_CHECKING:
    from casam_cache.bench.search.search import SearchProgress

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def search(
    head: str = typer.Option(
        "alignment",
        help="The head to search: alignment, decoder, combined, prompt-tuning, hq-sam, or FILE.py:CLASS of your own.",
    ),
    space: str = typer.Option(
        "builtin",
        metavar="builtin|FILE",
        help="The options that vary and their values: a YAML file, or those to begin with.",
    ),
    tasks: str | None = typer.Option(
        None, metavar="A,B,...", help="The tasks to judge on. Without it, all stores count."
    ),
    trials: int | None = typer.Option(None, min=1, help="How many points to try in all."),
    budget: str | None = typer.Option(
        None,
        metavar="TIME",
        help="The time after which no trial begins, of all calls together: 90s, 30m or 2h.",
    ),
    objective: str = typer.Option(
        "iou",
        metavar="iou[,flops][,parameters]",
        help="What to be better in: iou, biou or dice, and then what it costs: flops, parameters.",
    ),
    set_: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=VALUE",
        help="Set an option of the head or the training, which does not vary then.",
    ),
    recipe: str = typer.Option(
        "default",
        metavar="default|paper|FILE",
        help="What stands where nothing is said: default, which belongs to the backbone, paper, or a file.",
    ),
    seed: int = typer.Option(0, help="The seed of what is suggested, and of every fit."),
    prompts: str = typer.Option(
        "box",
        metavar="PROMPT",
        help="The prompt of each scored mask: box, jitter:0.1, jitter:5px, point, point:random or clicks:5.",
    ),
    pruning: bool = typer.Option(
        True,
        "--pruning/--no-pruning",
        help="Whether points that do worse on a part of the tasks and steps are left there.",
    ),
    store: Path = typer.Option(
        Path("casam_store"), parser=stores_folder, metavar="DIR", help="The folder of stores."
    ),
    runs: Path = typer.Option(Path("casam_runs"), help="The folder of runs. The study lies in it."),
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
    recompute: bool = console.RecomputeOption,
    keep: bool = console.KeepOption,
    json_: bool = console.JsonOption,
) -> None:
    """Search the options of a head on validation groups, never on test; the same command goes on where it was."""
    seconds = None if budget is None else read_time(budget)
    from casam_cache.backbones.devices import choose_device
    from casam_cache.bench.search.search import search as run_search
    from casam_cache.engine.executors import default_jobs
    from casam_cache.report.search_files import write_search
    from casam_cache.report.search_table import search_table

    with console.bar(f"search {head.rpartition(':')[2]}", unit="trials") as bar:

        def on_progress(progress: SearchProgress) -> None:
            _show(bar, progress)

        report = run_search(
            head, store, runs, trials=trials, budget=seconds, jobs=jobs or default_jobs(str(choose_device(device))),
            executor=executor, changed=console.changed(recompute, keep), on_progress=on_progress,
            say=console.show_line, space=space, tasks=_names(tasks), objectives=objective, options=set_, recipe=recipe,
            seed=seed, prompts=prompts, model=model, device=device, pruning=pruning,
        )  # fmt: skip
    files = write_search(report)
    if json_:
        console.print_json({**report.to_json(), "files": [str(path) for path in files]})
        return
    console.show_table(search_table(report))
    console.show_line(f"{report.new} new trials, {report.computed} stages computed: {report.folder}")
    if report.best is not None:
        console.show_line(f"the best: casam fit --task TASK --recipe {report.recipes[report.best]}")


def read_time(text: str) -> float:
    """Seconds of `90s`, `30m`, `2h` or `1.5h`.

    Raises:
        OptionError: it is no time above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    if not found or found[2] not in _UNITS or float(found[1]) == 0:
        raise OptionError(f"--budget {text} is no time", "for example 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


def _show(bar: console.Bar, progress: SearchProgress) -> None:
    """What this call has done of what it has to do: trials, or where only time ends the search, seconds."""
    trials, seconds = progress.began
    rung, rungs = progress.rung
    parts = [f"{progress.trials} trials"]
    if progress.best is not None:
        parts.append(f"best {100 * progress.best:.2f}")
    if rungs > 1:
        parts.append(f"rung {rung + 1}/{rungs}")
    note = ", ".join(parts)
    if progress.wanted is not None:
        bar.update(progress.trials - trials, max(0, progress.wanted - trials), note)
    elif progress.budget is not None:
        left = max(0, round(progress.budget - seconds))
        bar.update(min(round(progress.seconds - seconds), left), left, f"s, {note}")
