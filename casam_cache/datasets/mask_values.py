"""What the values of all masks of a dataset mean: decided once, and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from casam_cache.datasets.labels import MaskScan
from casam_cache.datasets.legend import Legend, lists_colours
from casam_cache.datasets.mask_edges import Edges, judge_colours, judge_lossy, judge_values
from casam_cache.datasets.mask_ground import filled, hidden_background, in_alpha, inverted, unfound
from casam_cache.datasets.named_values import GREY, parse_value, shown_value, value_in
from casam_cache.datasets.rings import ask_of_rings
from casam_cache.datasets.sample import MaskValues, Problem
from casam_cache.datasets.value_counts import ValueCounts, as_colours, merge_counts

Lossy = Literal["", "cut", "refused"]
MANY_CLASSES = 64
CODINGS = (1, 255, 65535)  # what stands for white in masks of 1, 8 and 16 bits
_FEW_PIXELS = 20
_FAINT_LABEL = 96  # of lossy labels as one thing: where no fainter one is known, all above half of it counts
_SMOOTHED = "lie between labels along edges, as smoothing leaves them"
_NO_AREAS = "fill no areas, as labels would: a photograph, or labels that were smoothed or compressed"
_AS_CLASSES = "--masks classes reads every value as a class"


@dataclass(frozen=True)
class Asked:
    """What the user said of a dataset's masks.

    Attributes:
        masks: the mask mode, which always holds. `classes`, and `instances` of label maps, take exact values as they
            are.
        folders: some sample has its masks as a folder with one file an object.
        background, ignore: as in `DatasetOptions`.
        legend: names of classes with their colours or values.
    """

    masks: str | None = None
    folders: bool = False
    background: str | None = None
    ignore: str | None = None
    legend: Legend = ()

    @property
    def exactly(self) -> bool:
        return self.masks == "classes" or (self.masks == "instances" and not self.folders)


def decide_values(scans: Sequence[MaskScan], asked: Asked = Asked()) -> tuple[MaskValues, list[Problem]]:
    """How the values of a dataset's masks are to be read.

    Args:
        scans: of all mask files; what cannot be read is left out.
        asked: what the user said of them.

    Returns:
        The reading, and what is to be said about it.

    Raises:
        OptionError: the background, or what is to be ignored, cannot be in such masks.
    """
    usable = [scan for scan in scans if scan.error is None]
    alpha, problems = in_alpha(usable)
    if alpha:
        usable = [
            replace(scan, counts=scan.alpha, coloured=False, grey=None) for scan in usable if scan.alpha
        ]
    colours = [scan for scan in usable if scan.coloured]
    coloured = bool(colours) and not _are_grey(usable, colours, asked)
    if asked.legend:
        coloured = lists_colours(asked.legend)
    background, ignore = (
        None if text is None else value_in(text, option, coloured)
        for text, option in ((asked.background, "--background"), (asked.ignore, "--ignore"))
    )
    absent = unfound(usable, coloured, {"--background": background, "--ignore": ignore})
    if any(problem.message.startswith("--background") for problem in absent):
        background = 0
    if ignore is not None:
        usable = [_without(scan, ignore, coloured) for scan in usable]
    if asked.legend:
        values, background = _by_legend(usable, asked, background)
        values = replace(values, background=background, ignore=ignore, alpha=alpha)
        return values, problems + absent
    decide = _colours if coloured else _greys
    values, said = decide(usable, asked, background or 0)
    if ignore is not None and values.lossy:
        values = replace(values, lossy="refused")
    values = replace(values, background=background, ignore=ignore, alpha=alpha)
    if ignore is None and not background and not values.soft and not values.refused:
        said += ask_of_rings([scan.ring for scan in usable], coloured)
    said += [*inverted(usable, values), *filled(usable, values)]
    return values, problems + absent + hidden_background(usable, values) + said


def _by_legend(
    usable: Sequence[MaskScan], asked: Asked, background: int | None
) -> tuple[MaskValues, int | None]:
    """The reading that a legend gives, and the background: what was named, else an entry of that name, else 0."""
    coloured = lists_colours(asked.legend)
    legend = tuple((name, parse_value(value, "--legend")[0]) for name, value in asked.legend)
    if background is None:
        background = next((value for name, value in legend if name.lower() == "background"), None)
    known = tuple(sorted({background or 0, *(value for _, value in legend)}))
    lossy: Lossy = "refused" if any(scan.lossy for scan in usable) else ""
    values = MaskValues(known, coloured, False, lossy, refused="not in the legend", legend=legend)
    return values, background


def _without(scan: MaskScan, ignore: int, coloured: bool) -> MaskScan:
    own = ignore // GREY if coloured and not scan.coloured else ignore
    grey = None if scan.grey is None else scan.grey.without(ignore)
    return replace(scan, counts=scan.counts.without(own), grey=grey)


def _are_grey(usable: Sequence[MaskScan], colours: Sequence[MaskScan], asked: Asked) -> bool:
    """Whether colours are those of a black and white picture that went through a lossy compression."""
    if any(scan.grey is None for scan in colours):
        return False
    background = 0 if asked.background is None else value_in(asked.background, "--background", False)
    many = len(merge_counts([scan.counts for scan in colours]).values)
    return (
        many > 16 and judge_values(merge_counts([_grey(scan) for scan in usable]), background).kind == "one"
    )


def _grey(scan: MaskScan) -> ValueCounts:
    return scan.counts if scan.grey is None else scan.grey


def _greys(usable: Sequence[MaskScan], asked: Asked, background: int) -> tuple[MaskValues, list[Problem]]:
    exact = [scan for scan in usable if not scan.lossy]
    smeared = [scan for scan in usable if scan.lossy]
    coded = {scan.path: _coding(scan) for scan in exact}
    used = sorted({white for white in coded.values() if white})
    # The files of another coding than most would look like a label of their own.
    highest = max((scan.values[-1] for scan in exact if scan.values), default=0)
    scale = next((white for white in CODINGS if highest <= white), highest)
    main = [scan for scan in exact if coded[scan.path] in (None, 0, scale)]
    edges = judge_values(merge_counts([_grey(scan) for scan in main]), background)
    faded = (
        judge_lossy(merge_counts([scan.counts for scan in smeared]), background)
        if smeared
        else Edges("labels")
    )
    binary = asked.masks == "binary"
    soft = edges.kind == "one" or (binary and edges.kind in ("several", "unclear", "unsure"))
    lossy: Lossy = "" if not smeared else "cut" if faded.kind == "one" else "refused"
    white = edges.white(background) if soft else faded.white(background) if lossy == "cut" else 255
    if binary and faded.kind == "several":
        lossy, white = (
            "cut",
            min(faded.white(background), _FAINT_LABEL) if background == 0 else faded.white(background),
        )
    whites = sorted({*used, *([max(white, background)] if soft or lossy == "cut" else [])})
    hard = not soft and all(coded[scan.path] is not None for scan in exact)
    if hard and len(whites) > 1 and set(whites) <= {*CODINGS, white, background}:
        soft = True
        white = max(255 if 255 in whites or lossy == "cut" else 65535, white)
        if background:
            white = 0
    problems = [] if asked.exactly else _said_of_edges(edges, asked.masks, main, (background, white))
    if asked.exactly:
        problems += _said_of_ignored(edges, soft and hard, asked.masks or "")
        soft = False
    elif soft and len(whites) > 1:
        problems.append(_mixed_codings(exact, coded, smeared if lossy == "cut" else []))
    refused = ""
    values = {background, white} if (soft and exact) or lossy == "cut" else set()
    if not soft and not asked.exactly and edges.kind in ("several", "unclear"):
        refused = _SMOOTHED if edges.kind == "several" else _NO_AREAS
        values |= set(edges.levels)
    elif not soft:
        for scan in exact:
            values.update(scan.values)
    if not soft and not refused:
        problems += _stray(exact, asked.masks, background)
    codings = _codings(exact, coded, max(white, background)) if soft else ()
    return MaskValues(tuple(sorted(values)), False, soft, lossy, white, codings, refused), problems


def _coding(scan: MaskScan) -> int | None:
    """The white of a file that holds black and one of `CODINGS` alone; 0 of an empty one; None of any other."""
    held = set(scan.values) - {0}
    if scan.coloured or len(held) > 1:
        return None
    white = held.pop() if held else 0
    return white if white in (0, *CODINGS) else None


def _codings(exact: Sequence[MaskScan], coded: dict[Path, int | None], white: int) -> tuple[int, ...]:
    """Which whites files use besides the main one; 1 is none where it is what a background wandered to."""
    found = {coding for coding in coded.values() if coding and coding != white}
    others = [_grey(scan) for scan in exact if coded[scan.path] != 1]
    total = merge_counts(others)
    ones = int(total.pixels[total.values == 1].sum())
    if ones > 0.1 * int(total.pixels.sum()):
        found -= {1}
    if any(scan.counts.values[-1] > 255 >= white for scan in exact if len(scan.counts.values)):
        found.add(65535)
    return tuple(sorted(found))


def _said_of_edges(
    edges: Edges, asked: str | None, files: Sequence[MaskScan], ends: tuple[int, int]
) -> list[Problem]:
    if edges.kind == "labels" or (edges.kind == "unsure" and asked not in (None, "binary", "components")):
        return []
    held = sum(len(_grey(scan).values) > 2 for scan in files)
    some = f"{held} of {len(files)} masks hold {edges.soft} value{'s' if edges.soft > 1 else ''}"
    if edges.kind == "one" or asked == "binary":
        between = f"{some} that soft edges leave between {min(ends)} and {max(ends)}"
        return [
            Problem(
                "masks", f"{between}: one thing, cut in the middle", _AS_CLASSES, "warning"
            )
        ]  # fmt: skip
    if edges.kind == "unsure":
        return [
            Problem(
                "masks",
                f"{some} that only lines along edges have: a class of outlines, or soft edges; read as a class",
                "--masks binary cuts it in the middle, --masks classes is what is read now",
                "warning",
            )
        ]
    return []  # every file that holds such values is an error of its own


def _said_of_ignored(edges: Edges, codings: bool, asked: str) -> list[Problem]:
    """Where the values were asked for as they are, though they do not look like labels."""
    if edges.kind in ("one", "several", "unclear"):
        message = f"{edges.soft} values lie along edges, as smoothing leaves them; each is read as asked"
        return [
            Problem("masks", message, f"without --masks {asked} this is decided by their place", "warning")
        ]
    if codings:
        message = "white is 1 in some masks and 255 in others; each is read as asked"
        return [Problem("masks", message, f"without --masks {asked} they are one thing", "warning")]
    return []


def _mixed_codings(
    exact: Sequence[MaskScan], coded: dict[Path, int | None], smeared: Sequence[MaskScan]
) -> Problem:
    parts = []
    for white in CODINGS:
        files = [scan for scan in exact if coded[scan.path] == white]
        if files:
            parts.append(f"0 and {white} in {len(files)} (such as {files[0].path.name})")
    other = [scan for scan in exact if coded[scan.path] is None]
    for name, some in (("soft edges", other), ("lossy values", smeared)):
        if some:
            parts.append(f"{name} in {len(some)} (such as {some[0].path.name})")
    message = f"masks in several codings: {', '.join(parts)}; read as one thing"
    return Problem("masks", message, f"{_AS_CLASSES} of its own", "warning")


def _stray(
    exact: Sequence[MaskScan], asked: str | None, background: int, coloured: bool = False
) -> list[Problem]:
    """Values that hardly any pixel has, though others fill areas: likely mistakes, and classes nevertheless."""
    if asked in ("instances", "binary"):
        return []
    total = merge_counts([scan.counts for scan in exact])
    outside = total.values != background
    most = int(total.pixels[outside].max(initial=0))
    if not 1 < outside.sum() <= MANY_CLASSES or most < 50 * _FEW_PIXELS:
        return []
    problems = []
    for value in total.values[outside & (total.pixels <= _FEW_PIXELS)].tolist():
        holders = [scan for scan in exact if value in scan.counts.values]
        pixels = int(total.pixels[total.values == value].sum())
        shown = shown_value(value, coloured)
        message = (
            f"the value {shown} is in {pixels} pixel{'s' if pixels > 1 else ''} of {len(holders)} "
            f"mask{'s' if len(holders) > 1 else ''} alone ({holders[0].path.name}), and a class of its own"
        )
        problems.append(Problem("masks", message, "correct the mask if it is a mistake", "warning"))
    return problems[:8]


def _colours(usable: Sequence[MaskScan], asked: Asked, background: int) -> tuple[MaskValues, list[Problem]]:
    smeared = [scan.counts for scan in usable if scan.lossy]
    total = merge_counts([_in_colours(scan) for scan in usable if not scan.lossy])
    edges = judge_colours(total, background)
    values, refused = tuple(total.values.tolist()), ""
    problems: list[Problem] = []
    soft = edges.kind == "one" and not asked.exactly
    white = edges.white(background)
    if soft:
        values = edges.levels
        message = (
            f"{edges.soft} colours that soft edges leave between #{background:06x} and #{white:06x}: "
            "one thing, cut in the middle"
        )
        problems.append(Problem("masks", message, _AS_CLASSES, "warning"))
    elif edges.kind in ("several", "unclear") and asked.masks in (None, "components"):
        values, refused = edges.levels, _SMOOTHED if edges.kind == "several" else _NO_AREAS
    elif edges.kind != "labels":
        problems += _said_of_ignored(edges, False, asked.masks or "")
    if not soft and not refused:
        problems += _stray([scan for scan in usable if scan.coloured], asked.masks, background, coloured=True)
    lossy: Lossy = "" if not smeared else "refused"
    if smeared and not soft and background == 0 and judge_lossy(merge_counts(smeared)).kind == "one":
        lossy, white = "cut", 255 * GREY
        values = tuple(sorted({0, white, *values}))
    return MaskValues(values, True, soft, lossy, white, (), refused), problems


def _in_colours(scan: MaskScan) -> ValueCounts:
    return scan.counts if scan.coloured else as_colours(scan.counts)


def decide_mode(asked: str | None, values: MaskValues, folders: bool) -> tuple[str, str]:
    """The mask mode of a dataset and how it was decided, for people.

    Args:
        asked: the mode the user gave, which always holds.
        values: of the whole dataset.
        folders: some sample has its masks as a folder with one file an object.
    """
    if asked:
        return asked, "as asked"
    if values.legend:
        return "classes", f"the legend names {len(values.foreground)} classes"
    count = len(values.values)
    kind = "colour" if values.coloured else "value"
    shown = describe_values(values)
    if count == 0:
        return "binary", "no mask to look at"
    held = f"the masks hold {count} {kind}{'s' if count > 1 else ''}: {shown}"
    if values.soft:
        held = f"the masks are one thing in {shown}, cut in the middle"
    two = count <= 2 and (values.background or 0) in values.values
    if two and folders:
        return "instances", "the masks of an image are one file an object"
    return ("binary" if two else "classes"), held


def describe_values(values: MaskValues, most: int = 8) -> str:
    listed = [shown_value(value, values.coloured) for value in values.values[:most]]
    return ", ".join(listed) + (", ..." if len(values.values) > most else "")
