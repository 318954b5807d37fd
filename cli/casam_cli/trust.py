"""`casam trust`: lets Python files run that lie in a run or a store of somebody else's."""

from __future__ import annotations

from pathlib import Path

import typer

from casam_cli import console


def trust(
    file: list[Path] = typer.Argument(
        ..., help="A Python file that you have read, such as source-*.py beside a head."
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Let Python files run that came with a run or a store: from now on, files of exactly this content are trusted."""
    from casam_cache.references import trust_file

    trusted = {str(path): trust_file(path) for path in file}
    if json_:
        console.print_json({"trusted": trusted})
        return
    for path, sha256 in trusted.items():
        console.show_line(f"trusted: {path} (SHA-256 {sha256[:16]}...)")
