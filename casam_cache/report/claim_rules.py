"""How a claim of the paper is decided from the results of one bench.

An interval, of a paired difference or over runs, that lies on one side of the bound which the claim names decides it;
one that holds the bound decides nothing. Two or three runs without an interval decide where they all lie on one side,
and a single run is taken at its value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from casam_cache.fingerprint import canonical_json
from casam_cache.metrics.compare import Estimate
from casam_cache.report.configurations import Configuration, at, gather
from casam_cache.report.layouts.distance import untuned_tasks

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
POINT = 0.01
COSTS = ("parameters", "gflops")
Finding = tuple[str, str]  # ours, verdict
Results = Mapping[str, Any]


def method_of(results: Results, method: str) -> Configuration | None:
    """The configuration of a method that is called by its name alone, else its first."""
    found = [each for each in gather(results["results"]) if each.method == method]
    return min(found, key=lambda each: each.label != method, default=None)


def percent(estimate: Estimate) -> str:
    """Mean and, where there is one, half of the interval."""
    if not math.isnan(estimate.half):
        return f"{100 * estimate.mean:.1f} ± {100 * estimate.half:.1f}"
    return f"{100 * estimate.mean:.1f}"


def above(first: str, second: str, results: Results, *, by: float = 0.0) -> Finding | None:
    """Paired difference of Last-IoU of two methods; its interval decides whether it is above `by`."""
    found = [method_of(results, name) for name in (first, second)]
    if found[0] is None or found[1] is None:
        return None
    difference = paired(results, found[0].label, found[1].label)
    if difference is None:
        last = [each.estimate(at("last_iou")).mean for each in found if each is not None]
        told = " and ".join(
            f"{name} {100 * value:.1f}" for name, value in zip((first, second), last, strict=True)
        )
        return f"{told}, without a test of the two", OPEN
    mean, low, high = difference
    if math.isnan(low):
        return f"{100 * mean:+.1f}, too few groups for an interval", OPEN
    told = f"{100 * mean:+.1f} [{100 * low:.1f}, {100 * high:.1f}] points of IoU"
    return told, HOLDS if low > by else FAILS if high < by else OPEN


def paired(results: Results, first: str, second: str) -> tuple[float, float, float] | None:
    """Last-IoU of one configuration minus another's, by label, and its interval, NaN where the groups are too few.

    None where the bench made no test of the two.
    """
    for test in (results.get("summary") or {}).get("tests", ()):
        sign = {(first, second): 1, (second, first): -1}.get((test["first"], test["second"]))
        if sign is None or test["metric"] != "iou":
            continue
        if test["low"] is None:
            return sign * test["difference"], math.nan, math.nan
        low, high = sorted((sign * test["low"], sign * test["high"]))
        return sign * test["difference"], low, high
    return None


def cheaper(others: Sequence[str], results: Results) -> Finding | None:
    """Parameters and FLOPs of the layer beside those of others; multiply-adds, as the paper counts."""
    found = {name: method_of(results, name) for name in ("alignment", *others)}
    rows = {name: each.rows[0] for name, each in found.items() if each is not None}
    if len(rows) < len(found) or any(row.get(key) is None for row in rows.values() for key in COSTS):
        return None
    told = [
        f"{name} {row['parameters'] / 1e6:.2f} M, {row['gflops'] / 2:.1f} G" for name, row in rows.items()
    ]
    own = rows.pop("alignment")
    fewer = all(own[key] < row[key] for row in rows.values() for key in COSTS)
    return "; ".join(told), HOLDS if fewer else FAILS


def figure(method: str, key: str, bound: float, results: Results, *, least: bool = False) -> Finding | None:
    """A figure of a method against a bound that it must not go beyond, or with `least` must reach."""
    each = method_of(results, method)
    estimate = each.estimate(at(key)) if each else None
    if each is None or estimate is None or math.isnan(estimate.mean):
        return None
    runs = [row[key] for row in each.rows if row.get(key) is not None]
    if math.isnan(estimate.half):
        low, high = min(runs), max(runs)
    else:
        low, high = estimate.mean - estimate.half, estimate.mean + estimate.half
    met, missed = (low >= bound, high < bound) if least else (high <= bound, low > bound)
    shown = max(runs) - min(runs) > 5e-4 and math.isnan(estimate.half)
    listed = f" ({', '.join(f'{100 * value:.1f}' for value in runs)})" if shown else ""
    return percent(estimate) + listed, HOLDS if met else FAILS if missed else OPEN


def spread(method: str, key: str, bound: float, results: Results) -> Finding | None:
    """How far apart the runs of one seed in different orders end."""
    each = method_of(results, method)
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


def between(results: Results) -> Finding | None:
    """Last of regularisation and replay, between naive and CA-SAM; the interval of each of the eight pairs counts."""
    names = ("naive", "lwf", "ewc", "er", "der", "ca-sam")
    found = {name: method_of(results, name) for name in names}
    every = {name: each for name, each in found.items() if each is not None}
    if len(every) < len(names):
        return None
    told = ", ".join(f"{name} {100 * each.estimate(at('last_iou')).mean:.1f}" for name, each in every.items())
    verdicts = []
    for name in names[1:-1]:
        for low, high in (("naive", name), (name, "ca-sam")):
            decided = above(high, low, results)
            assert decided is not None
            verdicts.append(decided[1])
    return told, all_of(verdicts)


def all_of(verdicts: Iterable[str]) -> str:
    """Of a claim of several parts: it fails with one of them, and holds with all."""
    found = set(verdicts)
    return FAILS if FAILS in found else OPEN if OPEN in found else HOLDS


def unseen(results: Results) -> Finding | None:
    """CA-SAM on unseen sets, beside the frozen SAM on the same masks."""
    each, frozen = method_of(results, "ca-sam"), method_of(results, "frozen")
    if each is None or frozen is None:
        return None
    base = frozen.estimate(at("ood_iou"))
    if math.isnan(base.mean):
        return None
    decided = figure("ca-sam", "ood_iou", base.mean - POINT, results, least=True)
    return None if decided is None else (f"{decided[0]}, frozen {percent(base)}", decided[1])


def by_option(method: str, option: str, key: str, results: Results) -> dict[Any, Configuration]:
    """The configurations of a method by the value of an option, all else in them equal.

    Of several such sets the one of the most values, the first of those.
    """
    sets: dict[str, dict[Any, Configuration]] = {}
    for each in gather(results["results"]):
        if each.method != method or option not in each.options or math.isnan(each.estimate(at(key)).mean):
            continue
        others = {name: value for name, value in each.options.items() if name != option}
        sets.setdefault(canonical_json(others), {}).setdefault(each.options[option], each)
    return max(sets.values(), key=len, default={})


def flat(option: str, bound: float, results: Results, among: Sequence[Any] = ()) -> Finding | None:
    """How much an option of CA-SAM moves Last-IoU, over all its values or those that are named."""
    found = {
        name: each
        for name, each in by_option("ca-sam", option, "last_iou", results).items()
        if not among or name in among
    }
    if len(found) < 2:
        return None
    last = {name: each.estimate(at("last_iou")).mean for name, each in found.items()}
    least, most = min(last, key=lambda name: last[name]), max(last, key=lambda name: last[name])
    told = f"{100 * last[least]:.1f} to {100 * last[most]:.1f} over {len(last)} values"
    difference = paired(results, found[most].label, found[least].label)
    if difference is None:
        return told, HOLDS if last[most] - last[least] <= bound + 1e-9 else FAILS
    _, low, high = difference
    return told, HOLDS if high <= bound else FAILS if low > bound else OPEN


def worth_of_beta(last: Mapping[float, float], rejected: Mapping[float, float]) -> tuple[float, bool]:
    """The best beta by Last and rejection together, in [0, 1] each, and whether it lies between the ends.

    It does where it is more than a point above the worst value, so that beta matters at all, and is neither the least
    nor the largest beta. The paper's own table rises and then is flat: 175.4 at 17, 175.1 at its end, 18.
    """
    worth = {beta: last[beta] + rejected[beta] for beta in sorted(last)}
    top = max(worth, key=lambda beta: worth[beta])
    return top, min(worth) < top < max(worth) and worth[top] > min(worth.values()) + POINT


def peak(results: Results) -> Finding | None:
    """The best beta of the VAE; see `worth_of_beta`."""
    last = {
        beta: each.estimate(at("last_iou")).mean
        for beta, each in by_option("ca-sam", "beta", "last_iou", results).items()
    }
    rejected = {
        beta: each.estimate(at("ood_accuracy")).mean
        for beta, each in by_option("ca-sam", "beta", "ood_accuracy", results).items()
    }
    if len(last) < 3 or last.keys() != rejected.keys():
        return None
    top, inside = worth_of_beta(last, rejected)
    told = f"Last-IoU {100 * last[top]:.1f} and {100 * rejected[top]:.1f} % rejected at beta {top:g}"
    return told, HOLDS if inside else FAILS


def depth(results: Results) -> Finding | None:
    """Last-IoU by blocks of the layer, at the most epochs that were run; three against one, paired."""
    found = by_option("alignment", "blocks", "last_iou", _most_epochs(results))
    if not {1, 3} <= found.keys():
        return None
    told = ", ".join(
        f"{blocks}: {100 * found[blocks].estimate(at('last_iou')).mean:.1f}" for blocks in sorted(found)
    )
    difference = paired(results, found[3].label, found[1].label)
    if difference is None:
        gain = found[3].estimate(at("last_iou")).mean - found[1].estimate(at("last_iou")).mean
        return told, HOLDS if gain > POINT / 10 else FAILS
    _, low, high = difference
    return told, HOLDS if low > POINT / 10 else FAILS if high < POINT / 10 else OPEN


def _most_epochs(results: Results) -> Results:
    def epochs(row: Mapping[str, Any]) -> int:
        return int((row.get("options") or {}).get("epochs", 0))

    rows = [row for row in results["results"] if row["method"] == "alignment"]
    most = max(map(epochs, rows), default=0)
    return {**results, "results": [row for row in rows if epochs(row) == most]}


def nearer(results: Results) -> Finding | None:
    """Table 4: TV and JS distances to a tuned encoder's features, before and after the Alignment Layer.

    A task whose tuned encoder is the frozen one is left out: nothing can be nearer to it than what it is.
    """
    each = method_of(results, "alignment")
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
