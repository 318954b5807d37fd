"""The paper's tables from rows of results: shapes, marks, blanks, notes and formats."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import pytest

from casam_cache.bench.paper_sets import TABLE_8, TASKS
from casam_cache.errors import OptionError
from casam_cache.metrics.columns import facts_of
from casam_cache.metrics.registry import STANDARD
from casam_cache.report.figures import figure_6_picture
from casam_cache.report.formats import to_csv, to_latex, to_markdown, to_text
from casam_cache.report.layout import Cell, Line, Table
from casam_cache.report.paired import paired_table
from casam_cache.report.paper_tables import SHAPES, paper_table

ORDERS = [("ACDC", "Kvasir", "liver"), ("liver", "ACDC", "Kvasir"), ("Kvasir", "liver", "ACDC")]


def row(
    method: str, last: float, order: tuple[str, ...] = ORDERS[0], seed: int = 0, **further: Any
) -> dict[str, Any]:
    """A row of results whose figures all follow from `last`."""
    figures = {
        "last_iou": last, "avg_iou": last + 0.01, "ff_iou": 0.9 - last, "last_biou": last - 0.1,
        "avg_biou": last - 0.09, "ff_biou": 1 - last, "ood_iou": 0.5, "ood_biou": 0.4, "ood_accuracy": None,
    }  # fmt: skip
    matrix = {"tasks": list(order), "iou": [[last] * len(order)], "biou": [[last - 0.1] * len(order)]}
    return {
        "key": f"{method}{last}{seed}", "method": method, "label": method, "model": "small", "router": None,
        "options": {"epochs": 24, "learning_rate": 1e-4, "batch_size": 6, "box_share": 0.5}, "weight": "images",
        "forgetting": "paper", "evaluate": "test", "prompt": "oracle box", "order": list(order), "seed": seed,
        "parameters": 221961, "gflops": 12.34, "unseen": {}, "matrix": matrix, **figures, **further,
    }  # fmt: skip


def varied(option: str, values: list[Any], **further: Any) -> list[dict[str, Any]]:
    """Rows of CA-SAM with several values of an option."""
    return [
        row(
            "ca-sam",
            0.6 + 0.01 * place,
            label=f"ca-sam, {option}={value}",
            options={option: value},
            **further,
        )
        for place, value in enumerate(values)
    ]


def report(rows: list[dict[str, Any]], table: str, **recipe: Any) -> Table:
    return paper_table(rows, table, title=f"results: {table}", recipe=recipe)


def line(table: Table, label: str, source: str, section: int = 0) -> Line:
    (found,) = [
        each for each in table.sections[section].lines if (each.label, each.source) == (label, source)
    ]
    return found


def test_table_1_has_ours_above_the_papers_and_blanks_where_nothing_applies():
    blank = dict.fromkeys(("avg_iou", "ff_iou", "avg_biou", "ff_biou"))
    rows = [row("joint", 0.9, **blank), row("naive", 0.2), row("ca-sam", 0.7), row("mine", 0.5)]
    table = report(rows, "table1")
    labels = [(each.label, each.source) for each in table.sections[0].lines]
    assert labels[:2] == [("Joint training", "ours"), ("Joint training", "paper")]
    assert labels.index(("CA-SAM", "paper")) == labels.index(("CA-SAM", "ours")) + 1
    assert labels[-1] == ("mine", "ours")
    assert ("LwF", "paper") in labels
    assert ("LwF", "ours") not in labels
    assert set(line(table, "Joint training", "ours").cells) == {"last_iou", "last_biou"}
    assert line(table, "CA-SAM", "paper").cells["ff_biou"].text == "0.24"
    assert line(table, "SAM + AL(naive)", "paper").cells["last_iou"].text == "14.38"
    assert " 0.00" not in to_text(table)


def test_best_and_second_best_are_of_ours_only_and_never_the_upper_bound():
    rows = [
        row("joint", 0.9),
        row("naive", 0.2),
        row("ca-sam", 0.7),
        row("er", 0.5),
        row("emr", 0.8, router="oracle"),
    ]
    table = report(rows, "table1")
    marks = {
        (each.label, each.source): each.cells["last_iou"].mark
        for each in table.sections[0].lines
        if each.cells
    }
    assert {key: mark for key, mark in marks.items() if mark} == {
        ("CA-SAM", "ours"): "best",
        ("ER", "ours"): "second",
    }
    assert line(table, "CA-SAM", "ours").cells["ff_iou"].mark == "best", "lower is better"
    assert ("EMR (task told)", "ours") in marks
    notes = " ".join(table.notes)
    assert "sees all tasks at once: joint" in notes
    assert "told the task of each test image (not ranked): emr" in notes


def test_values_that_print_alike_share_a_mark_and_a_column_of_equals_has_none():
    table = report([row("er", 0.50001), row("ewc", 0.50002), row("naive", 0.3)], "table1")
    marks = [line(table, name, "ours").cells["last_iou"].mark for name in ("ER", "EWC", "SAM + AL(naive)")]
    assert marks == ["best", "best", "second"]
    assert not line(report([row("er", 0.5), row("ewc", 0.5)], "table1"), "ER", "ours").cells["last_iou"].mark


def test_means_over_orders_carry_their_interval():
    rows = [row("er", last, order) for last, order in zip((0.5, 0.6, 0.7), ORDERS, strict=True)]
    cell = line(report(rows, "table1"), "ER", "ours").cells["last_iou"]
    assert cell.number == pytest.approx(60)
    assert cell.half == pytest.approx(4.302653 * 10 / math.sqrt(3), rel=1e-6)
    assert cell.text == "60.00 ± 24.84"
    assert "1 seed and 3 orders" in " ".join(report(rows, "table1").notes)
    alone = report(rows[:1], "table1")
    assert line(alone, "ER", "ours").cells["last_iou"].text == "50.00"
    assert "a single seed and order" in " ".join(alone.notes)


def test_configurations_of_one_method_keep_their_labels():
    rows = [row("ca-sam", 0.7, label="ca-sam, router=vae"), row("ca-sam", 0.6, label="ca-sam, router=knn")]
    labels = [each.label for each in report(rows, "table1").sections[0].lines]
    place = labels.index("ca-sam, router=vae")
    assert labels[place : place + 3] == ["ca-sam, router=vae", "ca-sam, router=knn", "CA-SAM"]


def test_table_2_shows_the_signed_difference_and_the_papers_sets():
    unseen = {
        "camo": {"iou": 0.6, "biou": 0.4, "frozen_iou": 0.65, "frozen_biou": 0.4},
        "tumours": {"iou": 0.5, "biou": None, "frozen_iou": 0.48, "frozen_biou": None},
    }
    table = report([row("ca-sam", 0.7, unseen=unseen, ood_accuracy=0.93)], "table2")
    ours, theirs = line(table, "CA-SAM", "ours"), line(table, "CA-SAM", "paper")
    assert [column.group for column in table.sections[0].columns] == [
        "camo",
        "camo",
        "tumours",
        "tumours",
        "all",
    ]
    assert ours.cells["iou:CAMO"].text == "60.00 (-5.00)"
    assert ours.cells["iou:tumours"].text == "50.00 (+2.00)"
    assert "biou:tumours" not in ours.cells
    assert ours.cells["ood_accuracy"].text == "93.00"
    assert theirs.cells == {"iou:CAMO": Cell("62.37 (5.23)", 62.37), "biou:CAMO": Cell("39.60 (3.45)", 39.6)}
    assert table.sections[1].title == "Table 2 of the paper, on its own datasets"
    assert len(table.sections[1].columns) == 10


def test_tables_3_and_7():
    rows = [row("frozen", 0.4, parameters=0, gflops=None), row("alignment", 0.6), row("decoder", 0.5)]
    table = report(rows, "table3_7")
    ours = line(table, "CA-SAM", "ours")
    assert (ours.cells["parameters"].text, ours.cells["gflops"].text) == ("0.22M", "12.3 (6.2)")
    assert (ours.cells["iou"].text, ours.cells["biou"].text) == ("60.00", "50.00")
    assert "gflops" not in line(table, "SAM", "ours").cells
    turned = report([row("alignment", 0.6, gflops=9.0), row("decoder", 0.5, gflops=7.0)], "table3")
    [order] = [note for note in turned.notes if note.startswith("The order differs")]
    assert (
        order
        == "The order differs: Tuning Decoder [17] costs less than CA-SAM (Ours) in ours and more in the paper."
    )
    same = report([row("alignment", 0.6, gflops=7.0), row("decoder", 0.5, gflops=9.0)], "table3")
    assert not any("order differs" in note for note in same.notes)
    assert line(table, "SAMMed 2D", "paper").cells["gflops"].text == "728.2"
    iou, biou = table.sections[1:3]
    assert [column.label for column in iou.columns] == ["Parameters", "ACDC", "Kvasir", "liver", "Average"]
    assert line(table, "Zero-Shot", "ours", 1).cells["parameters"].text == "0 M"
    assert line(table, "CA-SAM", "paper", 1).cells["task:Polyp"].text == "65.02", (
        "Kvasir is the paper's Polyp"
    )
    assert "average" not in line(table, "CA-SAM", "paper", 1).cells, "an average over other datasets"
    assert line(table, "CA-SAM", "ours", 2).cells["task:liver"].text == "50.00"
    assert biou.title == "Table 7: BIoU of each task"
    assert [section.title for section in table.sections[3:]] == [
        "Table 7 of the paper, on its own datasets: IoU", "Table 7 of the paper, on its own datasets: BIoU",
    ]  # fmt: skip
    complete = report([row("alignment", 0.6, TASKS)], "table7")
    assert len(complete.sections) == 2
    assert line(complete, "CA-SAM", "paper").cells["average"].text == "80.15"


def test_table_7_without_a_set_of_the_paper_leaves_its_rows_to_their_own_section():
    table = report([row("alignment", 0.6, ("a", "b"), parameters=4675)], "table7")
    assert {each.source for each in table.sections[0].lines} == {"ours"}
    assert line(table, "alignment", "ours").cells["parameters"].text == "0.00468M"
    assert line(table, "CA-SAM", "paper", 2).cells["average"].text == "80.15"


def test_no_negative_zero():
    assert (
        line(report([row("er", 0.5, ff_iou=-0.00001)], "table1"), "ER", "ours").cells["ff_iou"].text == "0.00"
    )


def test_table_4():
    distances = {"dn": {"before": {"tv": 0.31, "js": 0.2}, "after": {"tv": 0.3, "js": None}}}
    table = report([row("alignment", 0.6, distances=distances)], "table4")
    assert [section.title for section in table.sections] == ["56Nx", "dn"]
    assert line(table, "Before vs Adapter", "ours", 1).cells["tv"].text == "0.3100"
    assert set(line(table, "After vs Adapter", "ours", 1).cells) == {"tv"}
    assert line(table, "After vs Adapter", "paper", 1).cells["js"].text == "0.2365"
    assert {each.source for each in table.sections[0].lines} == {"paper"}
    assert "tuned encoder is the frozen one" not in " ".join(table.notes)
    distances["liver"] = {"before": {"tv": 1e-5, "js": 0.0}, "after": {"tv": 0.4, "js": 0.2}}
    table = report([row("alignment", 0.6, distances=distances)], "table4")
    assert "The tuned encoder is the frozen one, so there is nothing to come nearer to: liver." in table.notes


def test_table_5_puts_each_pooling_beside_the_papers():
    rows = [
        row("ca-sam", 0.6, label=name, options={"pooling": name, "beta": 16.5, "temperature": 1.0})
        for name in ("gap", "learned")
    ]
    table = report(rows, "table5")
    assert line(table, "Global Average Pooling", "ours").cells["hyper"].text == "β=16.5"
    assert line(table, "Attn Pooling (With Params)", "ours").cells["hyper"].text == "β=16.5, temp = 1"
    assert line(table, "Flatten", "paper").cells["last_iou"].text == "24.06"


def test_tables_6_and_9_say_where_thresholds_are_infinite():
    taus = {"ACDC": 0.08134, "Kvasir": 0.5, "liver": None}
    table = report(varied("threshold", ["p97", "conformal"], thresholds=taus, ood_accuracy=0.99), "table6_9")
    assert line(table, "p97", "ours").cells["ood_accuracy"].text == "99.00"
    assert line(table, "p97", "paper").cells["ood_accuracy"].text == "99.42"
    thresholds = line(table, "p97", "ours", 1).cells
    assert {key: cell.text for key, cell in thresholds.items()} == {
        "task:ACDC": "0.0813", "task:Polyp": "0.5000", "task:liver": "∞",
    }  # fmt: skip
    assert line(table, "p97", "paper", 1).cells["task:ACDC"].text == "0.0813"
    assert "so never a fallback): liver." in " ".join(table.notes)
    only = report([*varied("threshold", ["p97"], thresholds=taus), row("er", 0.5)], "table1")
    assert "so never a fallback): liver." in " ".join(only.notes)


@pytest.mark.parametrize(
    ("table", "option", "values", "labels"),
    [
        ("table10", "temperature", [16.0, 0.1, 3.0], ["T=0.1", "T=3", "T=16"]),
        ("table11", "beta", [0.5, 0.0, 16.5], ["β=0", "β=0.5", "β=16.5"]),
    ],
)
def test_tables_10_and_11_put_values_in_their_numeric_place(
    table: str, option: str, values: list, labels: list
):
    found = report(varied(option, values), table)
    lines = found.sections[0].lines
    assert [each.label for each in lines if each.source == "ours"] == labels
    assert sum(each.source == "paper" for each in lines) == (8 if table == "table10" else 36)
    places = [lines.index(each) for each in lines if each.label == labels[1]]
    assert len(places) == 1, "the paper does not have it"
    assert lines[places[0] - 1].source == "paper"
    assert len(found.sections[0].columns) == 11
    assert "known_iou" not in line(found, labels[0], "ours").cells


def test_table_8_has_a_section_an_order():
    own = report([row("naive", 0.3, order) for order in ORDERS], "table8")
    assert [section.title.split(":")[0] for section in own.sections] == [
        "order 1", "order 2", "order 3", "the paper's order 1", "the paper's order 2", "the paper's order 3",
    ]  # fmt: skip
    assert {each.source for each in own.sections[0].lines} == {"ours"}
    renamed = tuple({"Polyp": "kvasir"}.get(task, task.lower()) for task in TABLE_8[1])
    same = report([row("naive", 0.3, renamed)], "table8")
    assert same.sections[0].title.startswith("order 1 (Table 8's order 2): ebhi-seg → kvasir")
    assert line(same, "SAM + AL(naive)", "paper").cells["last_iou"].text == "13.13"
    assert len(same.sections) == 3


def test_figure_6_as_table_and_picture():
    rows = [
        row("alignment", 0.5 + 0.01 * blocks + 0.001 * epochs, seed=seed, options={"blocks": blocks, "epochs": epochs})
        for blocks in (1, 2) for epochs in (6, 12) for seed in (0, 1)
    ]  # fmt: skip
    table = report(rows, "figure6")
    assert [section.title for section in table.sections] == ["Average IoU", "Average BIoU"]
    assert line(table, "2 blocks", "ours").cells["12"].text == "53.20"
    assert line(table, "2 blocks", "ours").cells["12"].mark == "best"
    drawn = figure_6_picture(rows, "svg", title="Figure 6")
    assert drawn == figure_6_picture(rows, "svg", title="Figure 6")
    assert b"2 blocks" in drawn
    assert figure_6_picture(rows[:2], "png").startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no result has"):
        figure_6_picture([row("naive", 0.3)], "svg")


def test_figure_6_counts_steps_where_the_recipe_does():
    options = {"blocks": 1, "epochs": 1, "min_steps": 60, "max_steps": 60}
    table = report([row("alignment", 0.5, options=options)], "figure6")
    assert [column.label for column in table.sections[0].columns] == ["60 steps"]
    table = report([row("alignment", 0.5, options={**options, "max_steps": 90})], "figure6")
    assert [column.label for column in table.sections[0].columns] == ["1 epoch"]


def test_routers_side_by_side():
    further = {"routing_accuracy": 0.9, "oracle_last_iou": 0.75, "oracle_ff_iou": 0.0, "ood_accuracy": 0.8}
    rows = [
        row("ca-sam", 0.7, label="vae", router="vae", **further),
        row("ca-sam", 0.6, label="knn", **further),
    ]
    table = report([*rows, row("naive", 0.2)], "routers")
    assert [each.label for each in table.sections[0].lines] == ["vae", "knn"]
    cells = line(table, "vae", "ours").cells
    assert cells["oracle_ff_iou"].text == "0.00", "a true zero is shown"
    assert (cells["last_iou"].mark, cells["oracle_last_iou"].mark) == ("best", "")
    assert "vae 75.00 (-5.00 by routing)" in " ".join(table.notes)


def test_notes_say_what_differs_from_the_paper():
    options = {"epochs": 12, "learning_rate": 0.001, "batch_size": 6, "box_share": 1.0}
    rows = [row("er", 0.5, options=options, weight="masks", forgetting="mammoth", evaluate="val")]
    notes = " ".join(report(rows, "table1", select="iou").notes)
    for text in (
        "backbone small", "3 tasks: ACDC, Kvasir, liver", "with our images and splits: ACDC, Kvasir",
        "weighted by masks", "Mammoth's", "val split", "oracle box", "epochs 12 (the paper: 24)",
        "learning_rate 0.001 (the paper: 0.0001)", "share of box prompts in training 1", "chosen by iou",
    ):  # fmt: skip
        assert text in notes
    assert "batch_size" not in notes
    limited = {**options, "max_steps": 60}
    untrained = row("frozen", 0.4, options={**options, "max_steps": 240, "learning_rate": 0.5})
    notes = " ".join(report([untrained, row("er", 0.5, options=limited)], "table1").notes)
    assert "at most 60 optimiser steps" in notes, "the frozen SAM is not trained"
    assert "0.5" not in notes.split("Training:")[1].split(".")[0]
    assert "none of these sets is one of the paper's" in " ".join(
        report([row("er", 0.5, ("a", "b"))], "table1").notes
    )


def test_a_task_without_defined_scores_is_named():
    matrix = {
        "tasks": ["ACDC", "liver"],
        "iou": [[0.5, None], [0.5, None]],
        "biou": [[0.5, None], [0.5, None]],
    }
    notes = " ".join(report([row("er", 0.5, ("ACDC", "liver"), matrix=matrix)], "table1").notes)
    assert "left out of every mean: liver" in notes


@pytest.mark.parametrize("name", SHAPES)
def test_every_table_prints_in_every_format_also_without_results(name: str):
    table = report([], name)
    assert to_text(table).startswith(f"results: {name}")
    assert to_markdown(table).startswith("### ")
    assert all("ours" not in line for line in to_csv(table).splitlines())
    assert r"\end{table*}" in to_latex(table)
    if name not in ("figure6", "routers"):
        assert any(each.source == "paper" for section in table.sections for each in section.lines)
    with pytest.raises(OptionError, match="unknown table"):
        report([], "table12")


def test_text():
    table = report([row("er", 0.5), row("naive", 0.3), row("ca-sam", 0.7)], "table1")
    lines = to_text(table).splitlines()
    header = next(line for line in lines if line.startswith("Method"))
    assert header.split() == ["Method", "from", "Last-IoU", "↑", "Avg-IoU", "↑", "FF-IoU", "↓", "Last-BIoU", "↑",
                              "Avg-BIoU", "↑", "FF-BIoU", "↓"]  # fmt: skip
    assert "IoU on Med" in lines[lines.index(header) - 1]
    ours = next(line for line in lines if line.startswith("CA-SAM"))
    assert ours.split()[:3] == ["CA-SAM", "ours", "70.00*"]
    assert lines[lines.index(ours) + 1].split()[:2] == ["paper", "76.12"]
    assert next(line for line in lines if line.startswith("ER")).split()[2] == "50.00+"


def test_markdown():
    table = report([row("er", 0.5), row("naive", 0.3), row("my_own", 0.7)], "table1")
    lines = to_markdown(table).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert any("**70.00**" in line and "my\\_own" in line for line in rows)
    assert any("*50.00*" in line for line in rows)
    assert "- **Best** and *second best* of ours." in lines
    groups = to_markdown(report([], "table2"))
    assert "DDTI IoU ↑" in groups


def test_csv_can_be_read_back():
    rows = [row("er", last, order) for last, order in zip((0.5, 0.6, 0.7), ORDERS, strict=True)]
    found = list(csv.DictReader(io.StringIO(to_csv(report(rows, "table1")))))
    (ours,) = [entry for entry in found if entry["from"] == "ours"]
    assert float(ours["Last-IoU"]) == pytest.approx(60)
    assert float(ours["Last-IoU ±"]) == pytest.approx(24.84, abs=0.01)
    (theirs,) = [entry for entry in found if entry["Method"] == "ER" and entry["from"] == "paper"]
    assert (theirs["Last-IoU"], theirs["Last-IoU ±"], theirs["FF-IoU"]) == ("59.19", "", "21.68")
    (joint,) = [entry for entry in found if entry["Method"] == "Joint training"]
    assert joint["FF-IoU"] == ""
    (naive,) = [entry for entry in found if entry["Method"] == "SAM + AL(naive)"]
    assert naive["Last-BIoU"] == "13.50", "with the digits the paper prints"
    unseen = list(csv.DictReader(io.StringIO(to_csv(report([], "table2")))))
    assert unseen[1]["DDTI IoU"] == "29.66"
    both = list(csv.DictReader(io.StringIO(to_csv(report([row("alignment", 0.6)], "table3_7")))))
    assert {entry["section"] for entry in both} >= {
        "Table 3: averages over the tasks",
        "Table 7: IoU of each task",
    }


def test_latex_escapes_what_it_must():
    table = report([row("my_own", 0.5, label="50% & more_"), row("er", 0.4)], "table1")
    text = to_latex(table)
    assert r"50\% \& more\_ & ours & \textbf{50.00}" in text
    assert r"\underline{40.00}" in text
    assert r"\multicolumn{3}{c}{IoU on Med} & \multicolumn{3}{c}{BIoU on Med}" in text
    assert r"Last-IoU $\uparrow$" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.replace(r"\&", "").count("&") for line in body} == {7}
    assert r"$\beta$=16.5" in to_latex(report([], "table5"))


def test_paired_tests_as_a_table():
    test = {
        "first": "ca-sam", "second": "er", "metric": "iou", "difference": 0.0312, "low": -0.001, "high": 0.06,
        "p": 0.04, "p_holm": 0.12, "groups": 31,
    }  # fmt: skip
    undefined = {
        **test,
        "second": "lwf",
        "low": None,
        "high": None,
        "p": None,
        "p_holm": None,
        "groups": 1,
    }
    table = paired_table([test, undefined], facts_of(STANDARD))
    (section,) = table.sections
    assert [cell.text for cell in section.lines[0].cells.values()] == [
        "+3.12", "-0.10", "+6.00", "0.0400", "0.1200", "31",
    ]  # fmt: skip
    assert set(section.lines[1].cells) == {"difference", "groups"}
    assert section.lines[0].label == "ca-sam - er"
    assert "ca-sam - lwf" in to_text(table)
    assert to_text(paired_table([], facts_of(STANDARD))).startswith("Paired tests")
