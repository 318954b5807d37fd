"""What every tracker does, and what a fit tells it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from casam_cache.errors import CasamError

_TERMS = ("loss", "focal", "dice", "iou", "penalty")


class Tracker(ABC):
    """Follows fits, one after the other; each is a run of its own there, named by task, method, seed and key.

    While a fit trains its loss is told step by step. At its end come the epochs' losses by term, which a fit that was
    resumed or found has as well, the held-out scores, and the scores of both sides. A fit begun again under the same
    name takes the place of the earlier one.

    Args:
        folder: where it may write; made when it is needed.

    Attributes:
        name: by which `--track` finds it.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def begin(self, run: str, config: Mapping[str, Any]) -> None:
        """A fit begins.

        Args:
            run: its name, fit to be a file's.
            config: plain JSON: task, model, method with its options, training, seed.

        Raises:
            CasamError: the package it writes with is not installed, or cannot write.
        """

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one optimiser step; steps may come again with other names."""

    @abstractmethod
    def end(self, scores: Mapping[str, float]) -> str:
        """The fit is scored.

        Args:
            scores: in [0, 1], e.g. `test/iou`, `frozen/iou`, `gain/iou`.

        Returns:
            One line that says where to look.
        """

    @abstractmethod
    def close(self) -> None:
        """Nothing more comes of this fit, whether it ended or failed."""


def missing(package: str, tracker: str) -> CasamError:
    """The error of a tracker whose package is not installed."""
    return CasamError(
        f"--track {tracker} needs the package {package}, which is not installed",
        "pip install 'casam-cache[track]'",
    )


class Tracking:
    """Tells all trackers of one fit; a context that closes them.

    Args:
        trackers: see `Tracker`.
        run: name of the fit.
        config: of the fit, plain JSON.

    Raises:
        CasamError: a tracker cannot begin.
    """

    def __init__(self, trackers: Sequence[Tracker], run: str, config: Mapping[str, Any]) -> None:
        self._trackers, self._run, self._config = trackers, run, config

    def __enter__(self) -> Tracking:
        try:
            for tracker in self._trackers:
                tracker.begin(self._run, self._config)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *failed: object) -> None:
        for tracker in self._trackers:
            tracker.close()

    def step(self, step: int, loss: float) -> None:
        """The mean loss of the present epoch so far."""
        self._log(step, {"train/loss": loss})

    def fitted(self, fit: Mapping[str, Any]) -> None:
        """A finished fit, as `FitResult.to_json`: its epochs, and the states that were looked at on held-out groups."""
        step = 0
        for record in fit["history"]:
            step += int(record["steps"])
            self._log(step, {f"epoch/{name}": float(record[name]) for name in _TERMS})
        for check in (fit["chosen"] or {}).get("checks", ()):
            self._log(int(check["step"]), {"held_out/iou": float(check["iou"])})

    def scored(self, scores: Mapping[str, float]) -> list[str]:
        """Scores in [0, 1]; returns a line of each tracker that says where to look."""
        return [tracker.end(scores) for tracker in self._trackers]

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)
