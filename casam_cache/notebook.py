"""What objects show of themselves in a notebook: small tables and pictures as HTML, every text in them escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from casam_cache.printable import printable

if TYPE_CHECKING:
    import numpy as np

SIDE = 512  # pixels, the longer side of a picture


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table below its title.

    Args:
        title: of the table.
        header: of its columns; empty: none is shown.
        rows: a text a column.
    """
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f"<table><caption>{_text(title)}</caption>{top}<tbody>{body}</tbody></table>"


def html_picture(pixels: np.ndarray, told: str) -> str:
    """A picture in the page itself, no larger than `SIDE`, above what is told of it.

    Args:
        pixels: uint8 (H, W, 3).
        told: below it.
    """
    from PIL import Image

    picture, data = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(data, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return f'<figure><img src="{source}" alt=""/><figcaption>{_text(told)}</figcaption></figure>'


def _text(text: str) -> str:
    return escape(printable(text))
