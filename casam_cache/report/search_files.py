"""Files of a search beside its study: its table in every format, and the picture of the front."""

from __future__ import annotations

from pathlib import Path

from casam_cache.bench.search.outcome import FILE, SearchReport, replace_file
from casam_cache.report.formats import FORMATS
from casam_cache.report.search_picture import search_picture
from casam_cache.report.search_table import search_table
from casam_cache.report.style import FORMS


def write_search(report: SearchReport) -> list[Path]:
    """Writes `search.txt`, `.md`, `.csv`, `.tex`, and where a trial is complete `front.svg` and `front.png`.

    Returns:
        Every file of results in the study's folder.
    """
    folder = Path(report.folder)
    table = search_table(report)
    contents = {f"search.{suffix}": show(table).encode() for suffix, show in FORMATS.values()}
    if report.complete:
        contents |= {f"front.{form}": search_picture(report, form) for form in FORMS}
    for name, content in contents.items():
        replace_file(folder / name, content)
    return [folder / FILE, *map(Path, report.recipes.values()), *(folder / name for name in contents)]
