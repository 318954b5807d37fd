"""What a figure shows, as text: the numbers behind it, for those who draw it anew."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def csv_text(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Comma-separated values with a header, lines ending as on Unix."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
