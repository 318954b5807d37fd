"""`casam export`: a fitted model as ONNX files for other programs."""

from __future__ import annotations

from pathlib import Path

import typer

from casam_cli import console
from casam_cli.stores import stores_folder


def export(
    run: Path | None = typer.Argument(
        None, help="The folder of a fit, or of a routed model of casam bench. Without it, the frozen SAM."
    ),
    onnx: Path = typer.Option(..., help="The folder to write decoder.onnx and export.json to."),
    encoder: bool = typer.Option(
        False,
        "--encoder",
        help="Write encoder.onnx too, from pixels to the embedding. It needs the checkpoint.",
    ),
    single_mask: bool = typer.Option(
        False,
        "--single-mask/--all-masks",
        help="One mask, for a single point the best of three; or all of the decoder's, the one for boxes first.",
    ),
    opset: int = typer.Option(17, help="The version of ONNX's operators, 16 to 20."),
    task: str | None = typer.Option(None, help="Which head of a routed model to take."),
    model: str | None = typer.Option(None, help="The backbone of the frozen SAM. A run names its own."),
    checkpoint: Path | None = typer.Option(
        None, help="The backbone's checkpoint, if it is not where it was."
    ),
    store: Path | None = typer.Option(
        None,
        parser=stores_folder,
        metavar="DIR",
        help="The folder of stores, for a run that does not carry its backbone.",
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace files that exist."),
    trust: bool = typer.Option(
        False,
        "--trust",
        help="Run the Python files that the run brings. Read them first if they are not yours.",
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Write a fitted model as ONNX: the graph of segment_anything's own export, the fitted layer inside, checked."""
    from casam_cache.export.onnx_files import export_onnx

    made = export_onnx(
        run, onnx, task=task, encoder=encoder, single_mask=single_mask, opset=opset, checkpoint=checkpoint, model=model,
        store=store, trust=trust, overwrite=overwrite, say=console.show_line,
    )  # fmt: skip
    if json_:
        console.print_json(made.to_json())
        return
    told = made.description
    if told["stand_in"]:
        console.show_line(told["stand_in"], "yellow")
    by = f"{told['head']} of {told['task']}" if told["task"] else told["head"]
    console.show_line(f"{onnx}: {told['model']}, {by}; {onnx / 'export.json'} says how it is used")
