"""TensorBoard: event files that `tensorboard --logdir FOLDER` shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from casam_cache.bench.trackers.base import Tracker, missing


class TensorBoard(Tracker):
    """A folder of event files a fit, `FOLDER/RUN/`; see `Tracker`."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._writer: Any = None

    def begin(self, run: str, config: Mapping[str, Any]) -> None:
        """See `Tracker.begin`."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("tensorboard", self.name) from error
        where = self.folder / run
        for earlier in where.glob("events.out.tfevents.*"):
            earlier.unlink()
        self._writer = SummaryWriter(str(where))
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=1, sort_keys=True)}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, scores: Mapping[str, float]) -> str:
        """See `Tracker.end`."""
        for name, value in scores.items():
            self._writer.add_scalar(name, value, 0)
        return f"tensorboard --logdir {self.folder}"

    def close(self) -> None:
        """See `Tracker.close`."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
