"""Frozen against fitted over several kinds of prompts, and after each click: a table, a picture, and their files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from casam_cache.bench.evaluation import PromptReport
from casam_cache.errors import OptionError
from casam_cache.fingerprint import finite_json
from casam_cache.metrics.columns import facts_of
from casam_cache.metrics.intervals import Interval
from casam_cache.report.figures import prompt_picture
from casam_cache.report.formats import FORMATS
from casam_cache.report.interval_cells import interval_cell
from casam_cache.report.layout import Cell, Column, Line, Section, Table
from casam_cache.report.prompt_words import explained_prompts
from casam_cache.report.volume_table import volume_notes, volume_section
from casam_cache.report.whole_image_table import CONVENTION as WHOLE_IMAGES
from casam_cache.report.whole_image_table import whole_image_section
from casam_cache.store.files import make_directory, write_all

NAME = "prompts"
METRIC = "iou"
COLUMNS = (
    Column("masks", "masks"),
    Column("frozen", "frozen SAM", left=True),
    Column("fitted", "fitted", left=True),
    Column("gain", "gain", left=True),
)


def prompt_table(report: PromptReport, *, title: str = "") -> Table:
    """IoU from each prompt, a line each; below, for clicks, after each of them, and the volumes from each prompt."""
    lines = tuple(
        _line(each.prompt, each.fitted.masks, each.frozen[METRIC], each.fitted[METRIC], each.gain[METRIC])
        for each in report.prompts
    )
    clicks = tuple(
        Section(
            f"{each.prompt}, after each click",
            COLUMNS,
            tuple(
                _line(f"click {one.click}", one.fitted.values, one.frozen, one.fitted, one.gain)
                for one in each.clicks
            ),
        )
        for each in report.prompts
        if each.clicks
    )
    volumes = tuple(
        volume_section(each.volumes, f"{each.prompt}, volumes") for each in report.prompts if each.volumes
    )
    whole = tuple(
        whole_image_section(each.whole_images, f"{each.prompt}, whole images")
        for each in report.prompts
        if each.whole_images is not None
    )
    undefined = report.prompts[0].fitted.undefined
    notes = (
        *([f"{report.model}: {report.stand_in}."] if report.stand_in else []),
        f"{report.task}: {report.model}, {report.method}, {report.parameters:,} trained parameters, seed {report.seed};"
        f" {report.evaluate} split, IoU in percent, means over masks at original resolution; 95 % intervals by"
        " groups.",
        *explained_prompts([each.prompt for each in report.prompts]),
        f"Masks read as {report.mask_mode}." + (f" {undefined} empty masks left out." if undefined else ""),
        *dict.fromkeys(note for each in report.prompts for note in volume_notes(each.volumes)),
        *([WHOLE_IMAGES] if whole else []),
    )
    return Table(NAME, title, "prompt", (Section("", COLUMNS, lines), *clicks, *volumes, *whole), notes)


def _line(label: str, masks: int, frozen: Interval, fitted: Interval, gain: Interval) -> Line:
    [metric] = facts_of([METRIC])
    return Line(
        label,
        {
            "masks": Cell(str(masks), masks),
            "frozen": interval_cell(frozen, metric),
            "fitted": interval_cell(fitted, metric),
            "gain": interval_cell(gain, metric, "+"),
        },
    )


def write_prompt_files(
    report: PromptReport,
    out: Path,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Writes the table in every format, the picture as PNG and SVG, and all figures as JSON.

    Args:
        report: what to write.
        out: the folder, made if need be.
        overwrite: replace files that hold other results.
        say: takes a line where some were replaced.

    Raises:
        OptionError: a file is there with other content and `overwrite` is not given.
        StoreError: the folder or a file cannot be written.
    """
    files = {out / name: data for name, data in _files(report)}
    others = [path for path, data in files.items() if path.exists() and path.read_bytes() != data]
    if others and not overwrite:
        raise OptionError(
            f"{others[0]} exists, and holds other results", "choose another --out, or give --overwrite"
        )
    if others:
        say(f"replaced, since they held other results: {len(others)} files in {out}")
    make_directory(out)
    write_all([(path, [data]) for path, data in files.items()])
    return list(files)


def _files(report: PromptReport) -> Iterator[tuple[str, bytes]]:
    title = f"{report.task}: {report.method} beside the frozen SAM by prompt"
    table = prompt_table(report, title=title)
    for suffix, made in FORMATS.values():
        yield f"{NAME}.{suffix}", made(table).encode()
    yield f"{NAME}.json", (json.dumps(_results(report), indent=1) + "\n").encode()
    for form in ("png", "svg"):
        yield f"{NAME}.{form}", prompt_picture(report, form, title=title)


def _results(report: PromptReport) -> dict[str, Any]:
    """As `--json` has it, but for what says how and where it was computed: stages are named as KIND/KEY."""
    results = report.to_json()
    del results["computed"]
    for entry in (results, *results["prompts"]):
        for name in ("run", "outcomes", "frozen_outcomes"):
            if name in entry:
                entry[name] = "/".join(Path(entry[name]).parts[-2:])
    plain: dict[str, Any] = finite_json(results)
    return plain
