"""The table of `casam data list`, and the text of `casam data show`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from casam_cache.datasets.catalogue import Entry
from casam_cache.report.layout import Cell, Column, Line, Section, Table

COLUMNS = (
    Column("modality", "modality", left=True),
    Column("classes", "classes", left=True),
    Column("counts", "paper: train / test"),
    Column("licence", "licence", left=True),
    Column("reader", "read by", left=True),
)
PARTS = (("task", "The paper's tasks"), ("unseen", "The paper's unseen sets"), ("", "Further sets"))


def catalogue_table(entries: Sequence[Entry]) -> Table:
    """A line a dataset, in the sections of `PARTS`."""
    sections = (
        Section(label, COLUMNS, tuple(_line(entry) for entry in entries if entry.role == role))
        for role, label in PARTS
    )
    notes = (
        "Nothing is downloaded: `casam data show NAME` says where a set comes from, on which conditions, and "
        "how it is laid out.",
        "Counts are those that the paper gives; blank: it gives none.",
    )
    return Table("datasets", "", "dataset", tuple(part for part in sections if part.lines), notes)


def facts_of(entry: Entry) -> list[tuple[str, str]]:
    """What is known about one dataset as (label, text), without its layout and how it is read."""
    facts = (
        ("also called", ", ".join(entry.aliases)),
        ("modality", entry.modality),
        ("classes", "; ".join(f"{number} {name}" for number, name in entry.classes)),
        ("holds", entry.images),
        ("the paper", _of_paper(entry)),
        ("licence", entry.licence),
        ("from", entry.url),
        ("conditions", entry.access),
        ("cite", entry.reference),
        ("kept together", entry.group),
        ("split", entry.split),
        *(("note", note) for note in entry.notes),
    )
    return [(label, text) for label, text in facts if text]


def describe_entry(entry: Entry) -> Iterator[str]:
    """Everything that is known about one dataset, in lines."""
    yield f"{entry.name}: {entry.title}"
    for label, text in facts_of(entry):
        yield f"  {label + ':':<15}{text}"
    yield "  layout:"
    for line in entry.layout.splitlines():
        yield f"    {line}"
    yield f"  {'read by:':<15}{entry.reader or 'no reader of its own'}"
    if entry.command:
        yield f"  {'command:':<15}{entry.command}"


def _of_paper(entry: Entry) -> str:
    if not entry.role:
        return ""
    kind = "one of its nine tasks" if entry.role == "task" else "one of its unseen sets"
    counts = "" if entry.train is None else f"{entry.train:,} training and {entry.test:,} test images"
    return "; ".join(part for part in (kind, counts or "no counts given", entry.paper) if part)


def _line(entry: Entry) -> Line:
    classes = ", ".join(name for _, name in entry.classes)
    cells = {
        "modality": Cell(entry.modality),
        "classes": Cell(classes if len(entry.classes) <= 3 else f"{len(entry.classes)} organs"),
        "counts": Cell(entry.counts),
        "licence": Cell(entry.licence),
        "reader": Cell(entry.reader or "-"),
    }
    return Line(entry.name, cells)
