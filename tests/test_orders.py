"""Orders of tasks, and which stores are tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from casam_cache.bench.orders import random_orders, read_orders
from casam_cache.bench.paper_sets import TABLE_8, TASKS, UNSEEN, paper_name, split_stores
from casam_cache.errors import OptionError

OWN = ["liver", "Kidney", "polyps", "teeth"]


def tasks_of(spec: object, names: list[str], count: int = 1, order_seed: int = 0) -> list[tuple[str, ...]]:
    return [order.tasks for order in read_orders(spec, names, count, order_seed)]  # type: ignore[arg-type]


def test_names_of_the_paper_are_known_in_any_spelling():
    assert paper_name("acdc") == "ACDC"
    assert paper_name("MSD prostate") == paper_name("msd-prostate") == "MSD_Prostate"
    assert paper_name("Ployp") == paper_name("Kvasir-SEG") == "Polyp"
    assert paper_name("STS2D") == "STS-2D"
    assert paper_name("busi_Malignant") == "BUSI_malignant"
    assert paper_name("Glomeruli-A") is None


def test_every_order_of_the_paper_has_its_nine_tasks():
    for order in TABLE_8:
        assert sorted(order) == sorted(TASKS)
    assert len(TASKS) == 9
    assert len(set(UNSEEN)) == 5


def test_paper_order_is_the_papers_for_its_tasks_and_sorted_for_others():
    assert tasks_of("paper", ["sts_2d", "kvasir", "dn", "ACDC"]) == [("ACDC", "dn", "kvasir", "sts_2d")]
    assert read_orders("paper", list(TASKS))[0].name == "paper"
    assert tasks_of("paper", OWN) == [("Kidney", "liver", "polyps", "teeth")]
    assert tasks_of("paper", ["Polyp", "Kvasir"]) == [("Kvasir", "Polyp")], (
        "two of the same set: no order of the paper"
    )


def test_table_8_orders_fall_back_to_random_ones():
    assert tasks_of("table8", list(TASKS), 3) == [*TABLE_8]
    assert tasks_of("table8", list(TASKS), 2) == [*TABLE_8[:2]]
    assert [order.name for order in read_orders("table8", OWN, 3)] == ["random-0", "random-1", "random-2"]
    more = read_orders("table8", list(TASKS), 5)
    assert [order.name for order in more] == ["table8-1", "table8-2", "table8-3", "random-0", "random-1"]


def test_more_orders_begin_with_the_same_ones():
    five, fifteen = random_orders(OWN, 5), random_orders(OWN, 15)
    assert fifteen[:5] == five
    assert len({order.tasks for order in fifteen}) == 15
    assert random_orders(OWN[::-1], 5) == five
    assert random_orders(OWN, 5, order_seed=1) != five
    assert tasks_of("paper", OWN, 14)[:4] == tasks_of("paper", OWN, 4)


def test_all_orders_of_few_tasks_and_no_more():
    assert sorted(tasks_of("random", ["a", "b", "c"], 6)) == sorted(
        {order.tasks for order in random_orders("abc", 6)}
    )
    assert tasks_of("paper", ["b", "a"], 2) == [("a", "b"), ("b", "a")]
    with pytest.raises(OptionError, match="7 orders of 3 tasks"):
        random_orders("abc", 7)
    with pytest.raises(OptionError, match="3 orders of 2 tasks"):
        read_orders("paper", ["a", "b"], 3)


def test_orders_given(tmp_path: Path):
    assert tasks_of("b,a, c", ["a", "b", "c"]) == [("b", "a", "c")]
    assert tasks_of(["b", "a"], ["a", "b"]) == [("b", "a")]
    assert tasks_of([["b", "a"], ["a", "b"]], ["a", "b"]) == [("b", "a"), ("a", "b")]
    assert tasks_of("a", ["a"]) == [("a",)]
    lines = tmp_path / "order.txt"
    lines.write_text("# ours\nEBHI-SEG\n\nb c\n")
    assert tasks_of(str(lines), ["b c", "EBHI-SEG"]) == [("EBHI-SEG", "b c")]
    several = tmp_path / "orders.yaml"
    several.write_text("- [a, b]\n- [b, a]\n")
    assert [order.name for order in read_orders(str(several), ["a", "b"])] == ["given-1", "given-2"]
    assert [order.name for order in read_orders(["b", "a"], ["a", "b"], 2)] == ["given-1", "random-0"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a,b", "the order lacks c"),
        ("a,b,c,d", "unknown task 'd'"),
        ("a,b,c,a", "'a' twice"),
        ("alphabetical", "neither a file nor a list"),
        ([["a", "b", "c"], ["a", "b"]], "order 2 lacks c"),
    ],
)
def test_wrong_orders_say_what_is_wrong(spec: object, message: str):
    with pytest.raises(OptionError, match=message) as caught:
        read_orders(spec, ["a", "b", "c"])  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "order.yaml"
    path.write_text("[a, b")
    with pytest.raises(OptionError, match=r"order\.yaml cannot be read"):
        read_orders(str(path), ["a", "b"])


def test_tasks_and_unseen_sets_are_kept_apart():
    stores = ["CAMO", "liver", "BUSI", "ddti", "acdc"]
    assert split_stores(stores, "all", "none") == (sorted(stores), [])
    assert split_stores(stores, "all", "paper") == (["acdc", "liver"], ["ddti", "CAMO", "BUSI"])
    assert split_stores(stores, ["liver"], ["acdc"]) == (["liver"], ["acdc"])
    assert split_stores(stores, ["CAMO"], "paper") == (["CAMO"], ["ddti", "BUSI"])
    with pytest.raises(OptionError, match="unknown task 'spleen'"):
        split_stores(stores, ["spleen"], "none")
    with pytest.raises(OptionError, match="both a task to learn and an unseen set"):
        split_stores(stores, ["acdc"], ["acdc"])
    with pytest.raises(OptionError, match="twice"):
        split_stores(stores, ["acdc", "acdc"], "none")
    with pytest.raises(OptionError, match="no task"):
        split_stores(["CAMO"], "all", "paper")
