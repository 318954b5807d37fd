"""The claims of the paper as a table: every verdict follows from results, and what was not run is not decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Casam

from casam_cache.errors import CasamError
from casam_cache.fingerprint import digest
from casam_cache.metrics.columns import facts_of
from casam_cache.metrics.registry import STANDARD
from casam_cache.report.claim_rules import FAILS, HOLDS, OPEN, worth_of_beta
from casam_cache.report.claims import CLAIMS, MISSING, claims_table
from casam_cache.report.paper import paper_figures


def row(method: str, last: float, order: int = 1, seed: int = 0, **more: Any) -> dict[str, Any]:
    tasks = ["a", "b"] if order == 1 else ["b", "a"]
    return {
        "key": f"{method} {order} {seed}", "method": method, "label": more.pop("label", method), "model": "small",
        "stand_in": "", "router": more.pop("router", None), "options": more.pop("options", {}), "weight": "images",
        "forgetting": "paper", "evaluate": "test", "prompt": "oracle box", "order": tasks, "seed": seed,
        "last_iou": last, **more,
    }  # fmt: skip


def bench(
    table: str, rows: list[dict[str, Any]], tests: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {
        "title": table, "table": table, "model": "small", "orders": {}, "unseen": ["u"], "results": rows,
        "metrics": [vars(metric) for metric in facts_of(STANDARD)], "summary": {"estimates": {}, "tests": tests or []},
        "recipe": {}, "mixtures": {},
    }  # fmt: skip


def pair(first: str, second: str, difference: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {
        "first": first, "second": second, "metric": "iou", "difference": difference, "low": low, "high": high,
        "p": None if low is None else 0.01, "p_holm": None, "groups": 9,
    }  # fmt: skip


def verdicts(tmp_path: Path, *benches: dict[str, Any]) -> dict[str, tuple[str, str]]:
    for number, made in enumerate(benches):
        folder = tmp_path / "bench" / str(number)
        folder.mkdir(parents=True)
        plain = json.loads(json.dumps(made))
        (folder / "results.json").write_text(json.dumps({**plain, "digest": digest(plain)}))
    table = claims_table(tmp_path)
    return {
        line.label: (line.cells["ours"].text, line.cells["verdict"].text) for line in table.sections[0].lines
    }


def test_what_was_not_run_is_not_decided(tmp_path: Path) -> None:
    found = verdicts(tmp_path, bench("routers", [row("ca-sam", 0.5)]))
    assert {verdict for _, verdict in found.values()} == {MISSING}
    assert not any(ours for ours, _ in found.values())
    with pytest.raises(CasamError, match="no results"):
        claims_table(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        (pair("alignment", "frozen", 0.05, 0.01, 0.09), HOLDS),
        (pair("frozen", "alignment", 0.05, 0.01, 0.09), FAILS),
        (pair("frozen", "alignment", -0.05, -0.09, 0.01), OPEN),
        (pair("alignment", "frozen", 0.05, None, None), OPEN),
    ],
)
def test_an_interval_decides_in_whichever_order_the_pair_is(
    tmp_path: Path, test: dict[str, Any], verdict: str
) -> None:
    rows = [row("frozen", 0.5), row("alignment", 0.55)]
    found = verdicts(tmp_path, bench("table3_7", rows, [test]))
    ours, decided = found["An Alignment Layer is above the frozen SAM"]
    assert decided == verdict
    assert ours.startswith("-5.0" if verdict == FAILS else "+5.0")
    assert found["... above HQ-SAM"][1] == MISSING, "it was not in the bench"


def test_table_1(tmp_path: Path) -> None:
    course = {"naive": 0.3, "lwf": 0.4, "ewc": 0.5, "er": 0.6, "der": 0.65, "ca-sam": 0.8, "joint": 0.82}
    rows = [
        row(
            name, last + 0.004 * order, order=order, ff_iou=0.3 if name == "naive" else 0.01, ood_iou=0.55,
            routing_accuracy=0.97 if name == "ca-sam" else None, ood_accuracy=0.94 if name == "ca-sam" else None,
        )
        for name, last in course.items() for order in (1, 2)
    ]  # fmt: skip
    rows.append(row("frozen", 0.5, ood_iou=0.57))
    tests = [pair("ca-sam", "naive", 0.5, 0.4, 0.6), pair("joint", "ca-sam", 0.02, 0.011, 0.029)]
    for name in ("lwf", "ewc", "er", "der"):
        tests += [pair("naive", name, -0.2, -0.3, -0.1), pair(name, "ca-sam", -0.2, -0.3, -0.1)]
    found = verdicts(tmp_path, bench("table1", rows, tests))
    assert found["CA-SAM forgets less than 2 points"] == ("1.0", HOLDS)
    assert found["CA-SAM ends the same in every order (within 1 point)"] == (
        "at most 0.40 points between orders", HOLDS,
    )  # fmt: skip
    assert found["Naive fine-tuning forgets (FF-IoU above 2 points)"] == ("30.0", HOLDS)
    assert found["Regularisation and replay lie between the two"][1] == HOLDS
    assert found["CA-SAM is near joint training (within 3 points)"] == (
        "-2.0 [-2.9, -1.1] points of IoU", HOLDS,
    )  # fmt: skip
    assert found["Images of the tasks find their own layer (95 %)"] == ("97.0", HOLDS)
    assert found["Unseen images are sent to the frozen SAM (95 %)"] == ("94.0", FAILS)
    assert found["Unseen sets keep the frozen level (within 1 point)"] == ("55.0, frozen 57.0", FAILS)


def test_ablations(tmp_path: Path) -> None:
    warm = [
        row("ca-sam", last, label=f"T{t}", options={"temperature": t}) for t, last in ((0.5, 0.7), (1, 0.705))
    ]
    beta = [
        row("ca-sam", last, label=f"b{b}", options={"beta": b}, ood_accuracy=share)
        for b, last, share in ((0, 0.5, 0.5), (8, 0.7, 0.99), (18, 0.69, 0.9))
    ]
    blocks = [
        row("alignment", last, label=f"{count}", options={"blocks": count, "epochs": 8})
        for count, last in ((1, 0.6), (3, 0.59))
    ]
    found = verdicts(tmp_path, bench("table10", warm), bench("table11", beta), bench("figure6", blocks))
    assert found["Flat in the temperature of attention pooling (1 point)"] == (
        "70.0 to 70.5 over 2 values", HOLDS,
    )  # fmt: skip
    assert found["Beta of the VAE has a best value between its ends (1 point above the worst)"] == (
        "Last-IoU 70.0 and 99.0 % rejected at beta 8", HOLDS,
    )  # fmt: skip
    assert found["Three blocks are better than one (0.1 points)"] == ("1: 60.0, 3: 59.0", FAILS)


def test_the_papers_figures_are_read_from_its_tables() -> None:
    paper = {claim.text: claim.paper for claim in CLAIMS}
    assert paper["An Alignment Layer is above the frozen SAM"] == "80.15 against 55.08"
    assert (
        paper["Unseen sets keep the frozen level (within 1 point)"]
        == "5.23 points below on the worst of five sets"
    )
    assert paper["Flat in the rule of the threshold (1 point)"] == "75.83 to 76.04"


def test_on_the_command_line(tmp_path: Path, casam: Casam) -> None:
    verdicts(tmp_path, bench("table3_7", [row("frozen", 0.5)]))
    text = casam("report", tmp_path, "--claims")
    assert casam.code == 0
    assert "not measured" in text
    assert "recipes/table1_cpu.yaml" in text
    casam("report", tmp_path, "--claims", "--table", "table1")
    assert casam.code == 1
    assert "--claims and --table" in casam.err


@pytest.mark.parametrize(("low", "verdict"), [(-0.019, HOLDS), (-0.021, OPEN), (-0.03, FAILS)])
def test_near_is_within_the_bound_that_the_claim_names(tmp_path: Path, low: float, verdict: str) -> None:
    high = -0.021 if verdict is FAILS else 0.01
    made = bench("bench", [row("alignment", 0.5), row("sam-full", 0.5)])
    made["summary"]["tests"] = [pair("alignment", "sam-full", -0.01, low, high)]
    found = verdicts(tmp_path, made)
    assert found["... near full fine-tuning (within 2 points)"][1] == verdict
    assert found["... above SAM-Med2D's adapters"][1] == MISSING


@pytest.mark.parametrize(("after", "verdict"), [(0.4, HOLDS), (0.6, FAILS)])
def test_nearer_on_most_tasks_by_both_distances(tmp_path: Path, after: float, verdict: str) -> None:
    before = {"tv": 0.5, "js": 0.3}
    distances = {
        "a": {"before": before, "after": {"tv": after, "js": after / 2}},
        "b": {"before": before, "after": {"tv": after, "js": after / 2}},
        "c": {"before": before, "after": {"tv": 0.4, "js": 0.4}},
    }
    found = verdicts(tmp_path, bench("table4", [row("alignment", 0.5, distances=distances)]))
    ours, decided = found["An Alignment Layer brings features nearer to a tuned encoder's (most tasks)"]
    assert decided == verdict
    assert ours.startswith(f"TV 0.50 to {(2 * after + 0.4) / 3:.2f}, JS 0.30 to {(after + 0.4) / 3:.2f}; ")
    assert ours.endswith(f"nearer on {2 if verdict == HOLDS else 0} of 3 tasks")


def test_a_task_whose_encoder_tuning_left_as_it_was_does_not_count(tmp_path: Path) -> None:
    distances = {
        "moved": {"before": {"tv": 0.5, "js": 0.3}, "after": {"tv": 0.4, "js": 0.2}},
        "same": {"before": {"tv": 1e-5, "js": 0.0}, "after": {"tv": 0.4, "js": 0.2}},
    }
    found = verdicts(tmp_path, bench("table4", [row("alignment", 0.5, distances=distances)]))
    ours, decided = found["An Alignment Layer brings features nearer to a tuned encoder's (most tasks)"]
    assert decided == HOLDS
    assert ours == (
        "TV 0.50 to 0.40, JS 0.30 to 0.20; nearer on 1 of 1 tasks, without same, where tuning kept the frozen encoder"
    )
    distances.pop("moved")
    found = verdicts(tmp_path / "alone", bench("table4", [row("alignment", 0.5, distances=distances)]))
    assert found["An Alignment Layer brings features nearer to a tuned encoder's (most tasks)"][1] == MISSING


@pytest.mark.parametrize(
    ("forgotten", "verdict"),
    [((0.20, 0.21, 0.22), HOLDS), ((0.001, 0.05, 0.20), OPEN), ((0.0, 0.001, 0.0), FAILS)],
)
def test_a_figure_over_runs_is_decided_by_its_interval(
    tmp_path: Path, forgotten: tuple[float, ...], verdict: str
) -> None:
    rows = [
        {**row("naive", 0.5, ff_iou=value), "order": order, "key": str(number)}
        for number, (value, order) in enumerate(
            zip(forgotten, (["a", "b", "c"], ["b", "a", "c"], ["c", "b", "a"]), strict=True)
        )
    ]
    ours, decided = verdicts(tmp_path, bench("table1", rows))[
        "Naive fine-tuning forgets (FF-IoU above 2 points)"
    ]
    assert "±" in ours
    assert decided == verdict


def test_cheaper_counts_multiply_adds_as_the_paper_does(tmp_path: Path) -> None:
    costs = {
        "alignment": (1.2e6, 100.0),
        "decoder": (4.1e6, 82.0),
        "hq-sam": (4.5e6, 104.0),
        "sam-med2d": (14e6, 202.0),
    }
    rows = [row(name, 0.5, parameters=count, gflops=flops) for name, (count, flops) in costs.items()]
    found = verdicts(tmp_path, bench("table3_7", rows), bench("bench", rows))
    assert found["... with fewer parameters and FLOPs than both"] == (
        "alignment 1.20 M, 50.0 G; decoder 4.10 M, 41.0 G; hq-sam 4.50 M, 52.0 G", FAILS,
    )  # fmt: skip
    assert found["... with fewer parameters and FLOPs than those"] == (
        "alignment 1.20 M, 50.0 G; sam-med2d 14.00 M, 101.0 G", HOLDS,
    )  # fmt: skip


def test_the_rule_on_beta_holds_on_the_papers_own_table() -> None:
    rows = paper_figures("11").rows
    columns = [
        {row.match["beta"]: float(row.values[key]) / 100 for row in rows}
        for key in ("last_iou", "ood_accuracy")
    ]
    assert worth_of_beta(*columns) == (17, True)
    falling = {beta: 1 - beta / 100 for beta in range(5)}
    assert worth_of_beta(falling, falling) == (0, False)
    flat = {0: 0.5, 1: 0.502, 2: 0.5}
    assert worth_of_beta(flat, dict.fromkeys(flat, 0.9)) == (1, False)


def test_the_command_makes_the_bench_that_was_found(tmp_path: Path) -> None:
    rows = [row("frozen", 0.5, seed=seed, order=order) for seed in (0, 1, 2) for order in (1, 2)]
    verdicts(tmp_path, bench("table1", rows))
    commands = {line.label: line.cells["command"].text for line in claims_table(tmp_path).sections[0].lines}
    assert commands["CA-SAM forgets less than 2 points"] == (
        "casam bench --recipe recipes/table1_cpu.yaml --model small --tasks a,b --seeds 3 --orders 2 --unseen u"
    )
    assert commands["... above HQ-SAM"] == "casam bench --recipe recipes/table3_7_cpu.yaml"


def test_a_later_bench_without_the_methods_of_a_claim_does_not_hide_an_earlier_one(tmp_path: Path) -> None:
    made = bench(
        "bench", [row("alignment", 0.5), row("sam-full", 0.5)], [pair("alignment", "sam-full", 0.0, 0.0, 0.1)]
    )
    found = verdicts(tmp_path, made, bench("bench", [row("naive", 0.5)]))
    assert found["... near full fine-tuning (within 2 points)"][1] == HOLDS


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.03, HOLDS), (-0.001, 0.03, OPEN), (-0.03, -0.01, FAILS), (None, None, OPEN)],
)
def test_each_pair_decides_what_lies_between(
    tmp_path: Path, low: float | None, high: float | None, verdict: str
) -> None:
    names = ("naive", "lwf", "ewc", "er", "der", "ca-sam")
    tests = [pair(name, "naive", 0.2, 0.1, 0.3) for name in names[1:-1]]
    tests += [pair("ca-sam", name, 0.2, 0.1, 0.3) for name in names[1:-1] if name != "er"]
    tests.append(pair("ca-sam", "er", 0.015, low, high))
    rows = [row(name, 0.5 + number / 100) for number, name in enumerate(names)]
    found = verdicts(tmp_path, bench("table1", rows, tests))
    assert found["Regularisation and replay lie between the two"][1] == verdict


@pytest.mark.parametrize(
    ("runs", "verdict"), [((0.001, 0.035), OPEN), ((0.001, 0.002), HOLDS), ((0.03, 0.04), FAILS)]
)
def test_two_runs_decide_where_they_lie_on_one_side(
    tmp_path: Path, runs: tuple[float, float], verdict: str
) -> None:
    rows = [row("ca-sam", 0.5, order=order, ff_iou=value) for order, value in zip((1, 2), runs, strict=True)]
    ours, decided = verdicts(tmp_path, bench("table1", rows))["CA-SAM forgets less than 2 points"]
    assert decided == verdict
    assert ours.endswith(f"({100 * runs[0]:.1f}, {100 * runs[1]:.1f})")


@pytest.mark.parametrize(("high", "verdict"), [(0.008, HOLDS), (0.012, OPEN)])
def test_flat_is_decided_by_the_pair_that_is_furthest_apart(
    tmp_path: Path, high: float, verdict: str
) -> None:
    rows = [row("ca-sam", 0.7 + t / 1000, label=f"T{t}", options={"temperature": t}) for t in (1, 2, 4)]
    rows.append(row("emr", 0.2, label="other", options={"temperature": 8}))
    made = bench("table10", rows, [pair("T1", "T4", -0.003, -high, 0.001)])
    ours, decided = verdicts(tmp_path, made)["Flat in the temperature of attention pooling (1 point)"]
    assert ours == "70.1 to 70.4 over 3 values"
    assert decided == verdict


def test_values_of_an_option_are_compared_with_all_else_equal(tmp_path: Path) -> None:
    rows = [
        row("alignment", last, label=f"{blocks} {rate}", options={"blocks": blocks, "learning_rate": rate})
        for blocks, rate, last in ((1, 1e-3, 0.60), (3, 1e-3, 0.65), (1, 1e-4, 0.40), (3, 1e-4, 0.41))
    ]
    rows.append(row("unet", 0.9, options={"blocks": 3, "learning_rate": 1e-3}))
    ours, decided = verdicts(tmp_path, bench("figure6", rows))[
        "Three blocks are better than one (0.1 points)"
    ]
    assert (ours, decided) == ("1: 60.0, 3: 65.0", HOLDS)


def set_for(made: dict[str, Any], **settings: dict[str, Any]) -> dict[str, Any]:
    methods = [{"method": name, "label": "", "set": given} for name, given in settings.items()]
    return {**made, "recipe": {"methods": methods}}


def test_a_later_bench_with_options_of_its_own_does_not_take_the_place_of_an_earlier_one(
    tmp_path: Path,
) -> None:
    short = {"max_steps": 4}
    proper = bench("table1", [row("ca-sam", 0.5, ood_accuracy=0.99), row("naive", 0.5, ff_iou=0.3)])
    other = bench("table1", [row("ca-sam", 0.5, ood_accuracy=0.0)])
    held = bench("table1", [{**row("ca-sam", 0.5, ood_accuracy=0.0), "evaluate": "val"}])
    found = verdicts(
        tmp_path,
        set_for(proper, **{"ca-sam": short, "naive": short}),
        set_for(other, **{"ca-sam": {**short, "threshold": "none"}}),
        held,
    )
    assert found["Unseen images are sent to the frozen SAM (95 %)"] == ("99.0", HOLDS)
    alone = tmp_path / "alone"
    found = verdicts(alone, set_for(other, **{"ca-sam": {"threshold": "none"}}), held)
    assert found["Unseen images are sent to the frozen SAM (95 %)"] == ("0.0", FAILS)
    (note,) = claims_table(alone).notes
    assert note.endswith("1 seed, 1 order, oracle box; ca-sam with threshold none.")


def test_models_are_in_sections_of_their_own(tmp_path: Path) -> None:
    other = [{**row("ca-sam", 0.5, ff_iou=0.5), "model": "other"}]
    verdicts(
        tmp_path,
        bench("table1", [row("ca-sam", 0.5, ff_iou=0.0)]),
        {**bench("table1", other), "model": "other"},
    )
    table = claims_table(tmp_path)
    told = {
        section.title: [line.cells["ours"].text for line in section.lines if line.cells["ours"].text]
        for section in table.sections
    }
    assert {name: texts[0] for name, texts in told.items()} == {"small": "0.0", "other": "50.0"}


def test_a_method_under_another_label_is_found_and_said(tmp_path: Path) -> None:
    rows = [row("ca-sam", 0.6, label="CA-SAM, ours"), row("naive", 0.5)]
    made = bench("table1", rows, [pair("CA-SAM, ours", "naive", 0.1, 0.05, 0.15)])
    found = verdicts(tmp_path, made)
    assert found["CA-SAM is above naive fine-tuning"] == ("+10.0 [5.0, 15.0] points of IoU", HOLDS)
    assert "ca-sam is 'CA-SAM, ours'" in claims_table(tmp_path).notes[0]


def test_a_pair_without_a_test_is_not_decided(tmp_path: Path) -> None:
    found = verdicts(tmp_path, bench("table1", [row("ca-sam", 0.6), row("naive", 0.5)]))
    assert found["CA-SAM is above naive fine-tuning"] == (
        "ca-sam 60.0 and naive 50.0, without a test of the two", OPEN,
    )  # fmt: skip


def test_results_of_releases_without_prompts_are_read(tmp_path: Path) -> None:
    plain = row("ca-sam", 0.5, ff_iou=0.0)
    del plain["prompt"]
    assert verdicts(tmp_path, bench("table1", [plain]))["CA-SAM forgets less than 2 points"][1] == HOLDS
