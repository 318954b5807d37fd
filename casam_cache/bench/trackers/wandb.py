"""Weights & Biases. Its own settings say where to: WANDB_MODE=offline writes files that `wandb sync` sends later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from casam_cache.bench.trackers.base import Tracker, missing
from casam_cache.errors import CasamError

PROJECT = "casam"


class Wandb(Tracker):
    """A run a fit, in the project that WANDB_PROJECT names, else `casam`; see `Tracker`."""

    name = "wandb"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._run: Any = None

    def begin(self, run: str, config: Mapping[str, Any]) -> None:
        """See `Tracker.begin`."""
        try:
            import wandb
        except ImportError as error:
            raise missing("wandb", self.name) from error
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT), name=run, dir=str(self.folder), config=dict(config),
                settings=wandb.Settings(console="off", silent=True), reinit="finish_previous",
            )  # fmt: skip
        except wandb.errors.Error as error:
            raise CasamError(
                f"Weights & Biases did not begin a run: {str(error).splitlines()[0]}",
                "`wandb login`, or WANDB_MODE=offline to write files that `wandb sync` sends later",
            ) from error
        # Values of epochs come after those of steps: `step` orders them, not the order in which they were told.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._run.log({"step": step, **values})

    def end(self, scores: Mapping[str, float]) -> str:
        """See `Tracker.end`."""
        self._run.summary.update(dict(scores))
        if self._run.settings.mode == "offline":
            return f"wandb sync {self._run.settings.sync_dir}"
        return f"Weights & Biases: {self._run.url}"

    def close(self) -> None:
        """See `Tracker.close`."""
        if self._run is not None:
            self._run.finish()
            self._run = None
