"""Splits: no group is ever parted, little moves when data grows, and split.csv is read as people write it."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casam_cache.datasets.splits import (
    carve_validation,
    group_of,
    read_split_csv,
    refuse_parted_groups,
    seeded_split,
)
from casam_cache.errors import DatasetError

groups = st.lists(st.sampled_from([f"p{number}" for number in range(12)]), min_size=1, max_size=60)
fractions = st.floats(0.01, 0.99)


@given(groups, fractions, st.floats(0, 0.99), st.integers(0, 3))
def test_no_group_is_parted(groups: list[str], test: float, val: float, seed: int) -> None:
    splits = carve_validation(groups, seeded_split(groups, test, seed), val, seed)
    by_group: dict[str, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        by_group.setdefault(group, set()).add(split)
    assert all(len(sides) == 1 for sides in by_group.values())
    count = Counter(side for sides in by_group.values() for side in sides)
    assert count["train"] >= 1
    assert count["test"] >= (len(by_group) > 1)
    assert bool(count["val"]) == (val > 0 and count["train"] + count["val"] > 1)
    named = zip(map(str, range(len(groups))), groups, splits, strict=True)
    refuse_parted_groups(named, Path("x"))


@given(groups, fractions, st.integers(0, 3), st.randoms())
def test_the_split_does_not_depend_on_the_order(
    groups: list[str], test: float, seed: int, random: object
) -> None:
    shuffled = list(groups)
    random.shuffle(shuffled)
    first = dict(zip(groups, seeded_split(groups, test, seed), strict=True))
    again = dict(zip(shuffled, seeded_split(shuffled, test, seed), strict=True))
    assert first == again


def test_fractions_are_met_as_near_as_groups_allow() -> None:
    ids = [str(number) for number in range(200)]
    assert Counter(seeded_split(ids, 0.3, 0)) == {"train": 140, "test": 60}
    uneven = [f"p{number}" for number in range(30) for _ in range(1 + 7 * (number % 5))]
    assert abs(seeded_split(uneven, 0.3, 0).count("test") - 0.3 * len(uneven)) <= 15
    assert set(seeded_split(ids, 0.0, 0)) == {"train"}
    assert set(seeded_split(ids, 1.0, 0)) == {"test"}
    assert seeded_split(["a", "a"], 0.5, 0) == ["train", "train"]
    big = ["big"] * 99 + ["small"]
    assert Counter(seeded_split(big, 0.3, 0)) == {"train": 99, "test": 1}
    val = carve_validation(ids, seeded_split(ids, 0.3, 0), 0.1, 0)
    assert Counter(val) == {"train": 126, "val": 14, "test": 60}


def test_growing_data_moves_next_to_nothing() -> None:
    ids = [f"p{number}" for number in range(100)]
    before = dict(zip(ids, seeded_split(ids, 0.3, 0), strict=True))
    more = [*ids, "new1", "new2"]
    after = dict(zip(more, seeded_split(more, 0.3, 0), strict=True))
    assert sum(before[name] != after[name] for name in ids) <= 2
    assert seeded_split(ids, 0.3, 1) != seeded_split(ids, 0.3, 0)


def test_the_group_in_an_id() -> None:
    assert group_of("patient01_slice3", None) == "patient01_slice3"
    assert group_of("patient01_slice3", r"^(patient\d+)_") == "patient01"
    assert group_of("patient01_slice3", r"patient\d+") == "patient01"
    for pattern in (r"^(\d+)", r"^(x?)"):
        with pytest.raises(DatasetError, match="finds no group in the id 'patient01'"):
            group_of("patient01", pattern)


def test_a_parted_group_is_named() -> None:
    with pytest.raises(DatasetError, match=r"the group 'p1' is parted over test \('b'\) and train \('a'\)"):
        refuse_parted_groups(
            [("a", "p1", "train"), ("c", "p2", "test"), ("b", "p1", "test")], Path("split.csv")
        )


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_split_csv_as_people_write_it(tmp_path: Path) -> None:
    path = write(
        tmp_path / "split.csv",
        "ID; Split ;group\na.png; Train;p1\nsub\\b;VALIDATION;\n\nc;test;p2\n",
        "utf-8-sig",
    )
    rows = read_split_csv(path)
    assert [(row.id, row.split, row.group) for row in rows] == [
        ("a.png", "train", "p1"),
        ("sub/b", "val", ""),
        ("c", "test", "p2"),
    ]
    short = write(path, "id,split,group\na,train\n")
    assert read_split_csv(short)[0].group == ""


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no column 'id'"),
        ("a,train\nb,test\n", "no column 'id'"),
        ("id,group\na,p1\n", "no column 'split'"),
        ("id,split\na,train\nb,holdout\n", "line 3: 'holdout' is not a split"),
        ("id,split\na,\n", "line 2: '' is not a split"),
        ("id,split\na,train\na,test\n", "the id 'a' is in lines 2 and 3"),
    ],
)
def test_split_csv_that_is_wrong(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        read_split_csv(write(tmp_path / "split.csv", text))


def test_split_csv_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_bytes(b"\xff\xfe\x00id")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_split_csv(tmp_path / "split.csv")
