"""A bench: methods with their options over orders and seeds, planned as one graph of stages and run once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from casam_cache.backbones.devices import choose_device
from casam_cache.bench.catalogue import split_stores
from casam_cache.bench.configs import Group, expand
from casam_cache.bench.estimate import Rates
from casam_cache.bench.lines import Config, Course, FrozenLine, JointLine, Line, SequentialLine, SingleLine
from casam_cache.bench.node import Node
from casam_cache.bench.nodes import Nodes
from casam_cache.bench.orders import Order, read_orders
from casam_cache.bench.recipe import Recipe
from casam_cache.bench.results import Results, make_row, summarise_rows
from casam_cache.bench.routed_lines import RoutedLine
from casam_cache.bench.run import Counts, PlanProgress, missing, run_plan
from casam_cache.bench.site import Site
from casam_cache.bench.stages import Runs
from casam_cache.bench.tables import Tables
from casam_cache.errors import OptionError, StoreError
from casam_cache.methods.frozen import Frozen
from casam_cache.methods.joint import Joint
from casam_cache.methods.routed import Routed
from casam_cache.methods.sequential import Sequential


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
        """Plain JSON."""
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
        site: the stores.
        runs: where stages are kept.
        orders: of the tasks.
        unseen: sets no method trains on.
        groups: methods with their configurations.
        skipped: methods that cannot run on these stores, and why.
    """

    recipe: Recipe
    site: Site
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
        groups, references = expand(recipe)
        reference = str(Path(recipe.reference).resolve()) if recipe.reference else ""
        site = Site.open(stores, model, where, references, reference)
        tasks, unseen = split_stores(site.tasks(), recipe.tasks, recipe.unseen)
        site.check_same_backbone([*tasks, *unseen])
        orders = read_orders(recipe.order, tasks, recipe.orders, recipe.order_seed)
        bench = cls(recipe, site, Runs(runs), orders, tuple(unseen), groups)
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
                        self.site.require(task, config.method.needs)
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

    def lines(
        self, evaluate: str, groups: Sequence[Group] | None = None, unseen: Sequence[str] | None = None
    ) -> list[Line]:
        """One line a configuration, order and seed, in the order of the table."""
        nodes = Nodes(self.site)
        outside = self.unseen if unseen is None else tuple(unseen)
        found = []
        for group in self.groups if groups is None else groups:
            for config in group.configs:
                for order in self.orders:
                    for seed in range(self.recipe.seeds):
                        course = Course(order.tasks, seed, evaluate, outside)
                        found.append(_line(config, course, nodes))
        return found

    def summary(self) -> PlanSummary:
        """What there is to do, without doing it. Where a selection comes first, its part on the validation split."""
        lines = self._selecting() if self.recipe.select else self.lines(self.recipe.evaluate)
        kinds: dict[str, dict[str, int]] = {}

        def count(node: Node, column: str) -> None:
            kinds.setdefault(node.kind, {"requested": 0, "distinct": 0, "existing": 0, "missing": 0})[
                column
            ] += 1

        for line in lines:
            for node in line.nodes:
                count(node, "requested")
        for node in distinct(lines):
            count(node, "distinct")
        todo = missing(_targets(lines), self.runs)
        absent = {node.key for node in todo}
        for node in distinct(lines):
            count(node, "missing" if node.key in absent else "existing")
        rates = Rates.read(self.runs, kinds)
        return PlanSummary(dict(sorted(kinds.items())), rates.seconds(todo))

    def run(
        self,
        *,
        jobs: int = 1,
        executor: Executor | None = None,
        on_progress: Callable[[BenchProgress], None] | None = None,
        on_inner: Callable[[Any], None] | None = None,
    ) -> Results:
        """Computes what is missing, and the results.

        Args:
            jobs: processes, or places in the executor.
            executor: instead of processes here.
            on_progress: called whenever stages finish.
            on_inner: progress within a stage; only with one job.

        Raises:
            CasamError: a stage failed; what is finished stays.
        """
        chosen, selection = self.groups, None
        counts = Counts(0, frozenset())
        requested: list[Line] = []
        if self.recipe.select:
            lines = self._selecting()
            counts = self._compute(lines, jobs, executor, on_progress, on_inner)
            requested += lines
            chosen, selection = self._select(lines)
        lines = self.lines(self.recipe.evaluate, chosen)
        second = self._compute(lines, jobs, executor, on_progress, on_inner)
        requested += lines
        tables = Tables(self.runs)
        rows = [make_row(line, tables, self.recipe) for line in lines]
        everything = distinct(requested)
        computed = counts.computed + second.computed
        stages = {
            "requested": sum(len(line.nodes) for line in requested),
            "distinct": len(everything),
            "computed": computed,
            "reused": len(everything) - computed,
        }
        results = Results(
            recipe=self.recipe,
            model=self.site.place.model,
            orders=self.orders,
            unseen=self.unseen,
            rows=rows,
            stages=stages,
            summary=summarise_rows(lines, rows, tables),
            selection=selection,
            skipped=self.skipped,
            mixtures=tables.mixtures(everything),
        )
        results.write(self.runs)
        return results

    def _compute(
        self,
        lines: list[Line],
        jobs: int,
        executor: Executor | None,
        on_progress: Callable[[BenchProgress], None] | None,
        on_inner: Callable[[Any], None] | None,
    ) -> Counts:
        live = _Live(lines, self.runs, self.recipe) if on_progress else None

        def show(progress: PlanProgress) -> None:
            assert live is not None
            assert on_progress is not None
            on_progress(live.after(progress))

        return run_plan(
            distinct(lines), _targets(lines), self.runs,
            jobs=jobs, executor=executor, on_progress=show if on_progress else None, on_inner=on_inner,
        )  # fmt: skip

    def _selecting(self) -> list[Line]:
        """What a selection looks at: validation splits, and no unseen set, which has its test split alone."""
        return self.lines("val", unseen=())

    def _select(self, lines: list[Line]) -> tuple[list[Group], dict[str, Any]]:
        """Of each group the configuration with the best mean on the validation split; ties go to the first."""
        tables = Tables(self.runs)
        column = f"last_{self.recipe.select}"
        scores: dict[str, list[float]] = {}
        for line in lines:
            value = make_row(line, tables, self.recipe)[column]
            scores.setdefault(line.config.label, []).append(math.nan if value is None else value)
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
    """Which results are complete, as stages finish."""

    def __init__(self, lines: list[Line], runs: Runs, recipe: Recipe) -> None:
        self._lines, self._tables, self._recipe = lines, Tables(runs), recipe
        todo = {node.key for node in missing(_targets(lines), runs)}
        self._keys = [{node.key for node in line.nodes} for line in lines]
        self._left = [keys & todo for keys in self._keys]
        self._rows: list[dict[str, Any] | None] = [None] * len(lines)

    def after(self, progress: PlanProgress) -> BenchProgress:
        for number, left in enumerate(self._left):
            left.difference_update(progress.finished)
            if progress.done == progress.total:  # some may have been finished elsewhere before the plan began
                left.clear()
            if not left and self._rows[number] is None:
                self._rows[number] = make_row(self._lines[number], self._tables, self._recipe)
        parts = tuple(
            (len(keys) - len(left), len(keys)) for keys, left in zip(self._keys, self._left, strict=True)
        )
        labels = tuple(line.config.label for line in self._lines)
        return BenchProgress(progress, labels, tuple(self._rows), parts)


def distinct(lines: Sequence[Line]) -> list[Node]:
    """Every stage of the lines, each once."""
    return list({node.key: node for line in lines for node in line.nodes}.values())


def _targets(lines: Sequence[Line]) -> list[Node]:
    return list(
        _unique(node for line in lines for node in (*line.frozen.values(), line.cost, *line.targets()))
    )


def _unique(nodes: Iterator[Node]) -> Iterator[Node]:
    seen = set()
    for node in nodes:
        if node.key not in seen:
            seen.add(node.key)
            yield node


def _line(config: Config, course: Course, nodes: Nodes) -> Line:
    method = config.method
    kinds: Mapping[type, type[Line]] = {
        Frozen: FrozenLine,
        Joint: JointLine,
        Sequential: SequentialLine,
        Routed: RoutedLine,
    }
    for kind, line in kinds.items():
        if isinstance(method, kind):
            return line(config, course, nodes)
    return SingleLine(config, course, nodes)
