"""The entries of docs/datasets.md: `python -m casam_cache.report.catalogue_page docs/datasets.md` writes them anew."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from casam_cache.datasets.catalogue import ENTRIES, Entry
from casam_cache.report.catalogue_table import PARTS, facts_of

BEGIN, END = "<!-- entries -->\n", "<!-- end of entries -->\n"


def with_entries(page: str) -> str:
    """The page with its entries as they are now, between the two marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + catalogue_markdown(ENTRIES) + "\n" + END + rest.split(END)[1]


def catalogue_markdown(entries: Sequence[Entry]) -> str:
    """A table of all, then a section each with its facts and layout."""
    lines = ["| dataset | modality | paper: train / test | licence | read by |", "|---|---|---|---|---|"]
    lines += [
        f"| [{entry.name}](#{entry.name.lower()}) | {entry.modality} | {entry.counts} | {entry.licence} "
        f"| {f'`{entry.reader}`' if entry.reader else '-'} |"
        for entry in entries
    ]
    for role, label in PARTS:
        lines += ["", f"## {label}"]
        for entry in entries:
            if entry.role == role:
                lines += ["", *_section(entry)]
    return "\n".join(lines) + "\n"


def _section(entry: Entry) -> list[str]:
    lines = [f"### {entry.name}", "", f"{entry.title}.", ""]
    lines += [f"- {label}: {_linked(text)}" for label, text in facts_of(entry)]
    lines += ["", "```text", *entry.layout.splitlines(), "```", ""]
    if entry.reader:
        lines.append(f"`{entry.command}` (reader `{entry.reader}`)")
    else:
        lines.append("No reader of its own.")
    return lines


def _linked(text: str) -> str:
    return f"<{text}>" if text.startswith("http") else text


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_entries(path.read_text()))
