"""nnU-Net's raw folders with flat images: `imagesTr/CASE_0000.png`, `labelsTr/CASE.png`, `dataset.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from casam_cache.datasets.assign import FOLDERS
from casam_cache.datasets.folder import FilesReader
from casam_cache.datasets.parts import Found
from casam_cache.datasets.places import image_files
from casam_cache.datasets.sample import DatasetOptions, Problem, Sample, SplitName
from casam_cache.errors import DatasetError

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_SIDES: tuple[tuple[str, SplitName], ...] = (("Tr", "train"), ("Ts", "test"))


class Nnunet2d(FilesReader):
    """Reads `imagesTr/`, `labelsTr/`, and `imagesTs/` where it has labels. Volumes have a reader of their own."""

    name = "nnunet-2d"

    def recognises(self, path: Path) -> bool:
        try:
            names = image_files(path / "imagesTr")
            return (path / "labelsTr").is_dir() and any(
                _CHANNEL.fullmatch(PurePosixPath(name).stem) for name in names
            )
        except OSError:
            return False

    def find(self, path: Path, options: DatasetOptions) -> tuple[list[Found], list[Problem], str]:
        channels = _channels(path)
        if len(channels) > 1:
            kept = " and ".join(f"_{number:04d} ({name})" for number, name in channels.items())
            raise DatasetError(
                f"{path}: images of {len(channels)} channels, each a file of its own: {kept}",
                "choose one in a table dataset.csv, or join three to an RGB image",
            )
        found: list[Found] = []
        problems: list[Problem] = []
        tested = any(image_files(path / "labelsTs"))
        for side, split in _SIDES:
            masks = {PurePosixPath(name).stem: name for name in image_files(path / f"labels{side}")}
            bare = []
            for name in image_files(path / f"images{side}"):
                match = _CHANNEL.fullmatch(PurePosixPath(name).stem)
                case, source = match[1] if match else PurePosixPath(name).stem, f"images{side}/{name}"
                mask = masks.pop(case, None)
                if mask is None and not options.unlabelled:
                    bare.append(source)
                    continue
                told = split if tested else None
                drawn = () if mask is None else (f"labels{side}/{mask}",)
                found.append(Found(case, case, source, told, drawn, mask is not None))
            if bare:
                message = f"{len(bare)} images have no labels, for example {bare[0]}; left out"
                problems.append(Problem(f"images{side}", message, "--unlabelled keeps them", "warning"))
            problems += [
                Problem(f"labels{side}/{name}", "labels without an image", "remove them", "warning")
                for name in masks.values()
            ]
        if not any(one.masks for one in found):
            raise DatasetError(
                f"{path}: no image of imagesTr/ has labels in labelsTr/", "labels are CASE.png"
            )
        shown = next(one for one in found if one.masks)
        names = ", ".join(f"{number} {name}" for name, number in _stated(path).get("labels", {}).items())
        return (
            found,
            problems,
            f"nnU-Net raw: {shown.image} + {shown.masks[0]}" + (f"; {names}" if names else ""),
        )

    def assign(
        self, path: Path, found: list[Found], options: DatasetOptions, problems: list[Problem]
    ) -> tuple[list[Sample], str]:
        samples, source = super().assign(path, found, options, problems)
        return samples, source.replace(FOLDERS, "imagesTr/ and imagesTs/")


def _channels(root: Path) -> dict[int, str]:
    """Name of each channel of which there are files."""
    there = {
        int(match[2])
        for name in image_files(root / "imagesTr")
        if (match := _CHANNEL.fullmatch(PurePosixPath(name).stem))
    }
    named = _stated(root).get("channel_names", {})
    return {number: str(named.get(str(number), "unnamed")) for number in sorted(there)}


def _stated(root: Path) -> dict[str, Any]:
    """What `dataset.json` says; empty where it is missing or damaged, since nothing depends on it."""
    try:
        told = json.loads((root / "dataset.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
