"""The catalogue of public datasets: complete, as the paper has it, and what the command line and the page say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Casam, draw_dataset

from casam_cache.bench.paper_sets import TASKS, UNSEEN, paper_name
from casam_cache.datasets import DatasetOptions, find_tasks, read_dataset
from casam_cache.datasets.catalogue import ENTRIES, Entry, find_entry, get_entry
from casam_cache.datasets.catalogue.compare import notes_of
from casam_cache.datasets.registry import READERS
from casam_cache.errors import DatasetError, OptionError
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


# --dataset


def test_a_name_finds_its_part_and_names_the_task(tmp_path: Path) -> None:
    """BUSI is distributed with two sets and the normal ones in one folder."""
    for part in ("benign", "malignant", "normal"):
        draw_dataset(tmp_path / "Dataset_BUSI_with_GT" / part, images=4)
    options = DatasetOptions(dataset="busi benign")
    assert options.dataset == "BUSI_benign"
    (folder,) = find_tasks(tmp_path / "Dataset_BUSI_with_GT", dataset=options.dataset)
    assert folder == tmp_path / "Dataset_BUSI_with_GT" / "benign"
    assert find_tasks(tmp_path, dataset="BUSI_malignant")[0].name == "malignant", "one folder further up"
    assert find_tasks(folder, dataset=options.dataset) == [folder]
    assert read_dataset(folder, options).task == "BUSI_benign"
    with pytest.raises(OptionError, match="unknown dataset 'benin'"):
        DatasetOptions(dataset="benin")


def test_a_name_that_fits_nothing_or_several_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set" / "papers").mkdir(parents=True)
    with pytest.raises(DatasetError, match="not laid out as ACDC is distributed") as caught:
        find_tasks(tmp_path / "set", dataset="ACDC")
    assert caught.value.hint == "casam data show ACDC shows what is expected"
    for copy in ("one", "two"):
        draw_dataset(tmp_path / "set" / copy / "benign", images=4)
    with pytest.raises(DatasetError, match=r"BUSI_benign may be in .*one/benign and .*two/benign"):
        find_tasks(tmp_path / "set", dataset="BUSI_benign")


def test_counts_are_compared_with_the_papers(tmp_path: Path, casam: Casam) -> None:
    """A set that was converted before goes by its name too, and it is said that its layout is another."""
    draw_dataset(tmp_path / "converted", images=10)
    casam("data", "check", tmp_path / "converted", "--dataset", "acdc")
    assert casam.code == 0, casam.err
    assert casam.out.startswith("ACDC  ")
    assert "ACDC, not in the layout in which it is distributed: read by 'folder'" in casam.out
    assert "train / test images: 8 / 2; the paper has 1,632 / 177" in casam.out


def test_counts_that_are_the_papers(tmp_path: Path) -> None:
    dataset = read_dataset(draw_dataset(tmp_path / "set", images=10))
    entry = replace(get_entry("Polyp"), train=8, test=2)
    (_, same) = notes_of(dataset, "folder", entry, ENTRIES)
    assert same == "train / test images are the paper's: 8 / 2"
    (_, other) = notes_of(dataset, "folder", replace(entry, train=7, test=3), ENTRIES)
    assert other == "as many images as in the paper, in another split: train / test 8 / 2, the paper's 7 / 3"
    for reader in ("folder", "folder-an-image"):
        assert notes_of(dataset, reader, None, ENTRIES) == (), "a layout that is no set's own"


def test_encode_takes_the_name(tmp_path: Path, casam: Casam, tiny_checkpoint: Path) -> None:
    """The store is the paper's task, and goes on as such; the same folder without the name is another task."""
    root = draw_dataset(tmp_path / "kvasir-seg", images=6)
    model = ("--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")
    (report,) = casam.json("encode", root, *model, "--dataset", "kvasir-seg")["tasks"]
    assert (report["task"], report["encoded"]) == ("Polyp", 6)
    assert "Polyp: train / test images: 4 / 2; the paper has 804 / 196" in casam.err
    (again,) = casam.json("encode", root, *model, "--dataset", "Polyp")["tasks"]
    assert (again["task"], again["encoded"], again["skipped"]) == ("Polyp", 0, 6)
    (planned,) = casam.json("encode", root, *model, "--dataset", "Polyp", "--dry-run")["tasks"]
    assert planned["task"] == "Polyp"
