"""The paper's own figures: the shape of every table, and cells read again from the paper."""

from __future__ import annotations

import pytest

from casam_cache.bench.paper_sets import TABLE_8, TASKS, UNSEEN
from casam_cache.report.paper import NUMBERS, paper_figures, printed_number

# rows, columns, printed values (blanks left out)
SHAPES = {
    "1": (12, 6, 64), "2": (4, 10, 40), "3": (5, 4, 18), "4": (4, 2, 8), "5": (6, 7, 42), "6": (4, 5, 20),
    "7": (10, 11, 110), "8": (19, 6, 114), "9": (4, 9, 36), "10": (8, 11, 88), "11": (36, 11, 396),
}  # fmt: skip

# table, what the row is of, column, value as printed
CELLS = [
    ("1", {"method": "joint"}, "last_iou", "78.43"),
    ("1", {"method": "joint"}, "last_biou", "61.26"),
    ("1", {"method": "frozen"}, "last_iou", "53.81"),
    ("1", {"method": "frozen"}, "last_biou", "36.52"),
    ("1", {"method": "naive"}, "ff_iou", "65.79%"),
    ("1", {"method": "lwf"}, "avg_iou", "30.77"),
    ("1", {"method": "ewc"}, "ff_biou", "42.16%"),
    ("1", {"method": "emr"}, "last_iou", "43.09"),
    ("1", {"method": "er"}, "ff_biou", "24.25%"),
    ("1", {"method": "der"}, "avg_biou", "42.20"),
    ("1", {"method": "l2p"}, "ff_iou", "1.55%"),
    ("1", {"method": "moda-hq"}, "last_biou", "55.52"),
    ("1", {"method": "moda"}, "last_iou", "70.64"),
    ("1", {"method": "ca-sam"}, "last_iou", "76.12"),
    ("1", {"method": "ca-sam"}, "ff_biou", "0.24%"),
    ("2", {"method": "frozen"}, "iou:DDTI", "78.08"),
    ("2", {"method": "moda"}, "iou:BUSI_benign", "10.06 (65.67)"),
    ("2", {"method": "lwf"}, "biou:Brain_Tumor", "27.46 (33.43)"),
    ("2", {"method": "ca-sam"}, "iou:Brain_Tumor", "52.85 (0.00)"),
    ("2", {"method": "ca-sam"}, "biou:CAMO", "39.60 (3.45)"),
    ("3", {"method": "decoder"}, "gflops", "669.8"),
    ("3", {"method": "hq-sam"}, "parameters", "5.14M"),
    ("3", {"method": "sam-med2d"}, "iou", "75.17"),
    ("3", {"method": "alignment"}, "biou", "66.52"),
    ("3", {"method": "alignment"}, "gflops", "514.3"),
    ("4", {"task": "56Nx", "side": "before"}, "tv", "0.2830"),
    ("4", {"task": "56Nx", "side": "after"}, "js", "0.2351"),
    ("4", {"task": "DN", "side": "before"}, "js", "0.2404"),
    ("4", {"task": "DN", "side": "after"}, "tv", "0.2832"),
    ("5", {"pooling": "gap"}, "last_iou", "75.93"),
    ("5", {"pooling": "mean"}, "avg_iou", "76.91"),
    ("5", {"pooling": "flatten"}, "ff_iou", "7.55"),
    ("5", {"pooling": "cls"}, "last_biou", "31.23"),
    ("5", {"pooling": "learned"}, "avg_biou", "56.52"),
    ("5", {"pooling": "attention"}, "last_iou", "76.41"),
    ("5", {"pooling": "attention"}, "hyper", "β=16.5, temp = 1"),
    ("6", {"threshold": "mu2s"}, "last_iou", "75.84"),
    ("6", {"threshold": "p95"}, "ood_accuracy", "99.66"),
    ("6", {"threshold": "p97"}, "ood_iou", "55.92"),
    ("6", {"threshold": "p99"}, "last_biou", "59.71"),
    ("7", {"method": "frozen", "metric": "iou"}, "task:ACDC", "61.47"),
    ("7", {"method": "frozen", "metric": "iou"}, "parameters", "0 M"),
    ("7", {"method": "decoder", "metric": "iou"}, "task:MSD_Spleen", "91.98"),
    ("7", {"method": "hq-sam", "metric": "biou"}, "task:Polyp", "56.06"),
    ("7", {"method": "sam-med2d", "metric": "biou"}, "average", "58.97"),
    ("7", {"method": "alignment", "metric": "iou"}, "task:DN", "83.23"),
    ("7", {"method": "alignment", "metric": "iou"}, "average", "80.15"),
    ("7", {"method": "alignment", "metric": "biou"}, "task:STS-2D", "84.75"),
    ("8", {"method": "naive", "order": 1}, "last_iou", "25.27"),
    ("8", {"method": "l2p", "order": 1}, "avg_iou", "70.48"),
    ("8", {"method": "ca-sam", "order": 1}, "ff_biou", "1.84%"),
    ("8", {"method": "lwf", "order": 2}, "last_iou", "25.22"),
    ("8", {"method": "moda", "order": 2}, "ff_iou", "1.44%"),
    ("8", {"method": "ca-sam", "order": 3}, "last_iou", "76.19"),
    ("8", {"method": "er", "order": 3}, "avg_biou", "46.74"),
    ("9", {"threshold": "mu2s"}, "task:56Nx", "0.2121"),
    ("9", {"threshold": "p95"}, "task:Promise12", "0.1404"),
    ("9", {"threshold": "p97"}, "task:ACDC", "0.0813"),
    ("9", {"threshold": "p99"}, "task:STS-2D", "0.0729"),
    ("10", {"temperature": 0.1}, "last_iou", "76.04"),
    ("10", {"temperature": 0.25}, "ood_accuracy", "99.49"),
    ("10", {"temperature": 1}, "last_iou", "75.73"),
    ("10", {"temperature": 16}, "known_biou", "60.19"),
    ("11", {"beta": 0}, "last_iou", "44.81"),
    ("11", {"beta": 1}, "ood_accuracy", "14.07"),
    ("11", {"beta": 3.5}, "ood_biou", "52.82"),
    ("11", {"beta": 7}, "avg_iou", "75.25"),
    ("11", {"beta": 12.5}, "ff_iou", "2.03%"),
    ("11", {"beta": 16.5}, "last_iou", "76.12"),
    ("11", {"beta": 16.5}, "known_iou", "76.23"),
    ("11", {"beta": 18}, "known_biou", "59.71"),
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
def test_shape(number: str):
    table = paper_figures(number)
    values = sum(len(row.values) for row in table.rows)
    assert (len(table.rows), len(table.columns), values) == SHAPES[number]
    assert table.number == number
    assert len({column.key for column in table.columns}) == len(table.columns)
    assert len({tuple(sorted(row.match.items())) for row in table.rows}) == len(table.rows)
    for row in table.rows:
        for key, value in row.values.items():
            assert printed_number(value) is not None or key == "hyper"


@pytest.mark.parametrize(("number", "match", "column", "printed"), CELLS)
def test_cell(number: str, match: dict, column: str, printed: str):
    (row,) = paper_figures(number).rows_of(**match)
    assert row.values[column] == printed


def test_checksums_of_whole_columns():
    """Sums over columns, added up from the paper apart from the files."""
    tables = {number: paper_figures(number) for number in ("1", "5", "10")}
    sums = {
        number: sum(printed_number(row.values["last_iou"]) or 0 for row in table.rows)
        for number, table in tables.items()
    }
    assert sums["1"] == pytest.approx(627.91)
    assert sums["5"] == pytest.approx(373.00)
    assert sums["10"] == pytest.approx(607.30)


def test_published_averages_follow_from_neither_images_nor_tasks_alone():
    """78.58 from the image counts of appendix A, 80.15 printed: the note under Table 7."""
    images = {"ACDC": 177, "EBHI-SEG": 487, "56Nx": 463, "DN": 391, "Polyp": 196, "MSD_Prostate": 53}
    images |= {"MSD_Spleen": 146, "Promise12": 66, "STS-2D": 70}
    (row,) = paper_figures("7").rows_of(method="alignment", metric="iou")
    scores = {task: printed_number(row.values[f"task:{task}"]) or 0 for task in TASKS}
    weighted = sum(images[task] * scores[task] for task in TASKS) / sum(images.values())
    assert weighted == pytest.approx(78.58, abs=0.005)


def test_rows_are_the_papers_own():
    betas = [row.match["beta"] for row in paper_figures("11").rows]
    assert betas == [0, *(half / 2 for half in range(2, 37))], "0 and 1 to 18 in steps of a half: 36 values"
    assert [row.match["temperature"] for row in paper_figures("10").rows] == [0.1, 0.25, 0.5, 1, 2, 4, 8, 16]
    orders = list(dict.fromkeys(row.section for row in paper_figures("8").rows))
    assert orders == [" -> ".join(order) for order in TABLE_8]
    assert [column.label for column in paper_figures("9").columns] == list(TASKS)
    assert list(dict.fromkeys(column.group for column in paper_figures("2").columns)) == list(UNSEEN)


def test_printed_numbers():
    assert printed_number("65.79%") == 65.79
    assert printed_number("29.66 (48.42)") == 29.66
    assert printed_number("4.06M") == 4.06
    assert printed_number("β=16.5") is None
    with pytest.raises(KeyError):
        paper_figures("12")
