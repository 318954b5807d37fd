"""A run that trained its encoder, found without torch: what `casam encode --run` encodes with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_cache.backbones.presets import preset_of
from casam_cache.encode.options import EncodeOptions
from casam_cache.engine.runs import RECORD, read_record
from casam_cache.errors import CasamError, OptionError

TUNED = "tuned"  # the backbone of `bench/tuned_sam.py`
HEAD, WEIGHTS = "head.json", "head.safetensors"
_KINDS = ("fit", "joint", "learn")
_OF_THE_RUN = ("model", "checkpoint", "preprocess", "resize", "intensity")
_DIGITS = 8  # of a run's key, in the name of a store


@dataclass(frozen=True)
class TunedRun:
    """A finished fit whose head holds an encoder of its own.

    Attributes:
        folder: of the run.
        method: that was fitted.
        key: of the run, KIND/KEY.
        model: the backbone it began from.
        identity: of the store it was fitted on.
    """

    folder: Path
    method: str
    key: str
    model: str
    identity: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> TunedRun:
        """The run in a folder, or that of the file of weights in it.

        Raises:
            CasamError: there is no such run, it is damaged, or what it trained left the encoder as it was.
        """
        folder = (path.parent if path.name == WEIGHTS else path).absolute()
        if not (folder / RECORD).is_file():
            raise CasamError(
                f"{folder} is not the folder of a finished run: it is gone, or never was",
                "name the folder that `casam fit --method sam-full` printed as its run, or fit again",
            )
        record = read_record(folder)
        if record.kind not in _KINDS:
            raise CasamError(
                f"{folder} holds no encoder: it is a stage of kind '{record.kind}'",
                "name the run of casam fit --method sam-full, or of another method of docs/image-mode.md",
            )
        try:
            described = json.loads((folder / HEAD).read_text())
            head, options = str(described["head"]["name"]), dict(described["options"])
            facts = record.recorded
            method, identity = str(facts["method"]), dict(facts["identity"])
            model = str(facts["backbone"]["model"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CasamError(
                f"{folder} does not say what it fitted, and on what: {error}",
                "run the command that made it again",
            ) from None
        if head == "identity":
            raise CasamError(
                f"{folder} has no encoder of its own: no state of {method} was better than the frozen SAM on held-out "
                "groups, which is what it kept",
                "casam encode DIR encodes with that; fit with --set held_out=0 to keep the last state",
            )
        if head != "image-sam" or options.get("encoder") == "none":
            raise CasamError(
                f"{folder} has no encoder of its own: {method} trains "
                + ("a network in the place of SAM" if head == "image-network" else "behind the frozen one"),
                "casam encode DIR encodes with that; casam fit --method sam-full trains one",
            )
        return cls(folder, method, f"{record.kind}/{record.key}", model, identity)

    @property
    def store_name(self) -> str:
        """What its stores are called: never what a frozen encoder's are."""
        return f"{self.model}-{self.method}-{self.key.partition('/')[2][:_DIGITS]}"

    def options(self, asked: EncodeOptions) -> EncodeOptions:
        """The options of an encoding with this run's encoder; pixels become its input as those it was trained on did.

        Args:
            asked: what a person asks for.

        Raises:
            OptionError: something else than the run says is asked for.
        """
        usual = EncodeOptions()
        for name in _OF_THE_RUN:
            if getattr(asked, name) != getattr(usual, name):
                raise OptionError(f"--{name} says what --run says already", f"leave --{name} out")
        preprocessing = self.identity["preprocessing"]
        preset = preset_of(preprocessing)
        return asked.model_copy(
            update={
                "model": TUNED,
                "checkpoint": self.folder / WEIGHTS,
                "name": asked.name or self.store_name,
                "preprocess": asked.preprocess if preset is None else preset.name,
                "resize": str(preprocessing["resize"]),
                "intensity": str(preprocessing["intensity"]),
            }
        )
