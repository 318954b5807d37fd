"""ISIC challenges 2016 to 2018, lesion segmentation: the folders that the archives unpack to, side by side."""

from __future__ import annotations

import re
from pathlib import Path

from casam_cache.datasets.places import Place
from casam_cache.datasets.published.paired import PairedReader, folders_in
from casam_cache.datasets.sample import DatasetOptions, SplitName
from casam_cache.datasets.splits import SPLIT_FOLDERS
from casam_cache.errors import DatasetError

# ISIC2018_Task1-2_Training_Input, ISIC-2017_Test_v2_Data, ISBI2016_ISIC_Part1_Training_Data
_FOLDER = re.compile(
    r"(?P<year>(?:ISIC|ISBI)[-_]?20\d\d).*?_(?P<split>Training|Validation|Test)(?:_v\d)?"
    r"(?:_Part1)?_(?P<kind>Input|Data|GroundTruth)",
    re.IGNORECASE,
)
_OTHER_TASKS = re.compile(r"(?:Task[23]|Part[23])_", re.IGNORECASE)


class Isic(PairedReader):
    """Reads the pairs of folders that are there; superpixels are no images."""

    name = "isic"

    def places(self, path: Path, options: DatasetOptions) -> list[Place]:
        """The pairs by their split.

        Raises:
            DatasetError: folders of two years.
        """
        images: dict[SplitName, str] = {}
        masks: dict[SplitName, str] = {}
        years = set()
        for name in folders_in(path):
            match = _FOLDER.fullmatch(name)
            if match is None or _OTHER_TASKS.search(name):
                continue
            split = SPLIT_FOLDERS[match["split"].lower()]
            kind = masks if match["kind"].lower() == "groundtruth" else images
            if split in kind:
                raise DatasetError(
                    f"{path}: both {kind[split]} and {name}", "keep those of one year in a folder"
                )
            kind[split] = name
            years.add(re.sub(r"\D", "", match["year"]))
        if len(years) > 1:
            raise DatasetError(
                f"{path}: challenges of {' and '.join(sorted(years))}", "keep those of one year in a folder"
            )
        return [
            Place(f"{images[split]}/", f"{masks[split]}/", f"{split}/", split, skip=("_superpixels",))
            for split in images
            if split in masks
        ]
