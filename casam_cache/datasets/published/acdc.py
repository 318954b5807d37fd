"""ACDC: a folder a patient, with the end-diastolic and the end-systolic volume that its `Info.cfg` names."""

from __future__ import annotations

import re
from pathlib import Path

from casam_cache.datasets.listing import entries
from casam_cache.datasets.published.paired import folders_in
from casam_cache.datasets.sample import DatasetOptions, Problem, SplitName
from casam_cache.datasets.splits import SPLIT_FOLDERS
from casam_cache.datasets.volumes.case import Case
from casam_cache.datasets.volumes.cases import Found
from casam_cache.datasets.volumes.read import volume_stem
from casam_cache.datasets.volumes.reader import VolumeReader

_PATIENT = re.compile(r"patient\d+", re.IGNORECASE)
_LABELS = re.compile(r"(?P<image>patient\d+_frame(?P<frame>\d+))_gt", re.IGNORECASE)
_INFO = re.compile(r"^\s*(ED|ES)\s*:\s*(\d+)\s*$", re.MULTILINE)


class Acdc(VolumeReader):
    """Reads every frame that has labels; the group is the patient."""

    name = "acdc"
    precedence = 2

    def recognises(self, path: Path) -> bool:
        try:
            return bool(_parts(path))
        except OSError:
            return False

    def find(self, path: Path, options: DatasetOptions) -> Found:
        cases: list[Case] = []
        problems: list[Problem] = []
        parts = _parts(path)
        for front, split in parts:
            for patient in folders_in(path / front):
                if _PATIENT.fullmatch(patient):
                    cases += _of_patient(path, f"{front}{patient}/", split, problems)
        whole = {split for _, split in parts} >= {"train", "test"}
        notes = [f"ACDC: {cases[0].image} with {cases[0].labels}"] if cases else []
        return Found(
            tuple(cases), tuple(problems), tuple(notes), "folders training/ and testing/" if whole else ""
        )


def _parts(path: Path) -> list[tuple[str, SplitName | None]]:
    """The folders of patients: the folder itself, or those of the split inside."""
    if _holds_patients(path):
        return [("", None)]
    found: list[tuple[str, SplitName | None]] = []
    for name in folders_in(path):
        split = SPLIT_FOLDERS.get(name.casefold())
        if split and _holds_patients(path / name):
            found.append((f"{name}/", split))
    return found


def _holds_patients(path: Path) -> bool:
    first = next((name for name in folders_in(path) if _PATIENT.fullmatch(name)), None)
    return first is not None and any(
        _LABELS.fullmatch(volume_stem(entry.name)) for entry in entries(path / first)
    )


def _of_patient(root: Path, front: str, split: SplitName | None, problems: list[Problem]) -> list[Case]:
    """The frames with labels of one patient; what `Info.cfg` and the files disagree on becomes a problem."""
    patient = front.rstrip("/").rpartition("/")[2]
    files = {volume_stem(entry.name): entry.name for entry in entries(root / front) if not entry.is_dir()}
    named = _named_frames(root / front, problems, front)
    cases = []
    for stem, file in sorted(files.items()):
        match = _LABELS.fullmatch(stem)
        if match is None:
            continue
        image, frame = files.get(match["image"]), int(match["frame"])
        if image is None:
            problems.append(Problem(f"{front}{file}", "labels without an image", "copy it again", "warning"))
            continue
        cases.append(Case(match["image"], f"{front}{image}", f"{front}{file}", patient, split))
        if named and frame not in named.values():
            what = f"frame {frame} is neither ED nor ES in Info.cfg"
            problems.append(Problem(f"{front}{file}", what, "look at it", "warning"))
    there = {int(match["frame"]) for stem in files if (match := _LABELS.fullmatch(stem))}
    problems += [
        Problem(f"{front}Info.cfg", f"{phase} is frame {frame}, which has no labels here", "copy it again")
        for phase, frame in named.items()
        if frame not in there
    ]
    return cases


def _named_frames(folder: Path, problems: list[Problem], front: str) -> dict[str, int]:
    try:
        text = (folder / "Info.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        problems.append(
            Problem(f"{front}Info.cfg", "not there: every frame with labels is read", "copy it", "warning")
        )
        return {}
    return {phase: int(frame) for phase, frame in _INFO.findall(text)}
