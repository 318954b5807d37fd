"""Chooses the default recipe of a backbone on validation splits: a search by Optuna, its study kept as a table.

    casam encode DATA/tasks --store STORES --model small --val-fraction 0.3
    python benchmarks/choose_recipe.py STORES --model small --trials 24 --out benchmarks/results/recipe_small

Each trial fits one layer to every task and scores it on that task's validation split; no test image is looked at. Its
value is the mean gain over the frozen model, in points of IoU, with what tasks lost counted twice: a default must not
lose. Trials are stages of the runs folder, so that the same command goes on where it was interrupted.

With `--test STORES2` (the same tasks, encoded without a validation split) leave-one-task-out follows, as a stand-in for
data that nobody tuned on: for each task, the recipe that is best on the others is fitted to it and scored on its test
split.

Writes NAME.md and NAME.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from common import measured_with, provenance, write_result

from casam_cache import fit_task
from casam_cache.bench.tasks import Tasks
from casam_cache.store import find_stores

FIXED = {"norm": "none", "schedule": "cosine", "epochs": 1, "held_out": 0.2}
SPACES: dict[str, dict[str, list[Any]]] = {
    "small": {
        "kind": ["full", "depthwise", "bottleneck"],
        "blocks": [1, 3],
        "learning_rate": [3e-4, 1e-3, 3e-3],
        "batch_size": [2, 6],
        "steps": [120, 240, 480],
        "box_share": [0.5, 1.0],
        "box_jitter": [0.02, 0.1],
        "focal_alpha": [0.25, 0.5],
        "interpolations": [0, 3],
    },
    "lite_medsam": {
        "kind": ["full", "depthwise", "bottleneck"],
        "blocks": [1, 3],
        "learning_rate": [3e-4, 1e-3, 3e-3],
        "batch_size": [2],
        "steps": [120, 240],
        "box_share": [1.0],
        "box_jitter": [0.0, 0.02, 0.05],
        "focal_alpha": [0.25, 0.5],
        "interpolations": [0, 3],
    },
}


def recipe_of(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a trial as training has them: exactly so many steps."""
    rest = {name: value for name, value in chosen.items() if name != "steps"}
    return {**FIXED, **rest, "min_steps": chosen["steps"], "max_steps": chosen["steps"]}


def fit(
    task: str, stores: Path, runs: Path, model: str, recipe: Mapping[str, Any], split: str
) -> dict[str, Any]:
    """Frozen and fitted IoU of a task, and the interval of the gain; in a process of one thread."""
    torch.set_num_threads(1)
    options = [f"{name}={value}" for name, value in recipe.items()]
    report = fit_task(
        task, stores, runs, options=options, recipe="paper", model=model, split=split, changed="recompute"
    )
    gain = report.gain["iou"]
    return {
        "frozen": report.frozen["iou"].mean,
        "fitted": report.test["iou"].mean,
        "gain": [gain.mean, gain.low, gain.high],
        "kept": None if report.chosen is None else report.chosen["step"],
    }


def value(gains: Sequence[float]) -> float:
    """Mean gain in points, losses counted twice."""
    return float(np.mean([100 * (gain + min(0.0, gain)) for gain in gains]))


def best(trials: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Mapping[str, Any]:
    """The trial of the highest value on these tasks."""
    return max(trials, key=lambda trial: value([trial["tasks"][task]["gain"][0] for task in tasks]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path)
    parser.add_argument("--model", choices=sorted(SPACES), required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--first", action="append", default=[], metavar="JSON", help="trials to begin with")
    parser.add_argument("--runs", type=Path, default=Path("casam_recipe_runs"))
    parser.add_argument("--test", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tasks = sorted(path.parent.name for path in find_stores(options.stores, backbone=options.model))
    weights = Tasks.open(options.stores, options.model, "cpu", task=tasks[0]).place.weights(tasks[0])
    space, trials = SPACES[options.model], list[dict[str, Any]]()

    with ProcessPoolExecutor(options.workers) as pool:

        def fitted(
            recipe: Mapping[str, Any], names: Sequence[str], stores: Path, split: str
        ) -> dict[str, Any]:
            futures = {
                task: pool.submit(fit, task, stores, options.runs, options.model, recipe, split)
                for task in names
            }
            return {task: future.result() for task, future in futures.items()}

        def objective(trial: optuna.Trial) -> float:
            chosen = {name: trial.suggest_categorical(name, values) for name, values in space.items()}
            found = fitted(recipe_of(chosen), tasks, options.stores, "val")
            trials.append({"options": chosen, "tasks": found})
            return value([each["gain"][0] for each in found.values()])

        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
        for text in options.first:
            study.enqueue_trial(json.loads(text))
        study.optimize(objective, n_trials=options.trials)
        chosen_for = {
            task: best(trials, [other for other in tasks if other != task])["options"]
            for task in (tasks if options.test else [])
        }
        futures = {
            task: pool.submit(fit, task, options.test, options.runs, options.model, recipe_of(chosen), "test")
            for task, chosen in chosen_for.items()
        }
        left_out = {
            task: {"options": chosen_for[task], **future.result()} for task, future in futures.items()
        }
    made = {
        **provenance(torch.device("cpu")), "model": options.model, "weights": weights, "fixed": FIXED, "space": space,
        "trials": trials, "best": best(trials, tasks)["options"], "leave_one_out": left_out,
    }  # fmt: skip
    write_result(options.out, made, page(made, tasks))


def page(made: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """The study as tables."""
    varied = [name for name, values in made["space"].items() if len(values) > 1]
    ranked = sorted(
        made["trials"], key=lambda trial: -value([each["gain"][0] for each in trial["tasks"].values()])
    )
    lines = [
        f"Gain over frozen {made['model']} in points of IoU on validation splits, and their value (the mean, losses "
        "counted twice); the first line is the default recipe.",
        "",
        f"| {' | '.join(varied)} | value | {' | '.join(tasks)} |",
        f"|{'---|' * (len(varied) + 1 + len(tasks))}",
    ]
    for place, trial in enumerate(ranked):
        if trial["options"] in [other["options"] for other in ranked[:place]]:
            continue  # Optuna may ask for the same twice
        gains = [trial["tasks"][task]["gain"][0] for task in tasks]
        chosen = [str(trial["options"][name]) for name in varied]
        shown = [f"{100 * gain:+.1f}" for gain in gains]
        lines.append(f"| {' | '.join([*chosen, f'{value(gains):.2f}', *shown])} |")
    if made["leave_one_out"]:
        lines += [
            "",
            "Each task with the recipe that is best on the others, on its test split:",
            "",
            "| task | recipe | frozen | fitted | gain |",
            "|---|---|---|---|---|",
        ]
        for task, found in made["leave_one_out"].items():
            mean, low, high = (100 * each for each in found["gain"])
            recipe = ", ".join(f"{name} {found['options'][name]}" for name in varied)
            edges = "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"
            sides = f"{100 * found['frozen']:.1f} | {100 * found['fitted']:.1f}"
            lines.append(f"| {task} | {recipe} | {sides} | {mean:+.1f}{edges} |")
    settled = {name: values[0] for name, values in made["space"].items() if len(values) == 1}
    fixed = ", ".join(f"{name} {each}" for name, each in {**made["fixed"], **settled}.items())
    return [
        *lines,
        "",
        f"Fixed: {fixed}. Weights {made['weights'][:12]}, seed 0. {measured_with(made)}",
    ]


if __name__ == "__main__":
    main()
