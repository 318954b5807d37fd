"""The reader of nnU-Net's raw folders and of the Medical Segmentation Decathlon: `imagesTr/`, `labelsTr/`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from casam_cache.datasets.listing import facts_below
from casam_cache.datasets.sample import DatasetOptions, Problem, SplitName
from casam_cache.datasets.volumes.case import Case
from casam_cache.datasets.volumes.cases import ORPHAN, Found
from casam_cache.datasets.volumes.channels import asked_channel
from casam_cache.datasets.volumes.places import holds_volumes, volumes_in
from casam_cache.datasets.volumes.reader import VolumeReader
from casam_cache.errors import DatasetError

DATASET_JSON = "dataset.json"
_CHANNEL = re.compile(r"_(\d{4})$")


class NnunetReader(VolumeReader):
    """Reads `imagesTr/` and `labelsTr/`, and `imagesTs/` where `labelsTs/` is there; channels are `_0000`, `_0001`."""

    name = "nnunet"

    def recognises(self, path: Path) -> bool:
        return (path / "labelsTr").is_dir() and holds_volumes(path / "imagesTr")

    def find(self, path: Path, options: DatasetOptions) -> Found:
        stated = read_dataset_json(path)
        problems: list[Problem] = []
        notes = list(_said(stated))
        labels = volumes_in(path, "labelsTr", problems)
        images = volumes_in(path, "imagesTr", problems)
        numbered = _is_numbered(images, labels)
        channel = asked_channel(options)
        tested = volumes_in(path, "labelsTs", problems)
        test_images = volumes_in(path, "imagesTs", problems)
        split: SplitName | None = "train" if tested else None
        cases = self._cases(path, images, labels, numbered, split, channel, stated, options, problems)
        if tested or options.unlabelled:
            cases += self._cases(
                path,
                test_images,
                tested,
                numbered,
                "test" if tested else None,
                channel,
                stated,
                options,
                problems,
            )
        elif test_images:
            notes.append(
                f"{len(test_images)} files of imagesTs/ have no labels, left out (--unlabelled keeps them)"
            )
        example = next((case for case in cases if case.labels), None)
        if example:
            layout = "nnU-Net raw" if numbered else "Medical Segmentation Decathlon"
            notes.insert(0, f"{layout}: {example.image} with {example.labels}")
        return Found(tuple(cases), tuple(problems), tuple(notes), "imagesTr/ and imagesTs/" if tested else "")

    def files(self, path: Path) -> list[tuple[str, int, int]]:
        folders = ("imagesTr/", "labelsTr/", "imagesTs/", "labelsTs/", DATASET_JSON, "split.csv")
        return [facts for facts in facts_below(path) if facts[0].startswith(folders)]

    def _cases(
        self,
        root: Path,
        images: dict[str, list[str]],
        labels: dict[str, list[str]],
        numbered: bool,
        split: SplitName | None,
        channel: int | None,
        stated: dict[str, Any],
        options: DatasetOptions,
        problems: list[Problem],
    ) -> list[Case]:
        by_case: dict[str, dict[int, list[str]]] = {}
        for stem, names in images.items():
            match = _CHANNEL.search(stem) if numbered else None
            name, number = (stem[: match.start()], int(match[1])) if match else (stem, 0)
            by_case.setdefault(name, {}).setdefault(number, []).extend(names)
        if numbered:
            _refuse_unsaid(root, by_case, channel, stated)
        cases = []
        for name, channels in sorted(by_case.items()):
            files = channels.get(channel if numbered and channel is not None else min(channels), [])
            if not files:
                problems.append(
                    Problem(f"{name}_{channel:04d}", "this channel is missing", "add it", sample=name)
                )
                continue
            both = (("volumes", files), ("label volumes", labels.get(name, [])))
            double = next(((what, listed) for what, listed in both if len(listed) > 1), None)
            if double:
                message = f"two {double[0]} of one name: {' and '.join(sorted(double[1]))}"
                problems.append(Problem(sorted(double[1])[0], message, "keep one", sample=name))
                continue
            inside = None if numbered else channel
            found = labels.get(name, [None])[0]
            cases.append(Case(name, files[0], found, name, split, inside, options.series))
        for name in sorted(labels.keys() - by_case.keys()):
            problems.append(Problem(labels[name][0], ORPHAN, "add its image", "warning", name))
        return cases


def read_dataset_json(root: Path) -> dict[str, Any]:
    """What a dataset.json says; empty where there is none.

    Raises:
        DatasetError: it is no JSON object.
    """
    path = root / DATASET_JSON
    if not path.is_file():
        return {}
    try:
        stated = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path}: cannot be read: {str(error).splitlines()[0]}", "repair or remove it"
        ) from None
    if not isinstance(stated, dict):
        raise DatasetError(f"{path}: not a JSON object", "repair or remove it")
    return stated


def channel_names(stated: dict[str, Any]) -> list[str]:
    """Of `channel_names` (nnU-Net 2) or `modality`, in order of their numbers; empty where it says nothing."""
    found = stated.get("channel_names", stated.get("modality"))
    if isinstance(found, dict) and all(str(key).isdigit() for key in found):
        return [str(found[key]) for key in sorted(found, key=int)]
    return []


def _is_numbered(images: dict[str, list[str]], labels: dict[str, list[str]]) -> bool:
    """Whether image names end in the number of a channel: labels have the names without it."""
    plain = sum(stem in labels for stem in images)
    marked = sum(
        bool(match) and stem[: match.start()] in labels for stem in images if (match := _CHANNEL.search(stem))
    )
    if plain and marked:
        return marked > plain
    return marked > 0 or (not plain and bool(images) and all(_CHANNEL.search(stem) for stem in images))


def _refuse_unsaid(
    root: Path, by_case: dict[str, dict[int, list[str]]], channel: int | None, stated: dict[str, Any]
) -> None:
    """Of several channels one is said, never taken for granted."""
    numbers = sorted({number for channels in by_case.values() for number in channels})
    if len(numbers) < 2 or channel is not None:
        return
    names = channel_names(stated)
    shown = ", ".join(
        f"{number + 1} is _{number:04d}" + (f" ({names[number]})" if number < len(names) else "")
        for number in numbers
    )
    raise DatasetError(
        f"{root}: {len(numbers)} channels a case, and which is meant is not said: {shown}",
        f"--channels {numbers[0] + 1} takes the first",
    )


def _said(stated: dict[str, Any]) -> list[str]:
    """What dataset.json says of classes: names, and a value that counts nowhere."""
    labels = stated.get("labels")
    if not isinstance(labels, dict) or not labels:
        return []
    if all(str(key).isdigit() for key in labels):
        pairs = [(str(key), str(name)) for key, name in labels.items()]
    else:
        pairs = [(str(value), str(name)) for name, value in labels.items()]
    lines = [f"{DATASET_JSON} names the labels: {', '.join(f'{value} {name}' for value, name in pairs)}"]
    ignored = [value for value, name in pairs if name.lower() == "ignore"]
    if ignored:
        lines.append(
            f"the label {ignored[0]} is to count nowhere, as {DATASET_JSON} says: --ignore {ignored[0]}"
        )
    return lines
