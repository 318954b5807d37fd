"""`casam view`: prompts by mouse, on a page that this machine alone can open."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from casam_cli import console

if TYPE_CHECKING:
    from casam_cache.view.server import ViewServer


def view(
    what: Path = typer.Argument(
        ...,
        help="A store or a folder of stores, for the frozen SAM; or the folder of a fit, or of a routed model of casam "
        "bench, which is shown beside it.",
    ),
    images: Path | None = typer.Option(
        None, help="A folder of images to go through too; each is encoded when it is opened."
    ),
    store: Path | None = typer.Option(
        None, help="The stores of a run, if others than it was fitted on, or if they are elsewhere now."
    ),
    task: str | None = typer.Option(None, help="The only task to show, where there are several."),
    model: str | None = typer.Option(None, help="The backbone, where stores of several are there."),
    data: Path | None = typer.Option(
        None, help="The folder of the datasets, if they are not where they were when encoded."
    ),
    checkpoint: Path | None = typer.Option(
        None, help="The backbone's checkpoint, if it is not where it was; it is needed for --images alone."
    ),
    out: Path = typer.Option(
        Path("casam_view"), help="The folder that masks are kept in, as PNG and COCO JSON."
    ),
    port: int = typer.Option(0, min=0, max=65535, help="The port on 127.0.0.1; 0 is a free one."),
    open_: bool = typer.Option(False, "--open", help="Open the page in the browser."),
    device: str = typer.Option("auto", help="Where to compute: auto, cpu, cuda, cuda:N or mps."),
    trust: bool = typer.Option(
        False,
        "--trust",
        help="Run the Python files that the run brings. Read them first if they are not yours.",
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Segment by mouse in a browser: click points, drag boxes, see frozen and fitted masks at once, keep some."""
    from casam_cache.view.kept import Kept
    from casam_cache.view.opening import open_session
    from casam_cache.view.server import ViewServer

    kept = Kept(out)
    session = open_session(
        what, kept, images=images, store=store, task=task, model=model, data=data, checkpoint=checkpoint,
        device=device, trust=trust,
    )  # fmt: skip
    if stand_in := session.listing()["stand_in"]:
        console.show_line(stand_in)
    try:
        with ViewServer(session, port, console.show_line) as server:
            if json_:
                console.print_json({"address": server.address, "out": str(out)})
                sys.stdout.flush()  # whoever reads it waits for it
            else:
                console.show_result(server.address)
            console.show_line("open the address in a browser on this machine; Ctrl-C ends")
            if open_:
                typer.launch(server.address)
            _serve(server)
    finally:
        kept.close()
    console.show_line(f"ended; masks that were kept are in {out}")


def _serve(server: ViewServer) -> None:
    """Until Ctrl-C, which is how it ends."""
    with suppress(KeyboardInterrupt):
        server.serve_forever()
