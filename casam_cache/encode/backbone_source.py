"""Where the backbone of a run or a store can be had: folders that keep its decoder, and its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.registry import BACKBONES
from casam_cache.encode.sources import files_of, stated_in, with_encoder
from casam_cache.errors import CasamError, CheckpointError, OptionError
from casam_cache.fingerprint import digest_file


@dataclass(frozen=True)
class BackboneSource:
    """A backbone of a certain fingerprint, found but not loaded.

    Attributes:
        fingerprint: of all its weights.
        folders: that may keep its decoder and say its class, the likeliest first.
        recorded: what a run's record says of it; empty for runs of before that was recorded, and for stores.
        made: for messages, e.g. "this run was fitted with".
        missing: what to say where no folder keeps it and nothing says its class.
        model: the backbone that the user names, or None.
        checkpoint: the file that the user names, or None.
        trust: run the copy of a user's file that lies in one of the folders, whoever wrote it.
    """

    fingerprint: str
    folders: tuple[Path, ...]
    recorded: Mapping[str, Any]
    made: str
    missing: CasamError
    model: str | None = None
    checkpoint: Path | None = None
    trust: bool = False

    def decoder(self, device: torch.device | str) -> Backbone:
        """The backbone without its encoder; with it, where only its checkpoint is left.

        Raises:
            CasamError: it can be had in neither way, or brings code that is not trusted.
        """
        wrong = []
        for folder in self.folders:
            weights, _ = files_of(folder, self.fingerprint)
            if not weights.is_file() or (stated := stated_in(folder, self.fingerprint)) is None:
                continue
            sha256 = stated.get("files", {}).get(weights.name)
            if sha256 is not None and digest_file(weights) != sha256:
                wrong.append(f"{weights} is damaged")
                continue
            cls = self._named(BACKBONES.restore(stated["backbone"], folder, trust=self.trust))
            try:
                found = cls.load_decoder(weights, device)
            except CheckpointError as error:
                wrong.append(error.message)
                continue
            if found.fingerprint == self.fingerprint:
                return found
            wrong.append(f"{weights} belongs to another backbone, {found.fingerprint[:20]}")
        try:
            return self.whole(device)
        except CheckpointError as error:
            raise CheckpointError("; ".join([*wrong, error.message]), error.hint) from error

    def whole(self, device: torch.device | str) -> Backbone:
        """The backbone with its encoder, from its checkpoint.

        Raises:
            CheckpointError: that is missing, or holds other weights.
            CasamError: its class cannot be found, or brings code that is not trusted.
        """
        stated = [found for folder in self.folders if (found := stated_in(folder, self.fingerprint))]
        known = [one.get("checkpoint") for one in (self.recorded, *stated)]
        return with_encoder(self._class(), self.fingerprint, known, self.checkpoint, device, made=self.made)

    def _class(self) -> type[Backbone]:
        for folder in self.folders:
            stated = stated_in(folder, self.fingerprint)
            if stated is not None:
                return self._named(BACKBONES.restore(stated["backbone"], folder, trust=self.trust))
        described = self.recorded.get("backbone")
        if described is not None and not (self.model and "source" in described):
            return self._named(BACKBONES.restore(described, self.folders[0], trust=self.trust))
        if self.model is None:
            raise self.missing
        return BACKBONES.get(self.model)

    def _named(self, found: type[Backbone]) -> type[Backbone]:
        """The class that was found, unless the user names another one."""
        if self.model is not None and BACKBONES.get(self.model) is not found:
            raise OptionError(
                f"--model {self.model} is not what {self.made}, which is {found.name}", "leave --model away"
            )
        return found
