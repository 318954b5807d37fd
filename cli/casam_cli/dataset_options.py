"""The options that say how a dataset is read, the same for every command that reads one."""

from __future__ import annotations

import typer

MASKS = typer.Option("auto", help="auto | binary | classes | instances | components")
UNLABELLED = typer.Option(False, "--unlabelled", help="Accept images without masks.")
GROUP_REGEX = typer.Option(None, help="What of an id names its group (patient): first capture group.")
TEST_FRACTION = typer.Option(0.3, help="Share of images for test, in whole groups, where no split is given.")
VAL_FRACTION = typer.Option(0.0, help="Share of training images set apart for validation, in whole groups.")
SPLIT_SEED = typer.Option(0, help="Seed of the splits made here.")
MAX_PIXELS = typer.Option(100_000_000, help="Larger images are refused before they are decoded.")
