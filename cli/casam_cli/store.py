"""`casam store info | verify | repair`: what a store holds, whether it is whole, and making it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from casam_cache.errors import StoreError
from casam_cli import console

store_app = typer.Typer(help="Look at a store, verify every byte of it, repair it.", no_args_is_help=True)


@store_app.command()
def info(
    store: Path = typer.Argument(..., help="DIR/TASK/BACKBONE.zarr"),
    json_: bool = console.JsonOption,
) -> None:
    """Say what a store holds: items, arrays, identity, annotations."""
    from casam_cache.store import EmbeddingStore
    from casam_cache.store.schema import EMBEDDING

    opened = EmbeddingStore.open(store)
    failures = {opened.ids[index]: reason for index, reason in opened.failures.items()}
    report: dict[str, Any] = {
        "items": len(opened),
        "dtype": str(opened.dtype),
        "embedding_shape": list(opened.embedding_shape),
        "identity": opened.identity,
        "fingerprint": opened.fingerprint,
        "committed": {name: int(opened.committed(name).sum()) for name in opened.arrays},
        "arrays": {name: list(spec.shape) for name, spec in opened.arrays.items()},
        "failures": failures,
        "bytes": sum(file.stat().st_size for file in store.rglob("*") if file.is_file()),
        "annotations": _annotations(opened),
    }
    if json_:
        console.print_json(report)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None)
    table.add_row(
        "items", f"{report['items']} ({report['committed'][EMBEDDING]} committed, {len(failures)} failed)"
    )
    for name, shape in report["arrays"].items():
        done = report["committed"][name]
        table.add_row(
            name, f"{tuple(shape)} {opened.arrays[name].dtype}, {done} of {report['items']} committed"
        )
    table.add_row("size", f"{report['bytes'] / 2**20:,.1f} MiB")
    table.add_row(
        "annotations", ", ".join(f"{key} {value}" for key, value in report["annotations"].items()) or "none"
    )
    table.add_row("precision", str(opened.identity.get("precision")))
    table.add_row("resize", str(opened.identity.get("preprocessing", {}).get("resize")))
    table.add_row("weights", str(opened.identity.get("backbone", {}).get("weights")))
    table.add_row("fingerprint", opened.fingerprint)
    for name, reason in failures.items():
        table.add_row("failed", Text(f"{name}: {reason}"))
    console.out.print(table)


@store_app.command()
def verify(
    store: Path = typer.Argument(..., help="DIR/TASK/BACKBONE.zarr"),
    json_: bool = console.JsonOption,
) -> None:
    """Read every byte of a store back and name what is damaged; exit code 1 if anything is."""
    from casam_cache.store.verify import verify as verify_store

    with console.bar("verify", unit="files") as bar:
        report = verify_store(store, progress=lambda done, total: bar.update(done, total))
    if json_:
        console.print_json(report.to_json())
    else:
        for line in report.describe():
            console.show_line(line)
    if not report.sound:
        raise typer.Exit(1)


@store_app.command()
def repair(
    store: Path = typer.Argument(..., help="DIR/TASK/BACKBONE.zarr"),
    data: Path = typer.Argument(..., help="The dataset it was encoded from."),
    checkpoint: Path | None = typer.Option(None, help="Where the backbone's checkpoint is now."),
    device: str = typer.Option("auto", help="auto | cpu | cuda | cuda:N | mps"),
    json_: bool = console.JsonOption,
) -> None:
    """Encode again just what `verify` finds damaged."""
    from casam_cache.encode.repair import repair_store

    if not (store / "zarr.json").exists():
        raise StoreError(
            f"{store} is not a store", "casam encode makes one; a store is DIR/TASK/BACKBONE.zarr"
        )
    with console.bar("repair") as bar:
        report = repair_store(store, data, checkpoint=checkpoint, device=device, progress=bar.update)
    if json_:
        console.print_json(report)
        return
    console.show_line(
        f"{store}: {report['repaired']} items encoded again" if report["repaired"] else f"{store}: whole"
    )


def _annotations(opened: Any) -> dict[str, Any]:
    if not opened.has_annotations:
        return {}
    annotations = opened.annotations
    counts = {split: len(annotations.rows(split)) for split in ("train", "val", "test")}
    return {"mask_mode": annotations.attributes.get("mask_mode"), "masks": annotations.masks, **counts}
