"""A session from what a person names: a run or stores, and perhaps a folder of images."""

from __future__ import annotations

from pathlib import Path

from casam_cache.bench.predict import Predictor
from casam_cache.errors import CasamError
from casam_cache.view.kept import Kept
from casam_cache.view.session import Session
from casam_cache.view.sources import FolderSource, Source, run_and_stores, store_sources


def open_session(
    what: Path,
    kept: Kept,
    *,
    images: Path | None = None,
    store: Path | None = None,
    task: str | None = None,
    model: str | None = None,
    data: Path | None = None,
    checkpoint: Path | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Session:
    """What `casam view` shows; the options are its own.

    Args:
        what: a run, a store, or a folder of stores.
        kept: where masks go.
        images: a folder of images, beside the stores.
        store: where the stores of a run are.
        task: the only one to show.
        model: the backbone's name, where stores of several are there.
        data: folder of the datasets; None: where each was when it was encoded.
        checkpoint: of the backbone, for `images`.
        device: `auto`, `cpu`, `cuda`, ...
        trust: run the Python files that a run brings.

    Raises:
        CasamError: something of it is not there, or does not go together.
    """
    folder = None if images is None else FolderSource(images)
    run, stores = run_and_stores(what, store)
    predictor = Predictor(
        run, model=model, checkpoint=checkpoint, store=stores, device=device, trust=trust
    )  # fmt: skip
    sources: list[Source] = []
    if stores is not None:
        sources += store_sources(stores, task, model, data, predictor)
    if folder is not None:
        if folder.name in {source.name for source in sources}:
            folder.name += " (folder)"
        sources.append(folder)
    if not sources:
        raise CasamError(
            f"the store that {what} was fitted on is gone",
            "--store DIR says where it is now, --images DIR goes through a folder of images",
        )
    return Session(predictor, sources, kept, run)
