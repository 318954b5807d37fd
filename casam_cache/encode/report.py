"""What an encode run did, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class EncodeReport:
    """Counts of one task's run.

    Attributes:
        task: name of the dataset.
        images: images the dataset has now.
        encoded: images encoded by this run.
        skipped: images that were already there.
        failed: images that cannot be encoded; each has a line in `problems`.
        store: path of the store.
        mask_mode: how masks were read: binary, classes, instances or components.
        masks: masks in the annotations.
        refreshed: whether this run wrote a new version of the annotations.
        seconds: of decoding (waited for), encoding and writing (waited for), by name; empty if nothing was encoded.
        problems: one line a problem, naming the file.
    """

    task: str
    images: int
    encoded: int
    skipped: int
    failed: int
    store: str
    mask_mode: str = ""
    masks: int = 0
    refreshed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "problems": list(self.problems)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EncodeReport:
        return cls(**{**data, "problems": tuple(data["problems"])})

    def describe(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        if not self.encoded:
            annotations = "annotations refreshed" if self.refreshed else "nothing to do"
            done = f"{self.skipped} images already encoded{failed}, {annotations}"
        else:
            total = self.seconds.get("total", 0.0)
            rate = f" at {self.encoded / total:.1f} images/s" if total else ""
            where = " ".join(f"{k} {v:.1f} s" for k, v in self.seconds.items() if k != "total")
            done = f"{self.encoded} encoded{rate} ({where}), {self.skipped} already there{failed}"
        return f"{self.task}: {done}; {self.masks} masks ({self.mask_mode}) -> {self.store}"
