"""Values of masks as people write them: a number, or a colour as `#rrggbb`."""

from __future__ import annotations

import re

from casam_cache.errors import OptionError

GREY = 0x010101  # a grey value times this is the packed colour of equal channels


def parse_value(text: str, option: str) -> tuple[int, bool]:
    """The number or packed colour 0xRRGGBB, and whether it is a colour.

    Raises:
        OptionError: it is neither.
    """
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16), True
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text), False
    raise OptionError(
        f"{option} {text}: neither a value nor a colour", f"for example {option} 255, or {option} '#ffffff'"
    )


def value_in(text: str, option: str, coloured: bool) -> int:
    """What the text means in masks of colours, or of numbers, where a grey colour is its grey value.

    Raises:
        OptionError: it is neither a number nor a colour, or cannot be in such masks.
    """
    value, colour = parse_value(text, option)
    if coloured == colour:
        return value
    if coloured and value <= 255:
        return value * GREY
    if colour and value % GREY == 0:
        return value // GREY
    kinds = ("colours", "a number above 255") if coloured else ("numbers", "a colour")
    raise OptionError(
        f"{option} {text}: the masks hold {kinds[0]}, and this is {kinds[1]}", "name what they hold"
    )


def shown_value(value: int, coloured: bool) -> str:
    return f"#{value:06x}" if coloured else str(value)


def typed_value(value: int, coloured: bool) -> str:
    """As it is typed into a shell, which takes a bare # for a comment."""
    return f"'#{value:06x}'" if coloured else str(value)
