"""The claims of the paper, one row each: its figure, ours from finished stages, and whether the claim holds.

A verdict is a rule (`claim_rules`). The bounds are this project's, where the paper names none. Where the bench that a
claim needs has not been run, the row says so and names the command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from casam_cache.bench.results import read_results
from casam_cache.report.claim_rules import (
    POINT,
    Finding,
    Results,
    above,
    between,
    cheaper,
    depth,
    figure,
    flat,
    method_of,
    nearer,
    peak,
    spread,
    unseen,
)
from casam_cache.report.configurations import Configuration
from casam_cache.report.layout import Cell, Column, Line, Section, Table
from casam_cache.report.paper import paper_figures, printed_number
from casam_cache.training.evaluation_prompts import ORACLE_BOX

MISSING = "not measured"
THROUGH_IMAGES = "benchmarks/image_mode.yaml"
ABOUT = ("joint", "naive", "alignment", "decoder", "ca-sam")
SCORED = (("weight", "images"), ("forgetting", "paper"), ("prompt", ORACLE_BOX))
SWEPT = ("table10", "table11", "table6_9", "figure6")  # whose recipes give options
COLUMNS = tuple(
    Column(key, label, left=True)
    for key, label in (
        ("paper", "the paper"),
        ("ours", "ours"),
        ("verdict", "verdict"),
        ("command", "command"),
    )
)


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        text: what the paper says, with the bound that decides where it has none.
        paper: its figure.
        table: the recipe whose bench decides it.
        decide: ours and the verdict, from that bench's results; None where it lacks a method.
        recipe: the file of that recipe, where it is not the one for two CPU cores.
    """

    text: str
    paper: str
    table: str
    decide: Callable[[Results], Finding | None]
    recipe: str = ""


def claims_table(runs: Path, say: Callable[[str], None] = lambda line: None) -> Table:
    """Every claim, a section a model; each from a bench of its table that has the methods it is about.

    Of several such benches the one that departs least from the recipes, and of those the newest: the same methods with
    options of their own, or scored in another way, are no answer to the paper. Benches scored on other splits than test
    are left out.

    Args:
        runs: a runs folder.
        say: takes a line for each results.json that is damaged, and is left out.

    Raises:
        CasamError: there are no results.
    """
    found = [each for each in reversed(read_results(runs, say)) if each["results"] and _tested(each)]
    models = list(dict.fromkeys(str(each["model"]) for each in found)) or [""]
    sections, notes = [], []
    for model in models:
        used: list[Results] = []
        lines = [_line(claim, [each for each in found if each["model"] == model], used) for claim in CLAIMS]
        sections.append(Section(model if len(models) > 1 else "", COLUMNS, tuple(lines)))
        notes += [f"{each['table']}: {_conditions(each)}" for each in used]
    return Table("claims", "The claims of the paper", "claim", tuple(sections), tuple(notes))


def _line(claim: Claim, found: Sequence[Results], used: list[Results]) -> Line:
    """The row of a claim; the bench that decides it joins those `used`."""
    of_table = sorted((each for each in found if each["table"] == claim.table), key=_departs)
    decisions = ((each, claim.decide(each)) for each in of_table)
    results, decided = next(filter(lambda pair: pair[1], decisions), (None, None))
    if results is not None and all(each is not results for each in used):
        used.append(results)
    ours, verdict = decided or ("", MISSING)
    command = _command(claim, results or next(iter(of_table), None))
    words = {"paper": claim.paper, "ours": ours, "verdict": verdict, "command": command}
    return Line(claim.text, {key: Cell(text) for key, text in words.items()})


def _tested(results: Results) -> bool:
    return all(row.get("evaluate", "test") == "test" for row in results["results"])


def _departures(results: Results) -> list[str]:
    """What a bench has other than the recipes of the paper's tables, in words."""
    found = []
    for key, usual in SCORED:
        others = sorted({str(row[key]) for row in results["results"] if row.get(key, usual) != usual})
        found += [f"{key} {', '.join(others)}"] if others else []
    for name, each in _about(results).items():
        found += [f"{name} is '{each.label}'"] if each.label != name else []
        settings = _settings_of(results, name, each.label)
        if settings:
            found.append(f"{name} with {', '.join(f'{key} {value}' for key, value in settings.items())}")
    return found


def _departs(results: Results) -> int:
    """The most settings of one of the methods that claims are about, and a point for each other way of scoring."""
    settings = [len(_settings_of(results, name, each.label)) for name, each in _about(results).items()]
    return max(settings, default=0) + sum(
        any(row.get(key, usual) != usual for row in results["results"]) for key, usual in SCORED
    )


def _about(results: Results) -> dict[str, Configuration]:
    """The methods that claims are about; none where a table sweeps over an option of theirs."""
    if results["table"] in SWEPT:
        return {}
    found = {name: method_of(results, name) for name in ABOUT}
    return {name: each for name, each in found.items() if each is not None}


def _settings_of(results: Results, method: str, label: str) -> Mapping[str, Any]:
    """What the bench set for the configuration of that label, beyond the method's defaults."""
    for entry in results["recipe"].get("methods", ()):
        if entry["method"] == method and label.startswith(entry["label"] or method):
            found: Mapping[str, Any] = entry["set"]
            return found
    return {}


def _command(claim: Claim, results: Results | None) -> str:
    """What makes the bench of a claim, with model, tasks, seeds, orders and unseen sets of the one that was found."""
    command = f"casam bench --recipe {claim.recipe or f'recipes/{claim.table}_cpu.yaml'}"
    if not results:
        return command
    rows = results["results"]
    tasks = list(dict.fromkeys(task for row in rows for task in row["order"]))
    seeds, orders = len({row["seed"] for row in rows}), len({tuple(row["order"]) for row in rows})
    command += f" --model {results['model']} --tasks {','.join(tasks)} --seeds {seeds} --orders {orders}"
    return f"{command} --unseen {','.join(results['unseen']) or 'none'}"


def _conditions(results: Results) -> str:
    rows = results["results"]
    tasks = sorted({task for row in rows for task in row["order"]})
    seeds = len({row["seed"] for row in rows})
    orders = len({tuple(row["order"]) for row in rows})
    apart = f", unseen {', '.join(results['unseen'])}" if results["unseen"] else ""
    stand_in = f" ({rows[0]['stand_in']})" if rows[0].get("stand_in") else ""
    prompts = ", ".join(sorted({row.get("prompt") or ORACLE_BOX for row in rows}))
    others = "".join(f"; {each}" for each in _departures(results) if not each.startswith("prompt "))
    return (
        f"backbone {results['model']}{stand_in}; {len(tasks)} tasks ({', '.join(tasks)}){apart}; "
        f"{seeds} seed{'s' * (seeds > 1)}, {orders} order{'s' * (orders > 1)}, {prompts}{others}."
    )


# The paper's


def _paper(number: str, key: str, **match: Any) -> str:
    [row, *_] = paper_figures(number).rows_of(**match)
    return str(row.values.get(key, ""))


def _paper_gap(number: str, key: str, first: str, second: str) -> str:
    values = [printed_number(_paper(number, key, method=name)) for name in (first, second)]
    return " against ".join("" if value is None else f"{value:g}" for value in values)


def _paper_range(number: str, key: str) -> str:
    values = [printed_number(row.values[key]) for row in paper_figures(number).rows if key in row.values]
    known = [value for value in values if value is not None]
    return f"{min(known):g} to {max(known):g}"


def _paper_unseen() -> str:
    told = [
        text.partition("(")[2].rstrip(")")
        for key, text in paper_figures("2").rows_of(method="ca-sam")[0].values.items()
        if key.startswith("iou:")
    ]
    return f"{max(map(float, told)):g} points below on the worst of five sets"


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "An Alignment Layer is above the frozen SAM",
        _paper_gap("3", "iou", "alignment", "frozen"), "table3_7", partial(above, "alignment", "frozen"),
    ),
    Claim(
        "... above tuning the decoder",
        _paper_gap("3", "iou", "alignment", "decoder"), "table3_7", partial(above, "alignment", "decoder"),
    ),
    Claim(
        "... above HQ-SAM",
        _paper_gap("3", "iou", "alignment", "hq-sam"), "table3_7", partial(above, "alignment", "hq-sam"),
    ),
    Claim(
        "... with fewer parameters and FLOPs than both",
        "3.54 M, 514.3 G; 4.06 M, 669.8 G; 5.14 M, 678.9 G", "table3_7", partial(cheaper, ("decoder", "hq-sam")),
    ),
    Claim(
        "... above SAM-Med2D's adapters",
        _paper_gap("3", "iou", "alignment", "sam-med2d"), "bench", partial(above, "alignment", "sam-med2d"),
        THROUGH_IMAGES,
    ),
    Claim(
        "... with fewer parameters and FLOPs than those",
        "3.54 M, 514.3 G; 13.31 M, 728.2 G", "bench", partial(cheaper, ("sam-med2d",)), THROUGH_IMAGES,
    ),
    Claim(
        "... near full fine-tuning (within 2 points)",
        "", "bench", partial(above, "alignment", "sam-full", by=-2 * POINT), THROUGH_IMAGES,
    ),
    Claim(
        "An Alignment Layer brings features nearer to a tuned encoder's (most tasks)",
        "TV 0.283 to 0.274 and 0.284 to 0.283", "table4", nearer, "recipes/table4_cpu.yaml --reference DIR",
    ),
    Claim(
        "CA-SAM forgets less than 2 points",
        f"FF-IoU {_paper('1', 'ff_iou', method='ca-sam')}", "table1", partial(figure, "ca-sam", "ff_iou", 2 * POINT),
    ),
    Claim(
        "CA-SAM ends the same in every order (within 1 point)",
        "", "table1", partial(spread, "ca-sam", "last_iou", POINT),
    ),
    Claim(
        "Naive fine-tuning forgets (FF-IoU above 2 points)",
        f"FF-IoU {_paper('1', 'ff_iou', method='naive')}", "table1",
        partial(figure, "naive", "ff_iou", 2 * POINT, least=True),
    ),
    Claim(
        "CA-SAM is above naive fine-tuning",
        _paper_gap("1", "last_iou", "ca-sam", "naive"), "table1", partial(above, "ca-sam", "naive"),
    ),
    Claim("Regularisation and replay lie between the two", "17.8 to 60.0", "table1", between),
    Claim(
        "CA-SAM is near joint training (within 3 points)",
        _paper_gap("1", "last_iou", "ca-sam", "joint"), "table1", partial(above, "ca-sam", "joint", by=-3 * POINT),
    ),
    Claim(
        "Images of the tasks find their own layer (95 %)",
        "", "table1", partial(figure, "ca-sam", "routing_accuracy", 0.95, least=True),
    ),
    Claim(
        "Unseen images are sent to the frozen SAM (95 %)",
        f"{_paper('6', 'ood_accuracy', threshold='p97')} %", "table1",
        partial(figure, "ca-sam", "ood_accuracy", 0.95, least=True),
    ),
    Claim("Unseen sets keep the frozen level (within 1 point)", _paper_unseen(), "table1", unseen),
    Claim(
        "Flat in the temperature of attention pooling (1 point)",
        _paper_range("10", "last_iou"), "table10", partial(flat, "temperature", POINT),
    ),
    Claim(
        "Flat in the rule of the threshold (1 point)",
        _paper_range("6", "last_iou"), "table6_9",
        partial(flat, "threshold", POINT, among=("mu2s", "p95", "p97", "p99")),
    ),
    Claim("Beta of the VAE has a best value between its ends (1 point above the worst)", "16.5", "table11", peak),
    Claim("Three blocks are better than one (0.1 points)", "a figure without numbers", "figure6", depth),
)  # fmt: skip
