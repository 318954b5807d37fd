"""The paper's datasets by name: nine tasks, five unseen sets, and the names they also go by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from casam_cache.errors import OptionError, unknown_name

# Section 4.1.2; spellings as there.
TASKS = (
    "ACDC", "EBHI-SEG", "56Nx", "DN", "Polyp", "MSD_Prostate", "MSD_Spleen", "Promise12", "STS-2D",
)  # fmt: skip

# Table 2.
UNSEEN = ("DDTI", "BUSI_benign", "BUSI_malignant", "Brain_Tumor", "CAMO")

# Table 8, from top to bottom.
TABLE_8 = (
    ("DN", "56Nx", "EBHI-SEG", "STS-2D", "Promise12", "MSD_Spleen", "MSD_Prostate", "Polyp", "ACDC"),
    ("EBHI-SEG", "Polyp", "ACDC", "MSD_Prostate", "56Nx", "MSD_Spleen", "DN", "Promise12", "STS-2D"),
    ("MSD_Prostate", "56Nx", "STS-2D", "Polyp", "DN", "MSD_Spleen", "ACDC", "EBHI-SEG", "Promise12"),
)

# Spellings of the paper's own (Ployp) and usual names of the same sets. What only resembles a set is not listed.
_ALIASES = {
    "ebhi": "EBHI-SEG",
    "kpis56nx": "56Nx",
    "kpisdn": "DN",
    "ployp": "Polyp",
    "kvasir": "Polyp",
    "kvasirseg": "Polyp",
    "prostate": "MSD_Prostate",
    "spleen": "MSD_Spleen",
    "promise": "Promise12",
    "sts": "STS-2D",
    "benign": "BUSI_benign",
    "malignant": "BUSI_malignant",
}


def paper_name(name: str) -> str | None:
    """The paper's spelling of a dataset's name, whatever its case, dashes and blanks; None if it is not the paper's."""
    plain = _plain(name)
    return _KNOWN.get(plain)


def paper_names(names: Iterable[str]) -> dict[str, str] | None:
    """The paper's spelling -> the name given, if every name is one of the paper's tasks and no two are the same one."""
    found: dict[str, str] = {}
    for name in names:
        known = paper_name(name)
        if known not in TASKS or known in found:
            return None
        found[known] = name
    return found


def split_stores(
    stores: Sequence[str], tasks: str | Sequence[str], unseen: str | Sequence[str]
) -> tuple[list[str], list[str]]:
    """Which stores are tasks to learn, and which are unseen sets.

    Args:
        stores: names of all there are.
        tasks: `all` (those that are not unseen sets), or names.
        unseen: `none`, `paper` (those of the paper's unseen sets that are there and are not named as tasks), or names.

    Returns:
        Tasks, sorted; unseen sets, in the paper's order or as named.

    Raises:
        OptionError: an unknown name, one given twice or on both sides, or no task left.
    """
    named = [] if isinstance(tasks, str) else list(tasks)
    if unseen == "paper":
        known = [
            name for name in stores if paper_name(name) in UNSEEN or _plain(name) == "busi"
        ]  # BUSI may be whole
        apart = sorted((name for name in known if name not in named), key=_unseen_rank)
    else:
        apart = [] if isinstance(unseen, str) else list(unseen)
    chosen = [name for name in stores if name not in apart] if isinstance(tasks, str) else named
    for name in [*chosen, *apart]:
        if name not in stores:
            raise unknown_name("task", name, list(stores))
    for name in apart:
        if name in chosen:
            raise OptionError(
                f"'{name}' is both a task to learn and an unseen set", "name it on one side only"
            )
    for names, side in ((chosen, "tasks"), (apart, "unseen sets")):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise OptionError(f"'{twice[0]}' is twice among the {side}", "give each name once")
    if not chosen:
        raise OptionError("there is no task to learn", "encode a dataset first: `casam encode DATASET`")
    return sorted(chosen), apart


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _unseen_rank(name: str) -> tuple[int, str]:
    known = paper_name(name)
    return (UNSEEN.index(known) if known in UNSEEN else len(UNSEEN), name)


_KNOWN = {**{_plain(name): name for name in (*TASKS, *UNSEEN)}, **_ALIASES}
