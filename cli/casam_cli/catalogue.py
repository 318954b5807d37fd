"""`casam data list | show`: the public datasets that are known by name."""

from __future__ import annotations

import typer

from casam_cli import console


def list_datasets(json_: bool = console.JsonOption) -> None:
    """List public datasets that are known by name: the paper's, and others that people ask for."""
    from casam_cache.datasets.catalogue import ENTRIES
    from casam_cache.report.catalogue_table import catalogue_table

    if json_:
        console.print_json({"datasets": [entry.to_json() for entry in ENTRIES]})
        return
    console.show_table(catalogue_table(ENTRIES))


def show_dataset(
    name: str = typer.Argument(..., help="A name of casam data list, or another that the set goes by."),
    json_: bool = console.JsonOption,
) -> None:
    """Show one of them: what it holds, its licence, where it comes from, its layout, and how to encode it."""
    from casam_cache.datasets.catalogue import get_entry
    from casam_cache.report.catalogue_table import describe_entry

    entry = get_entry(name)
    if json_:
        console.print_json(entry.to_json())
        return
    for line in describe_entry(entry):
        console.show_result(line)
