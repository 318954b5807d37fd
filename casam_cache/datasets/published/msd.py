"""Medical Segmentation Decathlon: nnU-Net's folders, but several channels in one file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from casam_cache.datasets.published.abdomen import Amos
from casam_cache.datasets.sample import DatasetOptions
from casam_cache.datasets.volumes.cases import Found
from casam_cache.datasets.volumes.nnunet_reader import NnunetReader, channel_names, read_dataset_json

_MEANT = {"prostate": "T2"}
"""The channel that the paper uses, by the name in `dataset.json`; of other tasks it must be said."""


class Msd(NnunetReader):
    """Reads `imagesTr/` and `labelsTr/`; of the prostate T2, unless `--channels` says another."""

    name = "msd"
    precedence = 2

    def recognises(self, path: Path) -> bool:
        try:
            stated = json.loads((path / "dataset.json").read_text(encoding="utf-8-sig"))
            return "tensorImageSize" in stated and super().recognises(path) and not Amos().recognises(path)
        except (OSError, ValueError, TypeError):
            return False

    def find(self, path: Path, options: DatasetOptions) -> Found:
        stated = read_dataset_json(path)
        names = channel_names(stated)
        meant = _MEANT.get(str(stated.get("name", "")).casefold())
        if options.channels is not None or meant not in names or len(names) < 2:
            return super().find(path, options)
        number = names.index(meant) + 1
        found = super().find(path, replace(options, channels=str(number)))
        others = ", ".join(f"--channels {n} reads {name}" for n, name in enumerate(names, 1) if n != number)
        return replace(found, notes=(*found.notes, f"channel {number} of {len(names)}, {meant}; {others}"))
