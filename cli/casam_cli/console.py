"""What a person sees: messages and progress on stderr, results on stdout, one JSON object where it was asked for."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from casam_cache.errors import CasamError, OptionError
from casam_cache.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from casam_cache.engine.runs import Changed
    from casam_cache.report.layout import Table

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)

JsonOption = typer.Option(False, "--json", help="Print the result as exactly one JSON object.")
RecomputeOption = typer.Option(
    False,
    "--recompute",
    help="Compute again what was computed by other code than that which is installed now.",
)
KeepOption = typer.Option(
    False, "--keep", help="Use what was computed by other code as it is. The results say so."
)


def changed(recompute: bool, keep: bool) -> Changed:
    """What the two options say about stages that other code computed.

    Raises:
        OptionError: both are given.
    """
    if recompute and keep:
        raise OptionError("--recompute and --keep exclude each other", "give one of the two")
    return "recompute" if recompute else "keep" if keep else "stop"


def show_line(text: str, style: str = "") -> None:
    err.print(Text(printable(text, "\n\t"), style=style), soft_wrap=True)


def show_result(text: str) -> None:
    """One line of a result, on stdout, never wrapped: a table stays one also in a file or a narrow window."""
    out.print(Text(printable(text, "\n\t")), soft_wrap=True)


def show_table(table: Table) -> None:
    from casam_cache.report.formats import to_text

    for line in to_text(table).splitlines():
        show_result(line)


def show_error(error: CasamError) -> None:
    """The error's message and hint on stderr; with --json also as the one object on stdout."""
    show_line(f"error: {error.message}", "bold red")
    if error.hint:
        show_line(f"  {error.hint}")
    if "--json" in sys.argv:
        print_json({"error": {"message": error.message, "hint": error.hint}})


def print_json(data: dict[str, Any]) -> None:
    """Exactly one JSON object on stdout; NaN and infinity, which JSON lacks, become null."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, sort_keys=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


LINE_SECONDS = 20.0  # between progress lines where there is no terminal


class Bar:
    """One progress bar; `update` is the callback that long work takes.

    Where stderr is not a terminal, a plain line every `LINE_SECONDS` takes its place, for logs.
    """

    def __init__(self, progress: Progress, task: TaskID, description: str, unit: str) -> None:
        self._progress, self._task, self._unit = progress, task, unit
        self._name = description
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None

    def update(self, done: int, total: int, note: str = "", rate: float | None = None) -> None:
        """Shows `done` of `total`, a rate per second where known, and a short note."""
        shown = "" if rate is None else f"{rate:,.1f} {self._unit}/s"
        self._progress.update(self._task, completed=done, total=total, note=note, rate=shown)
        now = time.monotonic()
        if self._first is None:  # what was done before, and what getting ready took, say nothing of the rest
            self._first = now, done
        began, before = self._first
        if self._progress.disable and now - self._said >= LINE_SECONDS:
            self._said = now
            left = f"ETA {(now - began) / (done - before) * (total - done):.0f} s" if done > before else ""
            show_line(" ".join(part for part in (self._name, f"{done}/{total}", shown, left, note) if part))

    def update_named(
        self, name: str, done: int, total: int, note: str = "", rate: float | None = None
    ) -> None:
        """As `update`, for work on one of several things by name; the clock starts again at each name."""
        if name != self._name:
            self._name, self._first = name, None
            self._progress.reset(self._task, total=total, description=name, rate="", note="")
        self.update(done, total, note, rate)


@contextmanager
def bar(description: str, unit: str = "images") -> Iterator[Bar]:
    """A progress bar on stderr with elapsed time, ETA and throughput."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        yield Bar(progress, progress.add_task(description, total=None, rate="", note=""), description, unit)


def end_of_many(
    many: bool, reports: list[dict[str, Any]], failed: dict[str, CasamError], json_: bool
) -> None:
    """One JSON object, and the failures; the exit code is 1 if any image failed."""
    wrong = [{"image": name, "error": error.message, "hint": error.hint} for name, error in failed.items()]
    if json_:
        print_json({"images": reports, "failed": wrong} if many else reports[0])
    for name, error in failed.items():
        show_line(f"{name}: {error.message}", "bold red")
        if error.hint:
            show_line(f"  {error.hint}")
    if many:
        show_line(f"{len(reports)} images segmented, {len(failed)} failed")
    if failed:
        raise typer.Exit(1)
