"""How pictures look: sizes that fit where they are printed; a colour, a line and a marker a method, always the same."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casam_cache.errors import unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMS = ("svg", "png")


@dataclass(frozen=True)
class Style:
    """Where a picture goes.

    Attributes:
        width: inches of the whole picture.
        font: points.
        line: width of lines in points.
    """

    width: float
    font: float
    line: float


STYLES: Mapping[str, Style] = {
    "paper": Style(7.0, 8, 1.0),  # both columns of a conference page
    "thesis": Style(6.0, 10, 1.2),  # the text of an A4 page
    "slides": Style(16.0, 18, 2.2),
}

# Okabe and Ito's colours, which colour-blind people can tell apart; lines and markers do so in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = "osD^vP*Xhd<>"
_KNOWN = (
    "ca-sam", "naive", "joint", "lwf", "er", "l2p", "frozen", "moda", "alignment", "decoder", "hq-sam", "ewc", "der",
    "emr", "moda-hq", "combined", "prompt-tuning", "sam-full", "sam-decoder", "sam-lora",
    "sam-med2d", "msa",
    "unet", "unet-box", "unetpp", "unetpp-box", "segformer", "segformer-box", "fcn", "class-prompts", "ca-sam-fcn",
    "proposals", "ca-sam-proposals",
)  # fmt: skip


def look_of(method: str, variant: int = 0) -> dict[str, Any]:
    """Colour, line and marker of a method, the same in every picture.

    Args:
        method: its name; one that is not of this package gets a look that follows from its name.
        variant: number of a configuration among those of the method: another line and marker in the same colour.
    """
    if method in _KNOWN:
        place = _KNOWN.index(method)
    else:
        place = len(_KNOWN) + int.from_bytes(hashlib.sha256(method.encode()).digest()[:2])
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "linestyle": _LINES[(place // len(_COLOURS) + variant) % len(_LINES)],
        "marker": _MARKERS[(place + 3 * variant) % len(_MARKERS)],
    }


def colour_at(place: int) -> str:
    """A colour of one curve among several of a picture, where configurations of one method are to be told apart."""
    others = [colour for colour in _COLOURS if colour != look_of("frozen")["color"]]
    return others[place % len(others)]


def count_along(axes: Axes, values: Sequence[float]) -> None:
    """The x axis of counts: logarithmic where the largest is more than four times the least, which is above 0."""
    if min(values) > 0 and max(values) > 4 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(counted)


def counted(value: float, _: float = 0.0) -> str:
    """`250`, `10 k`, `1 M`: mathematical text is not read in figures, since names may hold dollars."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def style_of(name: str) -> Style:
    """A style by name.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in STYLES:
        raise unknown_name("style", name, list(STYLES))
    return STYLES[name]


@contextmanager
def drawn_in(style: Style) -> Iterator[None]:
    """Matplotlib's settings for a picture that comes out the same each time, with text as text."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.hashsalt": "casam", "svg.fonttype": "none", "font.size": style.font, "lines.linewidth": style.line,
        "axes.linewidth": 0.6 * style.line, "lines.markersize": 0.45 * style.font, "legend.frameon": False,
        "axes.titlesize": style.font, "axes.grid": True, "grid.linewidth": 0.4 * style.line, "grid.alpha": 0.5,
        "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False,  # names may hold dollars
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def picture(draw: Callable[[Figure], None], style: Style, form: str, height: float) -> bytes:
    """A picture as a file's content; what is drawn alike gives the same bytes.

    Args:
        draw: puts axes into an empty figure.
        style: its width and fonts.
        form: svg, pdf or png.
        height: as a share of the width.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with drawn_in(style):
        figure = Figure(figsize=(style.width, height * style.width), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        stamp: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
        content = io.BytesIO()
        figure.savefig(content, format=form, metadata=stamp, dpi=200)
        return content.getvalue()
