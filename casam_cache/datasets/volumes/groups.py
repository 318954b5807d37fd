"""Groups that may be wrong: all volumes of one patient by their headers, or several of one by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from casam_cache.datasets.sample import DatasetOptions, Problem
from casam_cache.datasets.volumes.case import Case

_LAST = r"^(.+)[ ._/-][^ ._/-]+$"


def doubtful_groups(cases: Sequence[Case], options: DatasetOptions) -> list[Problem]:
    """Warnings where patients may be parted over splits, or where one group leaves nothing to test on."""
    if options.group_regex is not None or len(cases) < 2:
        return []
    groups = {case.group for case in cases}
    if len(groups) == 1 and groups != {cases[0].name}:
        return [
            Problem(
                ".",
                f"all {len(cases)} volumes are of one patient, '{cases[0].group}', so they are one group of one split",
                f"--group-regex finds patients in names, such as '{cases[0].name}'",
                "warning",
            )
        ]
    if not all(f"/{case.name}".endswith(f"/{case.group}") for case in cases):
        return []  # the layout, the headers or a table say it
    return _of_one_name(cases)


def _of_one_name(cases: Sequence[Case]) -> list[Problem]:
    """`p01_ED` and `p01_ES`: names that differ in a last part of which there are few, and that return."""
    members: dict[str, list[str]] = {}
    for case in cases:
        match = re.search(_LAST, case.name)
        members.setdefault(match[1] if match else case.name, []).append(case.name)
    several = [names for names in members.values() if len(names) > 1]
    parts = {name[len(stem) :] for stem, names in members.items() for name in names}
    if len(members) < 2 or 2 * len(several) < len(members) or len(parts) > len(members):
        return []
    first, second = several[0][:2]
    return [
        Problem(
            ".",
            f"{len(cases)} volumes, each a group of its own, though {first} and {second} look like one patient",
            f"--group-regex '{_LAST}' takes the name without its last part"
            if _fits(cases)
            else "--group-regex",
            "warning",
        )
    ]


def _fits(cases: Sequence[Case]) -> bool:
    return all(re.search(_LAST, case.name) for case in cases)
