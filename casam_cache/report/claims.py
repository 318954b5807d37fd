"""The claims of the paper, one row each: its figure, ours from finished stages, and whether the claim holds.

A verdict is a rule: an interval, of a paired difference or over runs, that lies on one side of the bound that the claim
names; where it holds the bound, nothing is decided, and where one run gives no interval, the value decides. The bounds
are this project's, where the paper names none. Where the bench that a claim needs has not been run, the row says so and
names the command.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from casam_cache.bench.results import read_results
from casam_cache.metrics.compare import Estimate
from casam_cache.report.configurations import Configuration, at, gather
from casam_cache.report.layout import Cell, Column, Line, Section, Table
from casam_cache.report.layouts.distance import untuned_tasks
from casam_cache.report.paper import paper_figures, printed_number

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
MISSING = "not measured"
POINT = 0.01
THROUGH_IMAGES = "benchmarks/image_mode.yaml"
COLUMNS = tuple(
    Column(key, label, left=True)
    for key, label in (
        ("paper", "the paper"),
        ("ours", "ours"),
        ("verdict", "verdict"),
        ("command", "command"),
    )
)
Finding = tuple[str, str]  # ours, verdict
Results = Mapping[str, Any]


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
    """Every claim, each from the newest bench of its table in a runs folder that has the methods it is about.

    Args:
        runs: a runs folder.
        say: takes a line for each results.json that is damaged, and is left out.

    Raises:
        CasamError: there are no results.
    """
    found = read_results(runs, say)
    lines, used = [], dict[int, Results]()
    for claim in CLAIMS:
        of_table = [each for each in reversed(found) if each["table"] == claim.table]
        decisions = ((each, claim.decide(each)) for each in of_table)
        results, decided = next(filter(lambda pair: pair[1], decisions), (None, None))
        if results is not None:
            used[id(results)] = results
        ours, verdict = decided or ("", MISSING)
        command = _command(claim, results or next(iter(of_table), None))
        words = {"paper": claim.paper, "ours": ours, "verdict": verdict, "command": command}
        lines.append(Line(claim.text, {key: Cell(text) for key, text in words.items()}))
    notes = tuple(f"{each['table']}: {_conditions(each)}" for each in used.values())
    return Table("claims", "The claims of the paper", "claim", (Section("", COLUMNS, tuple(lines)),), notes)


def _command(claim: Claim, results: Results | None) -> str:
    """What makes the bench of a claim, with the model, seeds, orders and unseen sets of the one that was found."""
    command = f"casam bench --recipe {claim.recipe or f'recipes/{claim.table}_cpu.yaml'}"
    if not results:
        return command
    rows = results["results"]
    seeds, orders = len({row["seed"] for row in rows}), len({tuple(row["order"]) for row in rows})
    command += f" --model {results['model']} --seeds {seeds}"
    if orders > 1:
        command += f" --orders {orders}"
    if results["unseen"]:
        command += f" --unseen {','.join(results['unseen'])}"
    return command


def _conditions(results: Results) -> str:
    rows = results["results"]
    tasks = sorted({task for row in rows for task in row["order"]})
    seeds = len({row["seed"] for row in rows})
    orders = len({tuple(row["order"]) for row in rows})
    unseen = f", unseen {', '.join(results['unseen'])}" if results["unseen"] else ""
    stand_in = f" ({rows[0]['stand_in']})" if rows[0].get("stand_in") else ""
    return (
        f"backbone {results['model']}{stand_in}; {len(tasks)} tasks ({', '.join(tasks)}){unseen}; "
        f"{seeds} seed{'s' * (seeds > 1)}, {orders} order{'s' * (orders > 1)}, {rows[0]['prompt']}."
    )


# Ours


def _method(results: Results, method: str) -> Configuration | None:
    """The first configuration of a method."""
    return next((each for each in gather(results["results"]) if each.method == method), None)


def _percent(estimate: Estimate) -> str:
    half = "" if math.isnan(estimate.half) else f" ± {100 * estimate.half:.1f}"
    return f"{100 * estimate.mean:.1f}{half}"


def _above(first: str, second: str, results: Results, *, by: float = 0.0) -> Finding | None:
    """Paired difference of Last-IoU; its interval decides whether it is above `by`."""
    for test in (results.get("summary") or {}).get("tests", ()):
        sign = {(first, second): 1, (second, first): -1}.get((test["first"], test["second"]))
        if sign is None or test["metric"] != "iou":
            continue
        mean = sign * test["difference"]
        if test["low"] is None:
            return f"{100 * mean:+.1f}, too few groups for an interval", OPEN
        low, high = sorted((sign * test["low"], sign * test["high"]))
        verdict = HOLDS if low > by else FAILS if high < by else OPEN
        return f"{100 * mean:+.1f} [{100 * low:.1f}, {100 * high:.1f}] points of IoU", verdict
    return None


def _cheaper(others: Sequence[str], results: Results) -> Finding | None:
    """Parameters and FLOPs of the layer beside those of others; multiply-adds, as the paper counts."""
    found = {name: _method(results, name) for name in ("alignment", *others)}
    rows = {name: each.rows[0] for name, each in found.items() if each is not None}
    if len(rows) < len(found):
        return None
    told = [
        f"{name} {row['parameters'] / 1e6:.2f} M, {row['gflops'] / 2:.1f} G" for name, row in rows.items()
    ]
    own = rows.pop("alignment")
    fewer = all(own[key] < row[key] for row in rows.values() for key in ("parameters", "gflops"))
    return "; ".join(told), HOLDS if fewer else FAILS


def _figure(method: str, key: str, bound: float, results: Results, *, least: bool = False) -> Finding | None:
    """A figure of a method; its interval decides against a bound, or its value where one run gives no interval."""
    each = _method(results, method)
    estimate = each.estimate(at(key)) if each else None
    if estimate is None or math.isnan(estimate.mean):
        return None
    half = 0.0 if math.isnan(estimate.half) else estimate.half
    low, high = estimate.mean - half, estimate.mean + half
    met, missed = (low >= bound, high < bound) if least else (high <= bound, low > bound)
    return _percent(estimate), HOLDS if met else FAILS if missed else OPEN


def _spread(method: str, key: str, bound: float, results: Results) -> Finding | None:
    """How far apart the runs of one seed in different orders end."""
    each = _method(results, method)
    if each is None:
        return None
    by_seed: dict[Any, list[float]] = {}
    for row in each.rows:
        if row.get(key) is not None:
            by_seed.setdefault(row["seed"], []).append(row[key])
    spreads = [max(values) - min(values) for values in by_seed.values() if len(values) > 1]
    if not spreads:
        return None
    return f"at most {100 * max(spreads):.2f} points between orders", HOLDS if max(
        spreads
    ) <= bound else FAILS


def _between(results: Results) -> Finding | None:
    """Last of regularisation and replay, between naive and CA-SAM."""
    names = ("naive", "lwf", "ewc", "er", "der", "ca-sam")
    found = {name: _method(results, name) for name in names}
    last = {name: each.estimate(at("last_iou")).mean for name, each in found.items() if each is not None}
    if len(last) < len(names):
        return None
    low, *middle, high = (last[name] for name in names)
    told = ", ".join(f"{name} {100 * last[name]:.1f}" for name in names)
    return told, HOLDS if all(low <= value <= high for value in middle) else FAILS


def _unseen(results: Results) -> Finding | None:
    """CA-SAM on unseen sets, beside the frozen SAM on the same masks."""
    each, frozen = _method(results, "ca-sam"), _method(results, "frozen")
    if each is None or frozen is None:
        return None
    ours, base = each.estimate(at("ood_iou")), frozen.estimate(at("ood_iou"))
    if math.isnan(ours.mean) or math.isnan(base.mean):
        return None
    verdict = HOLDS if ours.mean >= base.mean - POINT else FAILS
    return f"{_percent(ours)}, frozen {_percent(base)}", verdict


def _by_option(option: str, key: str, results: Results) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for each in gather(results["results"]):
        estimate = each.estimate(at(key))
        if option in each.options and not math.isnan(estimate.mean):
            found[each.options[option]] = estimate.mean
    return found


def _flat(option: str, bound: float, results: Results, leave_out: Sequence[Any] = ()) -> Finding | None:
    """How much an option of CA-SAM moves Last-IoU."""
    values = [
        value for name, value in _by_option(option, "last_iou", results).items() if name not in leave_out
    ]
    if len(values) < 2:
        return None
    spread = max(values) - min(values)
    told = f"{100 * min(values):.1f} to {100 * max(values):.1f} over {len(values)} values"
    return told, HOLDS if spread <= bound else FAILS


def worth_of_beta(last: Mapping[float, float], rejected: Mapping[float, float]) -> tuple[float, bool]:
    """The best beta by Last and rejection together, in [0, 1] each, and whether it lies between the ends.

    It does where it is more than a point above the worst value, so that beta matters at all, and is neither the least
    nor the largest beta. The paper's own table rises and then is flat: 175.4 at 17, 175.1 at its end, 18.
    """
    worth = {beta: last[beta] + rejected[beta] for beta in sorted(last)}
    top = max(worth, key=lambda beta: worth[beta])
    return top, min(worth) < top < max(worth) and worth[top] > min(worth.values()) + POINT


def _peak(results: Results) -> Finding | None:
    last = _by_option("beta", "last_iou", results)
    rejected = _by_option("beta", "ood_accuracy", results)
    if len(last) < 3 or last.keys() != rejected.keys():
        return None
    top, inside = worth_of_beta(last, rejected)
    told = f"Last-IoU {100 * last[top]:.1f} and {100 * rejected[top]:.1f} % rejected at beta {top:g}"
    return told, HOLDS if inside else FAILS


def _depth(results: Results) -> Finding | None:
    """Last-IoU by blocks of the layer, at the most epochs that were run."""
    runs = [each for each in gather(results["results"]) if "blocks" in each.options]
    most = max((each.options.get("epochs", 0) for each in runs), default=0)
    by_blocks = {
        int(each.options["blocks"]): each.estimate(at("last_iou")).mean
        for each in runs
        if each.options.get("epochs", 0) == most
    }
    if not {1, 3} <= by_blocks.keys():
        return None
    told = ", ".join(f"{blocks}: {100 * by_blocks[blocks]:.1f}" for blocks in sorted(by_blocks))
    return told, HOLDS if by_blocks[3] > by_blocks[1] + POINT / 10 else FAILS


def _nearer(results: Results) -> Finding | None:
    """Table 4: TV and JS distances to a tuned encoder's features, before and after the Alignment Layer.

    A task whose tuned encoder is the frozen one is left out: nothing can be nearer to it than what it is.
    """
    each = _method(results, "alignment")
    every = (each.rows[0].get("distances") or {}) if each else {}
    means = {
        (task, side, key): each.estimate(at("distances", task, side, key)).mean
        for task in every for side in ("before", "after") for key in ("tv", "js")
    } if each else {}  # fmt: skip
    same = untuned_tasks(results["results"])
    tasks = [task for task in every if task not in same]
    if not tasks:
        return None
    nearer = sum(
        all(means[task, "after", key] < means[task, "before", key] for key in ("tv", "js")) for task in tasks
    )
    told = [
        f"{key.upper()} {_over(means, tasks, 'before', key):.2f} to {_over(means, tasks, 'after', key):.2f}"
        for key in ("tv", "js")
    ]
    left = f", without {', '.join(same)}, where tuning kept the frozen encoder" if same else ""
    verdict = HOLDS if 2 * nearer > len(tasks) else FAILS
    return f"{', '.join(told)}; nearer on {nearer} of {len(tasks)} tasks{left}", verdict


def _over(means: Mapping[tuple[str, str, str], float], tasks: Sequence[str], side: str, key: str) -> float:
    return sum(means[task, side, key] for task in tasks) / len(tasks)


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
        _paper_gap("3", "iou", "alignment", "frozen"), "table3_7", partial(_above, "alignment", "frozen"),
    ),
    Claim(
        "... above tuning the decoder",
        _paper_gap("3", "iou", "alignment", "decoder"), "table3_7", partial(_above, "alignment", "decoder"),
    ),
    Claim(
        "... above HQ-SAM",
        _paper_gap("3", "iou", "alignment", "hq-sam"), "table3_7", partial(_above, "alignment", "hq-sam"),
    ),
    Claim(
        "... with fewer parameters and FLOPs than both",
        "3.54 M, 514.3 G; 4.06 M, 669.8 G; 5.14 M, 678.9 G", "table3_7", partial(_cheaper, ("decoder", "hq-sam")),
    ),
    Claim(
        "... above SAM-Med2D's adapters",
        _paper_gap("3", "iou", "alignment", "sam-med2d"), "bench", partial(_above, "alignment", "sam-med2d"),
        THROUGH_IMAGES,
    ),
    Claim(
        "... with fewer parameters and FLOPs than those",
        "3.54 M, 514.3 G; 13.31 M, 728.2 G", "bench", partial(_cheaper, ("sam-med2d",)), THROUGH_IMAGES,
    ),
    Claim(
        "... near full fine-tuning (within 2 points)",
        "", "bench", partial(_above, "alignment", "sam-full", by=-2 * POINT), THROUGH_IMAGES,
    ),
    Claim(
        "An Alignment Layer brings features nearer to a tuned encoder's (most tasks)",
        "TV 0.283 to 0.274 and 0.284 to 0.283", "table4", _nearer, "recipes/table4_cpu.yaml --reference DIR",
    ),
    Claim(
        "CA-SAM forgets less than 2 points",
        f"FF-IoU {_paper('1', 'ff_iou', method='ca-sam')}", "table1", partial(_figure, "ca-sam", "ff_iou", 2 * POINT),
    ),
    Claim(
        "CA-SAM ends the same in every order (within 1 point)",
        "", "table1", partial(_spread, "ca-sam", "last_iou", POINT),
    ),
    Claim(
        "Naive fine-tuning forgets (FF-IoU above 2 points)",
        f"FF-IoU {_paper('1', 'ff_iou', method='naive')}", "table1",
        partial(_figure, "naive", "ff_iou", 2 * POINT, least=True),
    ),
    Claim(
        "CA-SAM is above naive fine-tuning",
        _paper_gap("1", "last_iou", "ca-sam", "naive"), "table1", partial(_above, "ca-sam", "naive"),
    ),
    Claim("Regularisation and replay lie between the two", "17.8 to 60.0", "table1", _between),
    Claim(
        "CA-SAM is near joint training (within 3 points)",
        _paper_gap("1", "last_iou", "ca-sam", "joint"), "table1", partial(_above, "ca-sam", "joint", by=-3 * POINT),
    ),
    Claim(
        "Images of the tasks find their own layer (95 %)",
        "", "table1", partial(_figure, "ca-sam", "routing_accuracy", 0.95, least=True),
    ),
    Claim(
        "Unseen images are sent to the frozen SAM (95 %)",
        f"{_paper('6', 'ood_accuracy', threshold='p97')} %", "table1",
        partial(_figure, "ca-sam", "ood_accuracy", 0.95, least=True),
    ),
    Claim("Unseen sets keep the frozen level (within 1 point)", _paper_unseen(), "table1", _unseen),
    Claim(
        "Flat in the temperature of attention pooling (1 point)",
        _paper_range("10", "last_iou"), "table10", partial(_flat, "temperature", POINT),
    ),
    Claim(
        "Flat in the rule of the threshold (1 point)",
        _paper_range("6", "last_iou"), "table6_9",
        partial(_flat, "threshold", POINT, leave_out=("conformal",)),
    ),
    Claim("Beta of the VAE has a best value between its ends (1 point above the worst)", "16.5", "table11", _peak),
    Claim("Three blocks are better than one (0.1 points)", "a figure without numbers", "figure6", _depth),
)  # fmt: skip
