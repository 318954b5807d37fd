"""The reader of a folder a patient: an image, or several of one patient, beside their one label volume."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from casam_cache.datasets.listing import entries, is_folder
from casam_cache.datasets.sample import SPLITS, DatasetOptions, Problem
from casam_cache.datasets.volumes.case import Case
from casam_cache.datasets.volumes.cases import Found
from casam_cache.datasets.volumes.channels import asked_channel
from casam_cache.datasets.volumes.dicom_files import SUFFIXES as DICOM_SUFFIXES
from casam_cache.datasets.volumes.numpy_files import SUFFIXES as NUMPY_SUFFIXES
from casam_cache.datasets.volumes.read import volume_stem, volume_suffix
from casam_cache.datasets.volumes.reader import VolumeReader
from casam_cache.errors import DatasetError

_LABEL = re.compile(r"(?:^|.*[ ._-])(?:masks?|labels?|seg|segm|segmentation|gt|ground_?truth|annotation)")
_LOOKED_AT = 64  # folders


@dataclass(frozen=True)
class Patient:
    """The volumes that lie in a folder, by file name.

    Attributes:
        name: of the folder.
        images: by what their names add to the folder's: `t1` of `BraTS_001_t1.nii.gz` in `BraTS_001/`.
        labels: those whose names say so.
    """

    name: str
    images: dict[str, str]
    labels: tuple[str, ...]


class PatientFolderReader(VolumeReader):
    """Reads `case_1/imaging.nii.gz` beside `case_1/segmentation.nii.gz`; of several images `--channels` takes one."""

    name = "volume-patients"

    def recognises(self, path: Path) -> bool:
        try:
            found = patients_in(path, _LOOKED_AT)
        except OSError:
            return False
        # Folders of several labels are datasets of their own, as are those of a split.
        return any(len(one.labels) == 1 for one in found) and not any(
            len(one.labels) > 1 or one.name in SPLITS for one in found
        )

    def find(self, path: Path, options: DatasetOptions) -> Found:
        problems: list[Problem] = []
        patients = patients_in(path)
        roles = sorted({role for one in patients for role in one.images})
        channel = asked_channel(options)
        several = any(len(one.images) > 1 for one in patients)
        if several:
            role = _role(path, roles, channel)
        cases = []
        for one in patients:
            file = one.images.get(role) if several else next(iter(one.images.values()), None)
            if file is None:
                missing = f"no image '{role}'" if several else "labels without an image"
                problems.append(Problem(one.name, missing, "add it", sample=one.name))
                continue
            if len(one.labels) > 1:
                listed = " and ".join(one.labels)
                problems.append(
                    Problem(one.name, f"two label volumes: {listed}", "keep one", sample=one.name)
                )
                continue
            labels = f"{one.name}/{one.labels[0]}" if one.labels else None
            inside = None if several else channel
            cases.append(Case(one.name, f"{one.name}/{file}", labels, one.name, None, inside))
        notes = []
        if example := next((case for case in cases if case.labels), None):
            notes.append(f"a folder a patient: {example.image} with {example.labels}")
        if several:
            notes.append(
                f"of {len(roles)} images of a patient {role}: --channels takes another of {_listed(roles)}"
            )
        return Found(
            tuple(cases), tuple(problems), tuple(notes), labels_wanted="add its label volume beside it"
        )


def patients_in(root: Path, limit: int | None = None) -> list[Patient]:
    """The folders of `root` that hold volumes, by names alone; none where volumes lie in `root` itself.

    Args:
        root: the dataset folder.
        limit: folders that are looked into.

    Raises:
        OSError: a folder cannot be read.
    """
    inside = entries(root)
    if any(not entry.is_dir() and _is_known(entry.name) for entry in inside):
        return []
    found = []
    for entry in [one for one in inside if is_folder(one)][:limit]:
        files = [one.name for one in entries(Path(entry.path)) if not one.is_dir() and _is_known(one.name)]
        if files:
            found.append(_patient(entry.name, files))
    return found


def _is_known(name: str) -> bool:
    """A volume by its suffix; DICOM are series, and NumPy arrays may be anything."""
    return volume_suffix(name) not in (None, *DICOM_SUFFIXES, *NUMPY_SUFFIXES)


def _patient(folder: str, files: Sequence[str]) -> Patient:
    labels = [name for name in files if _LABEL.fullmatch(volume_stem(name).lower())]
    images: dict[str, str] = {}
    for name in files:
        if name not in labels:
            stem = volume_stem(name)
            images[stem.removeprefix(folder).strip(" ._-") or stem] = name
    return Patient(folder, images, tuple(sorted(labels)))


def _role(path: Path, roles: Sequence[str], channel: int | None) -> str:
    if channel is None or channel >= len(roles):
        raise DatasetError(
            f"{path}: several images of a patient beside one label volume, and which is meant is not said: "
            f"{_listed(roles)}",
            "--channels 1 takes the first",
        )
    return roles[channel]


def _listed(roles: Sequence[str]) -> str:
    shown = ", ".join(f"{number} is {role}" for number, role in enumerate(roles[:8], 1))
    return shown + (f" and {len(roles) - 8} more" if len(roles) > 8 else "")
