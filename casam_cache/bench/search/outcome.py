"""What came out of a search: trials, the front, what each option explains, and recipes of the best, as files.

In runs/search/KEY:

runs/search/KEY/search.json      all of it
runs/search/KEY/recipe.yaml      the best trial in the first objective, for `casam fit` and `casam bench --recipe`
runs/search/KEY/recipe-12.yaml   with several objectives, each trial of the front
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from casam_cache.bench.recipe import read_recipe
from casam_cache.bench.search.objectives import front
from casam_cache.bench.search.plan import SearchPlan
from casam_cache.bench.search.study import Study, TrialResult
from casam_cache.engine.runs import READ_ONLY
from casam_cache.fingerprint import digest, finite_json
from casam_cache.training.evaluation_prompts import BOX

FOLDER = "search"  # of a runs folder
FILE = "search.json"
RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class SearchReport:
    """A search as it stands.

    Attributes:
        key: of the study.
        folder: where study and results lie.
        method: what was searched, as it is named on the command line.
        name: of the method, as tables name it.
        model: the backbone's store.
        stand_in: what the backbone is, where it is no real SAM.
        objectives: their names.
        space: options that vary and those that do not.
        base: what stood behind them.
        seed: of suggestions and fits.
        prompt: what masks were scored with.
        rungs: tasks and part of the steps of each.
        tasks: of each which groups decide: `train`, `scored`, `groups`, `masks`, and the frozen SAM's means.
        trials: all of them.
        front: numbers of those that no other dominates, the best in the first objective first.
        best: number of the best in the first objective; None where none is complete.
        importance: by objective, each option's share of the differences at the first rung.
        mixtures: devices, threads, versions and code behind the trials, where there is more than one of a kind.
        recipes: files, by number of the trial.
        new: trials of this call.
        computed: stages that this call computed.
    """

    key: str
    folder: str
    method: str
    name: str
    model: str
    stand_in: str
    objectives: tuple[str, ...]
    space: Mapping[str, Any]
    base: Mapping[str, Any]
    seed: int
    prompt: str
    rungs: tuple[Mapping[str, Any], ...]
    tasks: Mapping[str, Mapping[str, Any]]
    trials: tuple[TrialResult, ...]
    front: tuple[int, ...]
    best: int | None
    importance: Mapping[str, Mapping[str, float]]
    mixtures: Mapping[str, list[str]]
    recipes: Mapping[int, str]
    new: int
    computed: int

    @property
    def complete(self) -> list[TrialResult]:
        """Those that were fitted in full."""
        return [trial for trial in self.trials if trial.state == "complete"]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; metrics in [0, 1]."""
        data = {**vars(self), "trials": [trial.to_json() for trial in self.trials]}
        data["recipes"] = {str(number): path for number, path in self.recipes.items()}
        plain: dict[str, Any] = finite_json(data)
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> SearchReport:
        """What `search.json` of a folder holds, wherever the folder was moved to."""
        recipes = {int(number): str(folder / Path(path).name) for number, path in data["recipes"].items()}
        made = {
            "folder": str(folder), "recipes": recipes, "new": 0, "computed": 0, "front": tuple(data["front"]),
            "trials": tuple(map(TrialResult.from_json, data["trials"])),
            "objectives": tuple(data["objectives"]), "rungs": tuple(data["rungs"]),
        }  # fmt: skip
        return cls(**{**data, **made})


def report_of(
    plan: SearchPlan,
    study: Study,
    folder: Path,
    frozen: Mapping[str, Mapping[str, float]],
    mixtures: Mapping[str, list[str]],
    new: int,
    computed: int,
) -> SearchReport:
    """The report of a study; `frozen` are the frozen SAM's means by task, `mixtures` as of `Tables`."""
    complete = {trial.number: trial.rungs[-1].values for trial in study.trials if trial.state == "complete"}
    on_front = front(complete, plan.objectives) if complete else []
    best = study.best
    recipes = {} if best is None else {best.number: str(folder / RECIPE)}
    for number in on_front if len(plan.objectives) > 1 else []:
        recipes.setdefault(number, str(folder / f"recipe-{number}.yaml"))
    return SearchReport(
        key=plan.key,
        folder=str(folder),
        method=plan.reference,
        name=plan.made.name,
        model=plan.tasks.place.model,
        stand_in=plan.tasks.place.backbone(plan.judged[0].task).stand_in,
        objectives=plan.objectives,
        space=plan.space.to_json(),
        base=dict(plan.base),
        seed=plan.seed,
        prompt=plan.prompt.name,
        rungs=tuple(rung.to_json() for rung in plan.rungs),
        tasks={
            each.task: {
                "train": each.train, "scored": each.scored.ref.split, "groups": each.scored.groups,
                "masks": sum(each.scored.masks), "frozen": dict(frozen[each.task]),
            }
            for each in plan.judged
        },
        trials=tuple(study.trials),
        front=tuple(on_front),
        best=None if best is None else best.number,
        importance=study.importances(),
        mixtures=mixtures,
        recipes=recipes,
        new=new,
        computed=computed,
    )  # fmt: skip


def write_report(report: SearchReport, plan: SearchPlan) -> None:
    """Writes `search.json` and the recipes; those of an earlier state of the study that are no longer among them go."""
    folder = Path(report.folder)
    kept = {Path(path).name for path in report.recipes.values()}
    for path in folder.glob("recipe*.yaml"):
        if path.name not in kept:
            path.unlink()
    for number, file in report.recipes.items():
        replace_file(Path(file), recipe_text(plan, report.trials[number], report.key).encode())
    told = {name: value for name, value in report.to_json().items() if name not in ("new", "computed")}
    replace_file(folder / FILE, (json.dumps({**told, "digest": digest(told)}, indent=1) + "\n").encode())


def read_reports(runs: Path, say: Callable[[str], None]) -> list[SearchReport]:
    """Every search of a runs folder, or that of one folder of its `search/`, the newest last.

    Args:
        runs: the folder.
        say: takes a line for each `search.json` that is not what was written, and is left out.
    """
    paths = [path for pattern in (FILE, f"{FOLDER}/*/{FILE}") for path in runs.glob(pattern)]
    found = []
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime, path)):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("digest") != digest(data):
                raise ValueError("it is not what was written")
            found.append(SearchReport.from_json(data, path.parent))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            say(f"{path} is damaged and left out: {error}; casam search writes it again")
    return found


def recipe_text(plan: SearchPlan, trial: TrialResult, key: str) -> str:
    """A recipe with every option of a trial, whatever a backbone's own recipe says by then."""
    config = plan.config(trial.point)
    content: dict[str, Any] = {
        "title": f"{plan.made.name}: trial {trial.number} of search {key}",
        "table": "bench",
        "tasks": [each.task for each in plan.judged],
        "defaults": "paper",
        "training": config.training.model_dump(mode="json"),
        "methods": [{"method": plan.reference, "set": config.method.options.model_dump(mode="json")}],
    }
    if plan.prompt != BOX:
        content["prompts"] = plan.prompt.text
    read_recipe(content, "of a search")
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return text


def replace_file(path: Path, content: bytes) -> None:
    """Whole or not at all; one that is there stays where the folder can only be read."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        if error.errno not in READ_ONLY or not path.is_file():
            raise
