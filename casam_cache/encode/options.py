"""What a user can ask of `casam encode`, and where its results go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from casam_cache.backbones.defaults import DEFAULT_MODEL
from casam_cache.datasets.intensity import named_window
from casam_cache.datasets.sample import DatasetOptions
from casam_cache.errors import OptionError
from casam_cache.references import is_file_reference
from casam_cache.views import parse_views


class EncodeOptions(BaseModel):
    """Everything that decides what `casam encode` does.

    Attributes:
        model: the name of a backbone, or `my_file.py:MyBackbone`.
        checkpoint: file or folder with other weights of that architecture, of any dialect that is understood.
        name: name of the backbone's store; the model's name, or that of the class in a file, unless given.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; several share the work: `cuda:0,cuda:1`, or `cuda:all`.
        precision: of the encoder: `auto` (what the store has; else bf16 on CUDA, fp32 elsewhere), `fp32`, `bf16`.
        dtype: of the stored features: `auto` (what the store has, else float16), `float16`, `int8`.
        compiled: run the encoder through torch.compile; part of the store's identity.
        batch_size: images a forward pass; None chooses by device. Fixed once the items are planned.
        preprocess: `auto` (what the store has; else what the weights are known for; else the model's own), or a preset
            of `casam_cache.backbones.presets`; part of the store's identity.
        resize: `longest` is SAM's own, `stretch` the paper's, `auto` what the store has, else the preset's; part of the
            store's identity.
        intensity: `auto`, `LOW,HIGH` or a name of `parse_intensity`: how deeper images become 8-bit; part of the
            store's identity, as `named_window` has it. `auto` is what the store has, else percentiles.
        workers: processes that decode; None chooses (one background thread on a CPU).
        extra: further arrays to store: `early`, `tokens`.
        views: further views of each image to store, of `casam_cache.views`.
        strict: make the first bad item fatal.
        update: encode again the images whose file changed since they were encoded.
        dataset: how masks, splits and groups are read.
        reader: name of the reader or `FILE.py:Class`; None looks for the one that recognises the folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = DEFAULT_MODEL
    checkpoint: Path | None = None
    name: str | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    dtype: Literal["auto", "float16", "int8"] = "auto"
    compiled: bool = False
    batch_size: int | None = Field(default=None, ge=1, le=1024)
    preprocess: str = "auto"
    resize: Literal["auto", "longest", "stretch"] = "auto"
    intensity: str = "auto"
    workers: int | None = Field(default=None, ge=0, le=256)
    extra: tuple[Literal["early", "tokens"], ...] = ()
    views: tuple[str, ...] = ()
    strict: bool = False
    update: bool = False
    dataset: DatasetOptions = DatasetOptions()
    reader: str | None = None

    @field_validator("intensity")
    @classmethod
    def _window(cls, intensity: str) -> str:
        return intensity if intensity == "percentiles" else named_window(intensity)

    @field_validator("views")
    @classmethod
    def _known_views(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(view.name for view in parse_views(",".join(names)))

    @property
    def backbone_name(self) -> str:
        """The name of the store's file.

        Raises:
            OptionError: the name is no file name.
        """
        if self.name is None:
            return self.model.rpartition(":")[2] if is_file_reference(self.model) else self.model
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise OptionError(
                f"--name {self.name} cannot name a store", "use letters, digits, '.', '_' and '-' only"
            )
        return self.name

    def what_decides(self) -> dict[str, Any]:
        """The part that decides a finished store's content, as JSON (devices, workers and strictness do not).

        The reader does too, but by its name and revision.
        """
        others = {"device", "workers", "strict", "batch_size", "update", "reader"}
        return self.model_dump(mode="json", exclude=others)
