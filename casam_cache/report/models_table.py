"""The table of `casam models`."""

from __future__ import annotations

from collections.abc import Sequence

from casam_cache.backbones.catalogue import ModelFacts
from casam_cache.report.layout import Cell, Column, Line, Section, Table

COLUMNS = (
    Column("parameters", "parameters"),
    Column("gflop", "GFLOP an image"),
    Column("bytes", "MiB an image"),
    Column("input", "input"),
    Column("preprocess", "preprocess", left=True),
    Column("licence", "licence", left=True),
    Column("here", "weights", left=True),
)


def models_table(models: Sequence[ModelFacts]) -> Table:
    """A line a model; below it what each is, and how its weights come here."""
    notes = [
        "GFLOP: a multiplication and an addition count as two. MiB: of a float16 embedding in the store."
    ]
    for model in models:
        notes.append(f"{model.name}: {model.about or 'a backbone of its own'}")
        if model.here or model.get:
            notes.append(f"  {model.here or model.get}")
    return Table("models", "", "model", (Section("", COLUMNS, tuple(map(_line, models))),), tuple(notes))


def _line(model: ModelFacts) -> Line:
    cells = {
        "parameters": _number(model.parameters, 1e6, "{:.1f} M"),
        "gflop": _number(model.gflop, 1, "{:,.0f}"),
        "bytes": _number(model.bytes, 2**20, "{:.2f}"),
        "input": _number(model.input, 1, "{:.0f}"),
        "preprocess": Cell(model.preprocess),
        "licence": Cell(model.licence or "-"),
        "here": Cell("here" if model.here else "not here" if model.get else "-"),
    }
    return Line(f"{model.name} (default)" if model.default else model.name, cells)


def _number(value: float | None, unit: float, text: str) -> Cell:
    return Cell("-") if value is None else Cell(text.format(value / unit), value / unit)
