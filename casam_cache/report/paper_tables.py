"""From rows of results to the paper's tables, with its own figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from casam_cache.errors import unknown_name
from casam_cache.report.conditions import conditions
from casam_cache.report.configurations import Row, gather
from casam_cache.report.layout import Section, Table
from casam_cache.report.layouts.ablations import table_5, table_6, table_9, table_10, table_11
from casam_cache.report.layouts.blocks import figure_6
from casam_cache.report.layouts.continual import table_1, table_8
from casam_cache.report.layouts.distance import table_4, untuned_note
from casam_cache.report.layouts.routers import routers
from casam_cache.report.layouts.single import flops_notes, table_3, table_7
from casam_cache.report.layouts.unseen import table_2
from casam_cache.report.paper import paper_figures

_Shape = Callable[[Sequence[Row]], list[Section]]

# name -> header of the labels, tables of the paper, shapes
SHAPES: dict[str, tuple[str, tuple[str, ...], tuple[_Shape, ...]]] = {
    "table1": ("Method", ("1",), (table_1,)),
    "table2": ("Method", ("2",), (table_2,)),
    "table3": ("Methods", ("3",), (table_3,)),
    "table3_7": ("Methods", ("3", "7"), (table_3, table_7)),
    "table4": ("Distance", ("4",), (table_4,)),
    "table5": ("Method", ("5",), (table_5,)),
    "table6": ("Parameter", ("6",), (table_6,)),
    "table6_9": ("Parameter", ("6", "9"), (table_6, table_9)),
    "table7": ("Methods", ("7",), (table_7,)),
    "table8": ("Method", ("8",), (table_8,)),
    "table9": ("Parameter", ("9",), (table_9,)),
    "table10": ("Parameter", ("10",), (table_10,)),
    "table11": ("Parameter", ("11",), (table_11,)),
    "figure6": ("Alignment Layer", (), (figure_6,)),
    "routers": ("Router", (), (routers,)),
}

_NOTES = {
    "table2": "In brackets: difference to the frozen SAM on the same masks, signed in ours. Acc: share of unseen "
    "images sent to the frozen SAM; only routed methods have one.",
    "table3": "Average over the tasks, weighted as said. FLOPs hold the encoder's forward pass in every row; a cache "
    "spends it once an image, SAM-Med2D's adapters train through it at every step.",
    "table4": "Ours: JS in nats, one histogram a channel, mean over the channels, over bins that all three sets share "
    "(between their 0.1 and 99.9 percentiles, the rest in the outer ones); the paper states "
    "neither base nor histograms, and its JS is larger than nats allow beside its TV.",
    "table5": "Mean and global average pooling are one operation as the paper describes them, so both rows of ours are "
    "equal. Flatten of ours: a fixed projection drawn from a seed; a learned one would have 268 million parameters.",
    "table6": "Acc: share of unseen images sent to the frozen SAM.",
    "table9": "∞: the rule needs more calibration scores than the task has, so nothing falls back. Scores depend on "
    "the backbone's features: thresholds of different backbones cannot be compared.",
    "table10": "Acc: share of unseen images sent to the frozen SAM. IoU(Med), BIoU(Med): the paper does not say how "
    "they differ from Last; ours has no other value than Last.",
    "routers": "Routing accuracy: share of the images of the tasks learnt sent to their own head, a fallback counting "
    "as wrong. OOD accuracy: share of unseen images sent to the frozen SAM. Task told: the same heads, no router.",
    "figure6": "The paper gives no numbers for its Figure 6.",
}
_NOTES["table11"] = _NOTES["table10"]
_PARTS = {"table3_7": ("table3",), "table6_9": ("table6", "table9")}


def paper_table(rows: Sequence[Row], table: str, *, title: str, recipe: Mapping[str, Any]) -> Table:
    """One table in the paper's shape.

    Args:
        rows: results, as in results.json.
        table: `table1` ... `table11`, `table3_7`, `table6_9`, `figure6`, or `routers`, which the paper does not have.
        title: over it.
        recipe: what was run, as `Recipe.model_dump`; may be empty.

    Returns:
        The table; what does not apply is blank, and without rows it holds the paper's figures alone.

    Raises:
        OptionError: no such table.
    """
    if table not in SHAPES:
        raise unknown_name("table", table, list(SHAPES))
    heading, numbers, shapes = SHAPES[table]
    sections = tuple(section for shape in shapes for section in shape(rows))
    notes = [_NOTES[part] for part in _PARTS.get(table, (table,)) if part in _NOTES]
    if "3" in numbers:
        notes += flops_notes(rows)
    notes += untuned_note(rows)
    notes += [
        f"Table {number} of the paper: {note}" for number in numbers for note in paper_figures(number).notes
    ]
    return Table(table, title, heading, sections, (*conditions(gather(rows), recipe), *notes))
