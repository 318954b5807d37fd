"""Where what was predicted of one image goes: NAME.png, a picture beside it and what is said of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PredictionFiles:
    """The files of one image.

    Attributes:
        name: of the image, for people.
        out: NAME.png.
        pictured: whether there are pixels to draw on.
    """

    name: str
    out: Path
    pictured: bool

    @property
    def overlay(self) -> Path | None:
        return self.out.with_name(f"{self.out.stem}_overlay.png") if self.pictured else None

    @property
    def report(self) -> Path:
        return self.out.with_suffix(".json")
