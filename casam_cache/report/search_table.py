"""The trials of a search as a table: the best, the front, and what each option explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from casam_cache.bench.search.objectives import SCORES
from casam_cache.bench.search.outcome import SearchReport
from casam_cache.bench.search.study import TrialResult
from casam_cache.report.bench_table import mixed
from casam_cache.report.layout import Cell, Column, Line, Section, Table

BEST = 10  # trials that are listed
_LABELS = {
    "iou": "IoU",
    "biou": "BIoU",
    "dice": "Dice",
    "flops": "MFLOPs a step",
    "parameters": "parameters",
}


def search_table(report: SearchReport) -> Table:
    """The best trials by the first objective, the front where there are several objectives, importances, and notes."""
    score = report.objectives[0]
    ranked = sorted(report.complete, key=lambda trial: (-trial.rungs[-1].values[0], trial.number))
    options = list(report.space["vary"])
    columns = _columns(score, options)
    sections = [Section("Best trials", columns, tuple(_line(each, score, options) for each in ranked[:BEST]))]
    if len(report.objectives) > 1:
        on_front = [report.trials[number] for number in report.front]
        title = f"Front: no other is as good in {', '.join(map(_label, report.objectives))} and better in one"
        sections.append(Section(title, columns, tuple(_line(each, score, options) for each in on_front)))
    if report.importance:
        sections.append(_importance(report.importance, options))
    name = f"{report.name} on {', '.join(report.tasks)}, {report.model}"
    return Table("search", f"Search: {name}", "trial", tuple(sections), tuple(_notes(report)))


def _label(name: str) -> str:
    return _LABELS[name]


def _columns(score: str, options: Sequence[str]) -> tuple[Column, ...]:
    return (
        Column("score", _LABELS[score]),
        Column("gain", "gain"),
        Column("parameters", "parameters"),
        Column("flops", "MFLOPs a step"),
        *(Column(f"option {name}", name, left=True) for name in options),
    )


def _line(trial: TrialResult, score: str, options: Sequence[str]) -> Line:
    last = trial.rungs[-1]
    mean, gain = 100 * last.means[score], 100 * last.gains[score]
    cells = {"score": Cell(f"{mean:.2f}", mean), "gain": Cell(f"{gain:+.2f}", gain)}
    if trial.parameters is not None:
        cells["parameters"] = Cell(f"{trial.parameters:,}", trial.parameters)
    if trial.flops is not None:
        cells["flops"] = Cell(f"{trial.flops / 1e6:,.1f}", trial.flops / 1e6)
    for name in options:
        if name in trial.point:
            cells[f"option {name}"] = Cell(_shown(trial.point[name]))
    return Line(str(trial.number), cells)


def _importance(importance: Mapping[str, Mapping[str, float]], options: Sequence[str]) -> Section:
    known = [name for name in options if any(name in shares for shares in importance.values())]
    columns = tuple(Column(f"option {name}", name) for name in known)
    lines = []
    for objective, shares in importance.items():
        cells = {
            f"option {name}": Cell(f"{100 * shares[name]:.0f}", 100 * shares[name])
            for name in known
            if name in shares
        }
        lines.append(Line(_LABELS[objective], cells))
    return Section("Importance in %", columns, tuple(lines))


def _notes(report: SearchReport) -> list[str]:
    states: dict[str, int] = {}
    for trial in report.trials:
        states[trial.state] = states.get(trial.state, 0) + 1
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    frozen = {task: each["frozen"][report.objectives[0]] for task, each in report.tasks.items()}
    below = ", ".join(f"{task} {100 * value:.2f}" for task, value in frozen.items())
    notes = [
        f"{len(report.trials)} trials: {counted}. Scores in %, means over tasks of the means over masks, prompt"
        f" {report.prompt}, seed {report.seed}. Frozen SAM, {_LABELS[report.objectives[0]]}: {below}.",
        f"Judged on validation groups, never on test: {_judged(report.tasks)}. The best of many is better by chance"
        " too: casam fit --recipe says what it is worth on test.",
    ]
    if len(report.rungs) > 1:
        shown = ", ".join(
            f"{len(rung['tasks'])} at {100 * rung['part']:.0f} % of the steps" for rung in report.rungs
        )
        notes.append(f"Rungs, in tasks: {shown}. The best third of those that reached a rung so far goes on.")
    if report.importance:
        notes.append(
            "Importance: in what share each option sets the best tenth of all trials apart, as judged at the first rung"
            " (PED-ANOVA)."
        )
    notes += mixed({"mixtures": report.mixtures})
    if report.stand_in:
        notes.append(f"{report.model} is {report.stand_in}.")
    return notes


def _judged(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    told = []
    for task, each in tasks.items():
        where = "validation split" if each["train"] == "train" else "a quarter of the training groups"
        told.append(f"{task} {where} ({each['groups']} groups, {each['masks']} masks)")
    return "; ".join(told)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def scored(report: SearchReport) -> str:
    """The label of the first objective."""
    assert report.objectives[0] in SCORES
    return _LABELS[report.objectives[0]]
