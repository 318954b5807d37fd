"""A bench: methods with their options over orders and seeds, planned as one graph of stages and run once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from casam_cache.backbones.devices import choose_device
from casam_cache.backbones.recipes import PAPER
from casam_cache.bench.configs import Group, expand
from casam_cache.bench.families import Course, Entry, entry_class
from casam_cache.bench.orders import Order, read_orders
from casam_cache.bench.paper_sets import split_stores
from casam_cache.bench.recipe import Recipe
from casam_cache.bench.results import Results, make_row, summarise_rows
from casam_cache.bench.stages.evaluate import metric_refs
from casam_cache.bench.tables import Tables
from casam_cache.bench.tasks import Tasks
from casam_cache.encode.kept_backbones import keep_backbone
from casam_cache.engine.rates import Rates
from casam_cache.engine.runs import Changed, Runs
from casam_cache.engine.schedule import PlanProgress, look, run_plan
from casam_cache.engine.stage import Stage, each_once
from casam_cache.engine.uses import note_use
from casam_cache.errors import OptionError, StoreError
from casam_cache.training.evaluation_prompts import parse_prompt


@dataclass(frozen=True)
class BenchProgress:
    """What a live view shows.

    Attributes:
        plan: stages.
        labels: of the results' configurations, in the order of the table.
        rows: results that are complete; None for those that are not.
        parts: for each result, stages done and stages in all.
    """

    plan: PlanProgress
    labels: tuple[str, ...]
    rows: tuple[dict[str, Any] | None, ...]
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PlanSummary:
    """What a plan will cost (`--dry-run`).

    Attributes:
        kinds: for each kind: stages requested without sharing, distinct ones, those that exist, those to compute.
        seconds: of work for what is to compute; None where stages of a kind were never timed here.
    """

    kinds: dict[str, dict[str, int]]
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        totals = {
            name: sum(kind[name] for kind in self.kinds.values())
            for name in ("requested", "distinct", "existing", "missing")
        }
        return {"stages": totals, "kinds": self.kinds, "seconds": self.seconds}


@dataclass
class Bench:
    """A planned bench.

    Attributes:
        recipe: what was asked.
        tasks: of the folder of stores.
        runs: where stages are kept.
        orders: of the tasks.
        unseen: sets no method trains on.
        groups: methods with their configurations.
        skipped: methods that cannot run on these stores, and why.
    """

    recipe: Recipe
    tasks: Tasks
    runs: Runs
    orders: list[Order]
    unseen: tuple[str, ...]
    groups: list[Group]
    skipped: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def plan(
        cls,
        recipe: Recipe,
        stores: Path,
        runs: Path,
        *,
        model: str | None = None,
        device: str = "auto",
        lenient: bool = False,
    ) -> Bench:
        """Checks everything that can be checked before anything runs.

        Args:
            recipe: what to run.
            stores: folder of stores.
            runs: folder of stages.
            model: the backbone's stores, needed only where there are several.
            device: `auto`, `cpu`, `cuda`, ...
            lenient: leave out methods whose features the stores lack, instead of refusing.

        Raises:
            CasamError: an unknown task, method or option, a missing split or feature.
        """
        where = str(choose_device(device))
        groups, references = expand(recipe, PAPER if recipe.defaults == "backbone" else None)
        reference = str(Path(recipe.reference).resolve()) if recipe.reference else ""
        found = Tasks.open(stores, model, where, references, reference)
        tasks, unseen = split_stores(found.names(), recipe.tasks, recipe.unseen)
        if recipe.defaults == "backbone":
            found.store(tasks[0])  # which says what is wrong with the name of a task
            groups, _ = expand(recipe, found.place.backbone(tasks[0]).recipe)
        found.check_same_backbone([*tasks, *unseen])
        orders = read_orders(recipe.order, tasks, recipe.orders, recipe.order_seed)
        bench = cls(recipe, found, Runs(runs), orders, tuple(unseen), groups)
        bench._check_needs(tasks, lenient)
        named = [group.label for group in groups]
        twice = sorted({name for name in named if named.count(name) > 1})
        if recipe.select and twice:
            raise OptionError(
                f"two entries are both '{twice[0]}', and one is chosen of each",
                "give each its own label in the recipe",
            )
        return bench

    def _check_needs(self, tasks: Sequence[str], lenient: bool) -> None:
        kept = []
        for group in self.groups:
            try:
                for config in group.configs:
                    for task in [*tasks, *self.unseen]:
                        self.tasks.require(task, config.method.needs)
            except StoreError as error:
                if not lenient:
                    raise
                self.skipped.append({"method": group.label, "reason": error.message, "hint": error.hint})
                continue
            kept.append(group)
        if not kept:
            raise OptionError(
                "none of the methods can run on these stores", self.skipped[0]["hint"] if self.skipped else ""
            )
        self.groups = kept

    def entries(
        self, evaluate: str, groups: Sequence[Group] | None = None, unseen: Sequence[str] | None = None
    ) -> list[Entry]:
        """One entry a configuration, order and seed, in the order of the table."""
        outside, metrics = self.unseen if unseen is None else tuple(unseen), metric_refs(self.recipe.metrics)
        prompt = parse_prompt(self.recipe.prompts)
        return [
            entry_class(config.method)(
                config, Course(order.tasks, seed, evaluate, outside, metrics, prompt), self.tasks
            )
            for group in (self.groups if groups is None else groups)
            for config in group.configs
            for order in self.orders
            for seed in range(self.recipe.seeds)
        ]

    def summary(self) -> PlanSummary:
        """What there is to do, without doing it. Where a selection comes first, its part on the validation split."""
        entries = self._selecting() if self.recipe.select else self.entries(self.recipe.evaluate)
        kinds: dict[str, dict[str, int]] = {}

        def count(stage: Stage, column: str) -> None:
            columns = {"requested": 0, "distinct": 0, "existing": 0, "missing": 0}
            kinds.setdefault(stage.kind, columns)[column] += 1

        for entry in entries:
            for stage in entry.stages:
                count(stage, "requested")
        todo = look(_wanted(entries), self.runs).stages
        for stage in distinct(entries):
            count(stage, "distinct")
            count(stage, "missing" if stage.key in todo else "existing")
        rates = Rates.read(self.runs, kinds)
        return PlanSummary(dict(sorted(kinds.items())), rates.seconds(todo.values()))

    def run(
        self,
        *,
        changed: Changed = "stop",
        jobs: int = 1,
        executor: Executor | None = None,
        on_progress: Callable[[BenchProgress], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Results:
        """Computes what is missing, and the results.

        Args:
            changed: what to do about finished stages that other code computed: `stop`, `recompute` or `keep`.
            jobs: processes, or places in the executor.
            executor: instead of processes here.
            on_progress: called whenever stages finish.
            say: takes lines for a person, e.g. that a damaged stage is computed again.

        Raises:
            ChangedCodeError: stages of other code would be reused, with `stop`.
            CasamError: a stage failed; what is finished stays.
        """

        def compute(entries: list[Entry]) -> frozenset[str]:
            live = _Live(entries, self.runs, self.recipe, on_progress) if on_progress else None
            return run_plan(
                _wanted(entries), self.runs, self.tasks.place, changed=changed, jobs=jobs, executor=executor,
                on_progress=live.show if live else None, say=say,
            )  # fmt: skip

        chosen, selection = self.groups, None
        computed: frozenset[str] = frozenset()
        requested: list[Entry] = []
        if self.recipe.select:
            requested = self._selecting()
            computed = compute(requested)
            chosen, selection = self._select(requested)
        entries = self.entries(self.recipe.evaluate, chosen)
        computed |= compute(entries)
        requested = [*requested, *entries]
        tables = Tables(self.runs)
        rows = [make_row(entry, tables, self.recipe) for entry in entries]
        everything = distinct(requested)
        results = Results(
            recipe=self.recipe,
            model=self.tasks.place.model,
            orders=self.orders,
            unseen=self.unseen,
            rows=rows,
            stages={
                "requested": sum(len(entry.stages) for entry in requested),
                "distinct": len(everything),
                "computed": len(computed),
                "reused": len(everything) - len(computed),
            },
            summary=summarise_rows(entries, rows, tables),
            selection=selection,
            skipped=self.skipped,
            mixtures=tables.mixtures(everything),
            entries=entries,
        )
        place = self.tasks.place
        keep_backbone(Path(place.stores), place.weights(self.orders[0].tasks[0]), self.runs.root)
        folder = results.write(self.runs)
        note_use(self.runs, folder.name, f"bench: {self.recipe.title}", everything)
        return results

    def _selecting(self) -> list[Entry]:
        """What a selection looks at: validation splits, and no unseen set, which nothing may be chosen on."""
        return self.entries("val", unseen=())

    def _select(self, entries: list[Entry]) -> tuple[list[Group], dict[str, Any]]:
        """Of each group the configuration with the best mean on the validation split; ties go to the first."""
        tables = Tables(self.runs)
        column = f"last_{self.recipe.select}"
        scores: dict[str, list[float]] = {}
        for entry in entries:
            value = make_row(entry, tables, self.recipe)[column]
            scores.setdefault(entry.config.label, []).append(math.nan if value is None else value)
        chosen, told = [], {}
        for group in self.groups:
            means = [math.fsum(scores[config.label]) / len(scores[config.label]) for config in group.configs]
            ranked = [mean if math.isfinite(mean) else -math.inf for mean in means]
            best = ranked.index(max(ranked))
            chosen.append(Group(group.label, (group.configs[best],)))
            told[group.label] = {
                "chosen": group.configs[best].label,
                "validation": {config.label: mean for config, mean in zip(group.configs, means, strict=True)},
            }
        return chosen, {"metric": column, "split": "val", "groups": told}


class _Live:
    """Tells which results are complete, as stages finish."""

    def __init__(
        self, entries: list[Entry], runs: Runs, recipe: Recipe, tell: Callable[[BenchProgress], None]
    ) -> None:
        self._entries, self._tables, self._recipe, self._tell = entries, Tables(runs), recipe, tell
        todo = look(_wanted(entries), runs).stages
        self._keys = [{stage.key for stage in entry.stages} for entry in entries]
        self._left = [keys & set(todo) for keys in self._keys]
        self._rows: list[dict[str, Any] | None] = [None] * len(entries)

    def show(self, progress: PlanProgress) -> None:
        for number, left in enumerate(self._left):
            left.difference_update(progress.finished)
            if progress.done == progress.total:  # some may have been finished elsewhere before the plan began
                left.clear()
            if not left and self._rows[number] is None:
                self._rows[number] = make_row(self._entries[number], self._tables, self._recipe)
        parts = tuple(
            (len(keys) - len(left), len(keys)) for keys, left in zip(self._keys, self._left, strict=True)
        )
        labels = tuple(entry.config.label for entry in self._entries)
        self._tell(BenchProgress(progress, labels, tuple(self._rows), parts))


def distinct(entries: Sequence[Entry]) -> list[Stage]:
    """Every stage of the entries, each once, parents first."""
    return list(each_once(stage for entry in entries for stage in entry.stages))


def _wanted(entries: Sequence[Entry]) -> list[Stage]:
    return list(each_once(stage for entry in entries for stage in entry.wanted))
