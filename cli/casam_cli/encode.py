"""`casam encode`: images and masks -> store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from casam_cache.backbones.defaults import DEFAULT_MODEL
from casam_cache.errors import CasamError, DatasetError, OptionError, StoreError
from casam_cli import console, dataset_options
from casam_cli.problems import first_of_each_kind
from casam_cli.stores import folder_only

if TYPE_CHECKING:
    from casam_cache.encode.options import EncodeOptions
    from casam_cache.encode.report import EncodeReport
    from casam_cache.encode.shards import Workers

MOST = 10  # problems of one kind


@dataset_options.takes_dataset_options
def encode(
    paths: list[Path] = typer.Argument(
        ...,
        metavar="PATH...",
        help="A dataset (images/ and masks/), or a folder of datasets, or several of them.",
    ),
    store: Path = typer.Option(
        Path("casam_store"), parser=folder_only, metavar="DIR", help="Folder where the stores are kept."
    ),
    model: str = typer.Option(
        DEFAULT_MODEL,
        help="Model that encodes, of those that casam models lists, or FILE.py:CLASS of your own.",
    ),
    checkpoint: Path | None = typer.Option(
        None,
        help="File or folder with other weights of that model; docs/checkpoints.md lists what is understood.",
    ),
    run: Path | None = typer.Option(
        None,
        help="Run of casam fit whose method trained the encoder (sam-full, sam-lora, ...): encode with that one.",
    ),
    name: str | None = typer.Option(
        None, help="Name of the store. Give one to weights that are not the model's own."
    ),
    device: str = typer.Option(
        "auto",
        help="Where to compute: auto, cpu, cuda, cuda:N or mps. Several GPUs share work: cuda:0,cuda:1 or cuda:all.",
    ),
    compiled: bool = typer.Option(False, "--compile", help="Run the encoder through torch.compile."),
    batch_size: int | None = typer.Option(
        None, help="Number of images in a forward pass. The default suits the device."
    ),
    precision: str = typer.Option("auto", help="Precision of the encoder: auto, fp32 or bf16."),
    dtype: str = typer.Option(
        "auto", help="How features are stored: auto (as the store has them, else float16), float16 or int8."
    ),
    preprocess: str = typer.Option(
        "auto",
        help="How pixels become the input: sam, medsam or lite_medsam; auto goes by the store, the weights, the model.",
    ),
    resize: str = typer.Option(
        "auto",
        help="How images are fitted into the input: longest (SAM's way), stretch (MedSAM's, the paper's) or auto.",
    ),
    intensity: str = typer.Option(
        "auto",
        "--intensity",
        "--window",
        help="How images of more than 8 bits become 8-bit: auto or percentiles (0.5 to 99.5, of each image or each "
        "volume), full (lowest to highest value), LOW,HIGH, or ct:soft, ct:lung, ct:bone, ct:brain, ct:liver.",
    ),
    workers: int | None = typer.Option(None, help="Number of processes that decode images."),
    executor: str = typer.Option(
        "processes",
        help="Where images are encoded: processes (here), dask, dask:ADDRESS or cluster:FILE.yaml. A cluster must see "
        "the same folders.",
    ),
    jobs: int | None = typer.Option(None, min=1, help="How many workers --executor dask starts here."),
    with_: list[str] = typer.Option(
        [], "--with", metavar="A,B", help="Store further arrays too: early (for HQ-SAM), tokens (for MoDA)."
    ),
    views: list[str] = typer.Option(
        [],
        metavar="A,B",
        help="Store further views of each image too: flip_h, flip_v, rot90, rot180, rot270, ccwNN, cwNN, scaleNN, "
        "cropNN, gammaNN.",
    ),
    reader: str | None = dataset_options.READER,
    read_as: Any = None,
    strict: bool = typer.Option(
        False, "--strict", help="Stop at the first image or mask that cannot be used."
    ),
    update: bool = typer.Option(False, "--update", help="Encode again the images that have changed since."),
    dry_run: bool = typer.Option(
        False,
        "--dry-run",
        help="Only say how many images would be encoded, and the bytes and time they take.",
    ),
    json_: bool = console.JsonOption,
) -> None:
    """Run the frozen encoder once over a dataset and keep its features; go on where an earlier run stopped."""
    from pydantic import ValidationError

    from casam_cache.encode.options import EncodeOptions

    try:
        options = EncodeOptions.model_validate(
            {
                "model": model, "checkpoint": checkpoint, "name": name, "device": device, "compiled": compiled,
                "batch_size": batch_size,
                "precision": precision, "dtype": dtype, "preprocess": preprocess,
                "resize": resize, "intensity": intensity, "workers": workers,
                "extra": tuple(sorted(_listed(with_))),
                "views": tuple(_listed(views)), "strict": strict, "update": update,
                "reader": reader,
                "dataset": read_as,
            }
        )  # fmt: skip
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise OptionError(f"wrong option: {wrong}", "casam encode --help lists what each accepts") from None
    if run is not None:
        from casam_cache.bench.tuned_run import TunedRun

        options = TunedRun.open(run).options(options)
    failed: dict[Path, CasamError] | None = {} if len(paths) > 1 else None
    if dry_run:
        reports = _estimate(paths, store, options, failed)
    else:
        reports = _encode(paths, store, options, executor, jobs, failed)
    empty = [report for report in reports if report["images"] and report["failed"] == report["images"]]
    if failed is None:
        if empty and len(empty) == len(reports):
            raise CasamError(
                f"{paths[0]}: no image could be encoded",
                f"casam data check {paths[0]} lists every problem by file",
            )
        if json_:
            console.print_json({"tasks": reports})
        return
    datasets = len(reports) + len(failed)
    for report in empty:
        failed[Path(report["task"])] = CasamError(
            "no image could be encoded", "casam data check lists every problem by file"
        )
    _end_of_several(datasets, reports, failed, dry_run, json_)


def _end_of_several(
    datasets: int, reports: list[dict[str, Any]], failed: dict[Path, CasamError], dry_run: bool, json_: bool
) -> None:
    """One JSON object, what could not be encoded, and one line for all; the exit code is 1 if any dataset failed."""
    if json_:
        wrong = [{"dataset": str(at), "error": e.message, "hint": e.hint} for at, e in failed.items()]
        console.print_json({"tasks": reports, "failed": wrong})
    for at, error in failed.items():
        console.show_line(f"{at}: {error.message}", "bold red")
        if error.hint:
            console.show_line(f"  {error.hint}")
    total = {key: sum(report[key] for report in reports) for key in ("encoded", "skipped", "failed")}
    if dry_run:
        pending = sum(report["pending"] for report in reports)
        size = sum(report["store_bytes"] for report in reports) / 2**20
        times = [report["seconds"] for report in reports if report["seconds"] is not None]
        time = f", about {sum(times):.0f} s" if times else ""
        line = f"{pending:,} images to encode, {size:,.1f} MiB{time}"
    else:
        line = f"{total['encoded']:,} images encoded, {total['skipped']:,} already there, {total['failed']:,} failed"
    wrong_ones = f"; {len(failed)} could not be encoded" if failed else ""
    console.show_line(f"{datasets} datasets: {line}{wrong_ones}")
    if failed:
        raise typer.Exit(1)


def _estimate(
    paths: Sequence[Path], store: Path, options: EncodeOptions, failed: dict[Path, CasamError] | None
) -> list[dict[str, Any]]:
    from casam_cache.encode.estimate import estimate_task
    from casam_cache.encode.several import datasets_at

    reports: list[dict[str, Any]] = []
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:  # what is true of the checkpoint is true for every task
            said.add(line)
            console.show_line(line)

    for root in datasets_at(paths, options, say):
        try:
            estimate = estimate_task(root, store, options, warn=say)
        except (DatasetError, StoreError) as error:
            if failed is None:
                raise
            failed[root] = error
            continue
        console.show_line(estimate.describe())
        reports.append(estimate.to_json())
    return reports


def _encode(
    paths: Sequence[Path],
    store: Path,
    options: EncodeOptions,
    executor: str,
    jobs: int | None,
    failed: dict[Path, CasamError] | None,
) -> list[dict[str, Any]]:
    from casam_cache.encode.dataset import encode_dataset

    with _workers(executor, jobs) as workers, console.bar("encode") as bar:

        def show(report: EncodeReport) -> None:
            console.show_line(report.describe())
            for problem, more in first_of_each_kind(report.problems, MOST):
                console.show_line(f"  {problem}", "yellow")
                if more:
                    console.show_line(
                        f"  and {more} more of this kind; casam data check --json lists all", "yellow"
                    )

        reports = encode_dataset(
            paths,
            store,
            options,
            workers=workers,
            progress=bar.update_named,
            warn=console.show_line,
            on_task=show,
            on_error=None if failed is None else failed.__setitem__,
        )
    return [report.to_json() for report in reports]


@contextmanager
def _workers(spec: str, jobs: int | None) -> Iterator[Workers | None]:
    """None is this process."""
    if spec == "processes":
        if jobs is not None:
            raise OptionError("--jobs needs --executor dask", "--workers is how many processes decode images")
        yield None
        return
    from casam_cache.encode.shards import Workers
    from casam_cache.engine.clusters import open_executor
    from casam_cache.engine.executors import default_jobs

    with open_executor(spec, jobs or default_jobs("cpu"), console.show_line) as (executor, width):
        assert executor is not None
        yield Workers(executor, width)


def _listed(texts: list[str]) -> list[str]:
    """Comma-separated names of an option that may also be given several times, each once."""
    names = (part.strip() for text in texts for part in text.split(","))
    return list(dict.fromkeys(name for name in names if name))
