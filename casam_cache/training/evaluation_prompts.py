"""What a mask is prompted with when a head is scored: its true box, a box that is off, a point, clicks on the errors.

A prompt is named by a short text, which is also what a stage's key and every table hold. Imports no torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from casam_cache.errors import OptionError
from casam_cache.fingerprint import generator

Owner = tuple[str, str, int, int]
"""Whose mask a prompt is for: task, id of the image, class, instance. Draws belong to it, never to a position."""
ORACLE_BOX = "oracle box"
KINDS = ("box", "jitter:0.1", "jitter:5px", "point", "point:random", "clicks:5")
MOST_CLICKS = 100
_AVAILABLE = f"available: {', '.join(KINDS)}; @1 behind jitter and point:random is another draw"
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


@dataclass(frozen=True)
class EvaluationPrompt:
    """One way of prompting every mask of a split; make it with `parse_prompt`.

    Attributes:
        kind: `box`, `jitter` (a box that is off), `point`, or `clicks`.
        amount: how far a side of a jittered box moves at most: original pixels, or a share of the box's side.
        pixels: whether `amount` is in pixels.
        random: of a point: any pixel of the mask, not the centre of its largest inscribed circle.
        clicks: how many.
        seed: of the draws of `jitter` and `point:random`.
    """

    kind: Literal["box", "jitter", "point", "clicks"] = "box"
    amount: float = 0.0
    pixels: bool = False
    random: bool = False
    clicks: int = 0
    seed: int = 0

    @property
    def text(self) -> str:
        """As `--prompts` takes it; equal prompts have equal texts."""
        if self.kind == "jitter":
            return f"jitter:{self.amount:.15g}{'px' if self.pixels else ''}{self._draw}"
        if self.kind == "clicks":
            return f"clicks:{self.clicks}"
        return f"point:random{self._draw}" if self.random else self.kind

    @property
    def _draw(self) -> str:
        return f"@{self.seed}" if self.seed else ""

    @property
    def name(self) -> str:
        """In keys, results and tables: the text, but `oracle box` for the true box."""
        return ORACLE_BOX if self.kind == "box" else self.text

    @property
    def passes(self) -> int:
        """Passes of the decoder for a mask."""
        return max(1, self.clicks)

    @property
    def ambiguous(self) -> bool:
        """Whether it is a single point without a box, to which SAM answers with several masks."""
        return self.kind in ("point", "clicks")

    def box(self, box: np.ndarray, size: tuple[int, int], owner: Owner) -> np.ndarray:
        """The box that a mask is prompted with, of the kinds `box` and `jitter`.

        Each side of a jittered box moves by its own uniform draw from [-amount, amount], in original pixels or in
        lengths of the box along that axis (x1 - x0 + 1 and y1 - y0 + 1). Sides stay inside the image, and two that
        passed each other change places. The draws belong to (seed, task, item, class, instance) and not to the amount:
        `jitter:0.2` moves each side twice as far as `jitter:0.1`, the same way.

        Args:
            box: float32 (4,), x0, y0, x1, y1 in original pixels, inclusive.
            size: height and width of the image, pixels.
            owner: whose mask it is.

        Returns:
            float32 (4,), as `box`.
        """
        if self.kind == "box":
            return box
        drawn = generator(self.seed, "jitter", *owner).uniform(-1, 1, 4)
        exact = box.astype(np.float64)
        reach = self.amount * (1.0 if self.pixels else np.tile(exact[2:] - exact[:2] + 1, 2))
        last = np.array([size[1] - 1, size[0] - 1, size[1] - 1, size[0] - 1])
        moved = np.clip(exact + drawn * reach, 0, last).reshape(2, 2)
        return np.sort(moved, axis=0).reshape(4).astype(np.float32)

    def point(self, bitmap: np.ndarray, centre: np.ndarray, owner: Owner) -> np.ndarray:
        """The point that a mask is prompted with, of the kinds `point` and `clicks`, where it is the first click.

        Args:
            bitmap: the true mask, bool (H, W).
            centre: its innermost pixel, which stores hold: float32 x, y.
            owner: whose mask it is.

        Returns:
            float32 (2,), x, y in original pixels.

        Raises:
            ValueError: a random point of an empty mask.
        """
        if not self.random:
            return centre
        inside = np.flatnonzero(bitmap)
        if not len(inside):
            raise ValueError("an empty mask has no point")
        rng = generator(self.seed, "point", *owner)
        y, x = divmod(int(inside[rng.integers(len(inside))]), bitmap.shape[1])
        return np.array([x, y], dtype=np.float32)


BOX = EvaluationPrompt()


def parse_prompt(text: str) -> EvaluationPrompt:
    """One prompt: `box`, `jitter:5px`, `jitter:0.1`, `point`, `point:random`, `clicks:5`.

    `@SEED` behind a jitter or `point:random` is another draw than that of seed 0.

    Raises:
        OptionError: there is no such prompt, or its number is wrong; the hint lists what there is.
    """
    asked = text.strip()
    if asked in ("box", ORACLE_BOX):
        return BOX
    body, at, drawn = asked.partition("@")
    kind, colon, value = body.partition(":")
    if at and (not (drawn.isascii() and drawn.isdigit()) or (kind != "jitter" and body != "point:random")):
        raise OptionError(
            f"prompt '{asked}': a seed is a whole number behind jitter or point:random", _AVAILABLE
        )
    seed = int(drawn) if at else 0
    if body in ("point", "point:random"):
        return EvaluationPrompt("point", random=bool(colon), seed=seed)
    if kind == "clicks" and colon:
        return EvaluationPrompt("clicks", clicks=_clicks(asked, value))
    if kind == "jitter" and colon:
        number = value.removesuffix("px")
        return EvaluationPrompt("jitter", _amount(asked, number, number != value), number != value, seed=seed)
    raise OptionError(f"unknown prompt '{asked}'", _AVAILABLE)


def parse_prompts(text: str) -> tuple[EvaluationPrompt, ...]:
    """Several prompts, separated by commas, each once.

    Raises:
        OptionError: as `parse_prompt`, or one is there twice.
    """
    found = tuple(parse_prompt(part) for part in text.split(","))
    for place, prompt in enumerate(found):
        if prompt in found[:place]:
            raise OptionError(f"prompt '{prompt.text}' is given twice", "give each once")
    return found


def _amount(asked: str, number: str, pixels: bool) -> float:
    amount = float(number) if _NUMBER.fullmatch(number) else math.nan
    if not 0 < amount < math.inf:
        raise OptionError(
            f"prompt '{asked}': how far a side moves is a number above 0",
            "jitter:5px is up to 5 pixels, jitter:0.1 up to a tenth of the side",
        )
    if not pixels and amount > 1:
        raise OptionError(
            f"prompt '{asked}': {number} is a share of the box's side, and more than all of it",
            f"jitter:{number}px is {number} pixels; a share is at most 1",
        )
    return amount


def _clicks(asked: str, number: str) -> int:
    clicks = int(number) if number.isascii() and number.isdigit() and len(number) < 9 else 0
    if not 1 <= clicks <= MOST_CLICKS:
        raise OptionError(
            f"prompt '{asked}': clicks are a whole number from 1 to {MOST_CLICKS}", "e.g. clicks:5"
        )
    return clicks
