"""Promise12: `CaseNN.mhd` with `CaseNN_segmentation.mhd`, in one folder or in the parts that archives unpack to."""

from __future__ import annotations

import re
from pathlib import Path

from casam_cache.datasets.listing import entries
from casam_cache.datasets.published.paired import folders_in
from casam_cache.datasets.sample import DatasetOptions, Problem
from casam_cache.datasets.volumes.case import Case
from casam_cache.datasets.volumes.cases import Found
from casam_cache.datasets.volumes.read import volume_stem
from casam_cache.datasets.volumes.reader import VolumeReader

_IMAGE = re.compile(r"case\d+", re.IGNORECASE)
_LABELS = re.compile(r"(case\d+)_segmentation", re.IGNORECASE)


class Promise12(VolumeReader):
    """Reads the cases with a segmentation, and the others where images without labels are asked for."""

    name = "promise12"
    precedence = 2

    def recognises(self, path: Path) -> bool:
        try:
            return any(_LABELS.fullmatch(stem) for front in _parts(path) for stem in _files(path, front))
        except OSError:
            return False

    def find(self, path: Path, options: DatasetOptions) -> Found:
        cases: dict[str, Case] = {}
        problems: list[Problem] = []
        left = 0
        for front in _parts(path):
            files = _files(path, front)
            labels = {match[1].casefold(): stem for stem in files if (match := _LABELS.fullmatch(stem))}
            for stem, file in files.items():
                if not _IMAGE.fullmatch(stem):
                    continue
                label = labels.pop(stem.casefold(), None)
                if label is None and not options.unlabelled:
                    left += 1
                    continue
                # The test data number their cases from 0 again.
                name = stem if label else f"{front}{stem}"
                if name in cases:
                    problems.append(Problem(f"{front}{file}", f"a second {name}", "keep one", sample=name))
                    continue
                cases[name] = Case(name, f"{front}{file}", label and f"{front}{files[label]}", name)
            problems += [
                Problem(f"{front}{files[stem]}", "labels without an image", "copy it again", "warning")
                for stem in labels.values()
            ]
        example = next((case for case in cases.values() if case.labels), None)
        notes = [f"Promise12: {example.image} with {example.labels}"] if example else []
        if left:
            notes.append(f"{left} cases without a segmentation are not read (--unlabelled reads them too)")
        return Found(tuple(cases.values()), tuple(problems), tuple(notes))


def _parts(path: Path) -> list[str]:
    """The folders that may hold cases, with a slash behind; empty for the folder itself."""
    return [
        "",
        *(f"{name}/" for name in folders_in(path) if re.search("data|train|test", name, re.IGNORECASE)),
    ]


def _files(path: Path, front: str) -> dict[str, str]:
    """Stem and name of the MetaImage headers of a folder."""
    names = [entry.name for entry in entries(path / front) if not entry.is_dir()]
    return {volume_stem(name): name for name in sorted(names) if name.lower().endswith((".mhd", ".mha"))}
