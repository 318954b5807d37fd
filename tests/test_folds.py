"""K folds by group: what they hold, what they are for, and a fit over all of them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Casam, draw_dataset
from hypothesis import given
from hypothesis import strategies as st

from casam_cache.datasets import Dataset, DatasetOptions, read_dataset
from casam_cache.datasets.folds import draw_folds
from casam_cache.errors import DatasetError, OptionError
from casam_cache.store import Annotations, EmbeddingStore
from casam_cache.training.folds import Fold
from casam_cache.training.items import open_split

Encode = Callable[..., Any]


@given(
    st.lists(st.sampled_from("abcdefghijklmnop"), min_size=5, max_size=60),
    st.integers(2, 5),
    st.integers(0, 9),
)
def test_folds_part_no_group_and_are_as_equal_as_the_largest_group_allows(
    groups: list[str], folds: int, seed: int
) -> None:
    sizes = Counter(groups)
    if len(sizes) < folds:
        with pytest.raises(DatasetError, match="cannot be divided"):
            draw_folds(groups, folds, seed)
        return
    drawn = draw_folds(groups, folds, seed)
    assert set(drawn) == set(range(1, folds + 1))
    assert len(set(zip(groups, drawn, strict=True))) == len(sizes)
    held = Counter(drawn).values()
    assert max(held) - min(held) <= max(sizes.values())
    assert drawn == draw_folds(groups, folds, seed)


def test_folds_of_equal_groups_are_equal_and_the_seed_counts() -> None:
    groups = [f"g{number // 2}" for number in range(40)]
    assert set(Counter(draw_folds(groups, 5, 0)).values()) == {8}
    assert draw_folds(groups, 5, 0) != draw_folds(groups, 5, 1)


def held(dataset: Dataset, split: str) -> set[str]:
    return {sample.id for sample in dataset.split(split)}


def test_without_a_test_split_the_fold_is_it(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "discs", images=20)
    (root / "split.csv").unlink()
    asked = [DatasetOptions(folds=4, fold=number, val_fraction=0.2) for number in range(1, 5)]
    read = [read_dataset(root, options) for options in asked]
    tested = [held(dataset, "test") for dataset in read]
    assert [len(ids) for ids in tested] == [5, 5, 5, 5]
    assert len(set().union(*tested)) == 20
    assert all(held(dataset, "val") and held(dataset, "train") for dataset in read)
    assert read[1].split_source.startswith("fold 2 of 4 by group, seed 0, for test")
    assert "no test split of its own" in read[1].notes[-1]


def test_a_test_split_of_its_own_stays(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "discs", images=20)
    plain = read_dataset(root)
    read = [
        read_dataset(root, DatasetOptions(folds=3, fold=number, val_fraction=0.5)) for number in (1, 2, 3)
    ]
    assert all(held(dataset, "test") == held(plain, "test") for dataset in read)
    validated = [held(dataset, "val") for dataset in read]
    assert set().union(*validated) == held(plain, "train")
    assert sum(map(len, validated)) == len(held(plain, "train"))
    assert "--val-fraction is not used" in str(read[0].problems[-1])
    by = {sample.group: sample.split for sample in read[0].samples}
    assert all(by[sample.group] == sample.split for sample in read[0].samples)


def test_what_is_no_fold_is_refused(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "discs")
    with pytest.raises(OptionError, match="which of the 3 folds"):
        read_dataset(root, DatasetOptions(folds=3))
    with pytest.raises(OptionError, match="there is no fold 4 of 3"):
        read_dataset(root, DatasetOptions(folds=3, fold=4))
    with pytest.raises(OptionError, match="of how many"):
        read_dataset(root, DatasetOptions(fold=2))
    with pytest.raises(OptionError):
        DatasetOptions(folds=1, fold=1)
    with pytest.raises(DatasetError, match=r"4 groups .* into 5 folds"):
        read_dataset(root, DatasetOptions(folds=5, fold=1))  # five patients, of whom one tests


def test_a_store_keeps_its_folds_until_none_are_asked_for(
    casam: Casam, encode: Encode, tmp_path: Path
) -> None:
    root = draw_dataset(tmp_path / "data" / "discs")
    (root / "split.csv").unlink()
    first = encode(root, "--folds", "5", "--fold", "2")
    assert "fold 2 of 5 by group, seed 0, is the test split: 2 of 10 images" in casam.err
    store = first["tasks"][0]["store"]
    assert len(Annotations.open(store).rows("test")) == 2
    again = encode(root, "--fold", "3")["tasks"][0]
    assert (again["encoded"], again["refreshed"]) == (0, True)
    assert "--fold was 2 in this store and is 3 now" in casam.err
    encode(root, "--folds", "0")
    assert len(Annotations.open(store).rows("test")) == 3


def test_a_fit_over_all_folds_and_its_mean(casam: Casam, encode: Encode, tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data" / "discs")
    (root / "split.csv").unlink()
    store = EmbeddingStore.open(
        encode(root, "--test-fraction", "1", "--split-seed", "4")["tasks"][0]["store"]
    )
    short = ("--task", "discs", "--epochs", 1, "--set", "blocks=1", "--folds", 2)
    report = casam.json("fit", *short)
    assert casam.code == 0, casam.err
    assert [fold["evaluate"] for fold in report["folds"]] == ["fold 1/2", "fold 2/2"]
    assert sum(fold["test"]["masks"] for fold in report["folds"]) == 9, "one image has no mask"
    scores = [fold["test"]["iou"] for fold in report["folds"]]
    assert report["mean"]["test"]["iou"] == pytest.approx(statistics.mean(scores))
    assert report["deviation"]["test"]["iou"] == pytest.approx(statistics.stdev(scores))
    gain = report["mean"]["test"]["iou"] - report["mean"]["frozen"]["iou"]
    assert report["mean"]["gain"]["iou"] == pytest.approx(gain)
    table = casam("fit", *short)
    assert "mean of folds" in table
    assert "fold 2/2" in table
    for number in (1, 2):
        fold = Fold(number, 2)
        scored, trained = (
            {item.id for item in open_split(store, name)} for name in (fold.scored, fold.train)
        )
        assert len(scored) == len(trained) == 5
        assert not scored & trained
        encoded = read_dataset(root, DatasetOptions(folds=2, fold=number, seed=4))
        assert scored == held(encoded, "test"), "the fold that encode --folds holds out"
    assert not report["folds"][0]["computed"] or report["folds"][0]["run"] != report["folds"][1]["run"]


def test_a_fit_over_folds_never_scores_or_trains_on_a_test_split_of_its_own(
    casam: Casam, encode: Encode, discs: Path
) -> None:
    store = EmbeddingStore.open(encode(discs)["tasks"][0]["store"])
    tested = {item.id for item in open_split(store, "test")}
    for number in (1, 2, 3):
        for name in (Fold(number, 3).train, Fold(number, 3).scored):
            assert not tested & {item.id for item in open_split(store, name)}
    refused = casam.json("fit", "--task", "discs", "--folds", 9)
    assert refused["error"]["message"].startswith(
        "4 groups (patients, slides) cannot be divided into 9 folds"
    )
    casam("fit", "--task", "discs", "--folds", 2, "--evaluate", "val")
    assert casam.code == 1
