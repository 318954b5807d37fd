"""`casam store info | verify | repair | copy`: what a store holds, whether it is whole, making it so, and elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from casam_cache.errors import StoreError
from casam_cli import console, dataset_options
from casam_cli.stores import stores_folder

store_app = typer.Typer(
    help="Look at a store, verify every byte of it, repair it, or copy it.", no_args_is_help=True
)


@store_app.command()
def info(
    store: Path = typer.Argument(
        ..., parser=stores_folder, metavar="STORE", help="The store, DIR/TASK/BACKBONE.zarr."
    ),
    compare: Path | None = typer.Option(
        None,
        help="Another store of the same images. The frozen SAM's IoU on both is compared, every mask by its box.",
    ),
    device: str = typer.Option(
        "auto", help="The device --compare computes on: auto, cpu, cuda, cuda:N or mps."
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Say what a store holds: its items, arrays, identity and annotations."""
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
        "quantisation": _quantisation(opened),
        "compare": None if compare is None else _compare(store, compare, device),
    }
    if json_:
        console.print_json(report)
        return
    from casam_cache.report.layout import facts_table

    told: list[tuple[str, str]] = []

    def tell(name: str, value: str) -> None:
        told.append((name, value))

    tell("items", f"{report['items']} ({report['committed'][EMBEDDING]} committed, {len(failures)} failed)")
    for name, shape in report["arrays"].items():
        done = report["committed"][name]
        tell(name, f"{tuple(shape)} {opened.arrays[name].dtype}, {done} of {report['items']} committed")
    tell("size", f"{report['bytes'] / 2**20:,.1f} MiB")
    tell("annotations", ", ".join(f"{key} {value}" for key, value in report["annotations"].items()) or "none")
    for name, error in report["quantisation"].items():
        if error["rms"] is None:
            continue
        tell(
            f"{name} as int8",
            f"error {100 * error['rms']:.2f} % (RMS error / RMS value; worst image {100 * error['worst_rms']:.2f} %), "
            f"largest {100 * error['largest']:.2f} % of an image's largest value",
        )
    if report["compare"]:
        scores = report["compare"]
        tell(
            "frozen SAM, box prompts",
            f"{_points(scores['iou'])} here, {_points(scores['other_iou'])} in {scores['store']}; difference "
            f"{_points(scores['difference'])} points over {scores['masks']} masks, "
            f"largest of a mask {_points(scores['largest'])}",
        )
    tell("precision", str(opened.identity.get("precision")))
    tell("resize", str(opened.identity.get("preprocessing", {}).get("resize")))
    tell("weights", str(opened.identity.get("backbone", {}).get("weights")))
    tell("fingerprint", opened.fingerprint)
    for name, reason in failures.items():
        tell("failed", f"{name}: {reason}")
    console.show_table(facts_table(told))


@store_app.command()
def verify(
    store: Path = typer.Argument(
        ..., parser=stores_folder, metavar="STORE", help="The store, DIR/TASK/BACKBONE.zarr."
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Read every byte of a store back and name what is damaged; exit code 1 if anything is."""
    from casam_cache.store.bucket_cache import fetch_store
    from casam_cache.store.verify import verify as verify_store

    with console.bar("verify", unit="files") as bar:
        fetch_store(store, bar.update)
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
    store: Path = typer.Argument(..., help="The store, DIR/TASK/BACKBONE.zarr."),
    data: Path = typer.Argument(..., help="The dataset that the store was encoded from."),
    checkpoint: Path | None = typer.Option(
        None, help="Where the backbone's checkpoint is now, if it was moved."
    ),
    device: str = typer.Option("auto", help="The device to compute on: auto, cpu, cuda, cuda:N or mps."),
    reader: str | None = dataset_options.READER,
    json_: bool = console.JsonOption,
) -> None:
    """Encode again just what `casam store verify` finds damaged."""
    from casam_cache.encode.repair import repair_store

    if not (store / "zarr.json").exists():
        raise StoreError(
            f"{store} is not a store", "casam encode makes one; a store is DIR/TASK/BACKBONE.zarr"
        )
    with console.bar("repair") as bar:
        report = repair_store(
            store, data, checkpoint=checkpoint, device=device, reader=reader, progress=bar.update
        )
    if json_:
        console.print_json(report)
        return
    console.show_line(
        f"{store}: {report['repaired']} items encoded again" if report["repaired"] else f"{store}: whole"
    )


@store_app.command()
def copy(
    source: str = typer.Argument(
        ...,
        help="A store (DIR/TASK/BACKBONE.zarr) or a folder of stores; a path, or s3://, gs:// or file://.",
    ),
    target: str = typer.Argument(
        ..., help="Folder of stores to copy into; a path, or an address as for SOURCE."
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Copy stores with all that fits need of them, verified; go on where an earlier copy stopped."""
    from casam_cache.store.copy import copy_stores

    with console.bar("copy") as bar:
        copied = copy_stores(source, target, progress=bar.update)
    if json_:
        console.print_json(copied.to_json())
        return
    console.show_line(
        f"{target}: {len(copied.stores)} stores whole; {copied.copied} of {copied.files} files copied now "
        f"({copied.bytes / 2**20:,.1f} MiB)"
    )


def _quantisation(opened: Any) -> dict[str, Any]:
    """For each int8 array: means and worst of the errors recorded while encoding; null before there are any."""
    found: dict[str, Any] = {}
    for name, spec in opened.arrays.items():
        if spec.quantised:
            errors = opened.quantisation_errors(name)
            some = len(errors) > 0
            found[name] = {
                "rms": float(errors[:, 1].mean()) if some else None,
                "worst_rms": float(errors[:, 1].max()) if some else None,
                "largest": float(errors[:, 0].max()) if some else None,
            }
    return found


def _compare(store: Path, other: Path, device: str) -> dict[str, Any]:
    from casam_cache.bench.compare_stores import compare_stores

    with console.bar("compare") as bar:
        return compare_stores(
            store, other, device=device, progress=lambda done, total: bar.update(done, total)
        )


def _points(share: float | None) -> str:
    return "undefined" if share is None else f"{100 * share:.2f}"


def _annotations(opened: Any) -> dict[str, Any]:
    if not opened.has_annotations:
        return {}
    annotations = opened.annotations
    counts = {split: len(annotations.rows(split)) for split in ("train", "val", "test")}
    return {"mask_mode": annotations.attributes.get("mask_mode"), "masks": annotations.masks, **counts}
