"""What a bench notes beside its results for reports: answers, routing, and the masks of Figure 7."""

from __future__ import annotations

from pathlib import Path

from casam_cache.bench.bench import Bench
from casam_cache.bench.results import Results
from casam_cache.report.answers import write_answers
from casam_cache.report.example_figure import figure_7
from casam_cache.report.examples import write_examples
from casam_cache.report.routing import write_routing
from casam_cache.store.files import make_directory, write_file


def note_bench(bench: Bench, results: Results) -> tuple[Path, str]:
    """Writes the notes, and Figure 7 as RUNS/pictures/bench-KEY.png.

    Args:
        bench: that has run.
        results: what came out.

    Returns:
        The picture, and what is said where images could not be read and outlines stand alone; else empty.

    Raises:
        CasamError: there is no method beside the frozen SAM to draw, a stage is damaged, or the disk is full.
    """
    place, runs = bench.tasks.place, bench.runs
    write_answers(results, place, runs)
    write_routing(results, place, runs)
    examples = write_examples(results, place, runs)
    path = runs.root / "pictures" / f"bench-{results.key}.png"
    make_directory(path.parent)
    write_file(path, figure_7(examples, "png"))
    return path, examples.said
