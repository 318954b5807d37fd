"""The options that say how a dataset is read, the same for every command that reads one."""

from __future__ import annotations

import typer

READER = typer.Option(
    None,
    metavar="NAME|FILE.py:CLASS",
    help="Reader of the dataset. The default is the one that recognises the folder.",
)
MASKS = typer.Option(
    "auto",
    help="What a mask's values mean: binary (one object), classes (a class each), instances (an object each), "
    "components (every connected region is an object), or auto, which looks at all of them.",
)
UNLABELLED = typer.Option(False, "--unlabelled", help="Keep images that have no mask.")
GROUP_REGEX = typer.Option(
    None, help="Regular expression that finds the group (patient) in an id. Its first capture group counts."
)
TEST_FRACTION = typer.Option(
    0.3, help="Share of the images that is kept for test, in whole groups, where the dataset has no split."
)
VAL_FRACTION = typer.Option(
    0.0, help="Share of the training images that is set apart for validation, in whole groups."
)
SPLIT_SEED = typer.Option(0, help="Seed of the splits that are drawn here. Another seed draws other ones.")
MAX_PIXELS = typer.Option(100_000_000, help="Images of more pixels are refused before they are decoded.")
