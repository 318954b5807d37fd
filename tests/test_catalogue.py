"""The catalogue of public datasets: complete, as the paper has it, and what the command line and the page say of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Casam

from casam_cache.bench.paper_sets import TASKS, UNSEEN, paper_name
from casam_cache.datasets.catalogue import ENTRIES, Entry, find_entry, get_entry
from casam_cache.datasets.registry import READERS
from casam_cache.errors import OptionError
from casam_cache.report.catalogue_page import with_entries

# Supplementary material, section A: train and test images of each task.
COUNTS = {
    "ACDC": (1632, 177),
    "EBHI-SEG": (1701, 487),
    "56Nx": (558, 463),
    "DN": (724, 391),
    "Polyp": (804, 196),
    "MSD_Prostate": (419, 53),
    "MSD_Spleen": (876, 146),
    "Promise12": (712, 66),
    "STS-2D": (1700, 70),
}


def of_role(role: str) -> tuple[Entry, ...]:
    return tuple(entry for entry in ENTRIES if entry.role == role)


def test_it_has_the_papers_sets_in_its_order() -> None:
    assert tuple(entry.name for entry in of_role("task")) == TASKS
    assert tuple(entry.name for entry in of_role("unseen")) == UNSEEN


def test_counts_are_the_papers() -> None:
    assert {entry.name: (entry.train, entry.test) for entry in of_role("task")} == COUNTS
    assert all(entry.train is None and entry.test is None for entry in ENTRIES if entry.role != "task")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entries_are_complete(entry: Entry) -> None:
    for field in ("title", "modality", "images", "licence", "url", "access", "reference", "group", "split"):
        assert getattr(entry, field), field
    assert entry.layout.count("\n") >= 1
    assert entry.classes
    assert [number for number, _ in entry.classes] == list(range(1, len(entry.classes) + 1))
    assert entry.url.startswith("http")
    assert entry.folders == tuple(name.lower() for name in entry.folders)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_its_reader_is_there(entry: Entry) -> None:
    if entry.reader:
        assert READERS.get(entry.reader).name == entry.reader
    else:
        assert entry.name in ("DSB2018", "LIDC") or not entry.command
        assert entry.notes or entry.name


def test_names_are_found_whatever_their_spelling() -> None:
    for name in ("acdc", "msd prostate", "EBHI_SEG", "busi-benign", "Brain Tumor"):
        assert find_entry(name) == get_entry(name)
    assert get_entry("kvasir-seg").name == "Polyp"
    names = [name for entry in ENTRIES for name in (entry.name, *entry.aliases)]
    assert len({name.casefold() for name in names}) == len(names)
    with pytest.raises(OptionError, match="unknown dataset 'nothing'") as caught:
        get_entry("nothing")
    assert "Promise12" in caught.value.hint


def test_names_mean_the_same_in_the_bench() -> None:
    """A set that is encoded under the name of the catalogue is the paper's to `casam bench`."""
    for entry in ENTRIES:
        assert paper_name(entry.name) == (entry.name if entry.role else None), entry.name


def test_list_has_a_line_a_set(casam: Casam) -> None:
    casam("data", "list")
    assert casam.code == 0
    for entry in ENTRIES:
        line = next(line for line in casam.out.splitlines() if line.split("  ")[0] == entry.name)
        assert entry.modality in line
        assert entry.licence in line
        assert entry.counts in line


def test_show_has_all_of_it(casam: Casam) -> None:
    for entry in (get_entry("ACDC"), get_entry("LIDC")):
        casam("data", "show", entry.name.lower())
        assert casam.code == 0
        for fact in (entry.title, entry.licence, entry.url, entry.access, *entry.notes):
            assert fact in casam.out
        assert all(line in casam.out for line in entry.layout.splitlines())
    casam("data", "show", "nothing")
    assert casam.code == 1
    assert "unknown dataset 'nothing'" in casam.err


def test_the_page_has_the_entries_as_they_are() -> None:
    page = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text()
    assert page == with_entries(page), "python -m casam_cache.report.catalogue_page docs/datasets.md"
