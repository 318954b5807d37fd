"""Orders of the tasks: the paper's, random ones that do not change when more are asked for, or the user's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from casam_cache.bench.paper_sets import TABLE_8, TASKS, paper_names
from casam_cache.errors import OptionError, unknown_name
from casam_cache.fingerprint import generator

Spec = str | Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True)
class Order:
    """One order.

    Attributes:
        name: `paper`, `table8-1`, `random-0`, `sorted`, or `given-1`.
        tasks: in order of training.
    """

    name: str
    tasks: tuple[str, ...]


def read_orders(spec: Spec, names: Sequence[str], count: int = 1, order_seed: int = 0) -> list[Order]:
    """The orders that `--order SPEC --orders COUNT` asks for.

    Named orders come first, then random ones until there are `count`; with more of them asked for, the first stay what
    they were. Orders given explicitly all run, also if they are more than `count`.

    Args:
        spec: `paper` (the paper's main order if every task is of the paper, else the names sorted), `table8` (the three
            orders of Table 8 if every task is of the paper, else random ones), `random`, `A,B,C`, a file (one name a
            line, or YAML: a list, or a list of lists), a list, or a list of lists.
        names: of all tasks.
        count: how many.
        order_seed: of the random ones.

    Raises:
        OptionError: unknown, missing or repeated names, an unreadable file, or more orders than there are.
    """
    given = _named(spec, names) if isinstance(spec, str) else _explicit(spec, names)
    orders = given if not isinstance(spec, str) or spec not in NAMED else given[:count]
    have = {order.tasks for order in orders}
    further = [order for order in random_orders(names, count, order_seed) if order.tasks not in have]
    return orders + further[: max(0, count - len(orders))]


def random_orders(names: Sequence[str], count: int, order_seed: int = 0) -> list[Order]:
    """The first `count` of an endless list of distinct random orders.

    Draw i depends on (order seed, i, sorted names) alone, and one that came before is skipped: the first K of K + 10
    orders are the K orders, however the names are given.

    Raises:
        OptionError: more orders than there are.
    """
    possible = math.factorial(len(names))
    if count > possible:
        raise OptionError(
            f"{count} orders of {len(names)} tasks", f"there are only {possible}: --orders {possible}"
        )
    seen: dict[tuple[str, ...], None] = {}
    draws = _draws(sorted(names), order_seed)
    while len(seen) < count:
        seen.setdefault(next(draws))
    return [Order(f"random-{i}", tasks) for i, tasks in enumerate(seen)]


def _draws(names: list[str], order_seed: int) -> Iterator[tuple[str, ...]]:
    i = 0
    while True:
        shuffled = generator(order_seed, "order", i, *names).permutation(len(names))
        yield tuple(names[position] for position in shuffled)
        i += 1


NAMED = ("paper", "table8", "random")


def _named(spec: str, names: Sequence[str]) -> list[Order]:
    """Orders of a spec that is one text."""
    if spec == "random":
        return []
    if spec in NAMED:
        of_paper = paper_names(names)
        if spec == "paper":
            if of_paper is None:
                return [Order("sorted", tuple(sorted(names)))]
            return [Order("paper", tuple(of_paper[name] for name in TASKS if name in of_paper))]
        if of_paper is None:
            return []
        kept = [tuple(of_paper[name] for name in order if name in of_paper) for order in TABLE_8]
        distinct = dict.fromkeys(kept)  # of few tasks, two of them may be the same
        return [Order(f"table8-{kept.index(tasks) + 1}", tasks) for tasks in distinct]
    if _is_file(spec):
        return _explicit(_read_file(Path(spec)), names, spec)
    if "," not in spec and spec not in names:
        raise OptionError(
            f"order '{spec}' is neither a file nor a list of tasks",
            f"give {', '.join(NAMED)}, a file, or all names separated by commas: {','.join(sorted(names))}",
        )
    return _explicit([part.strip() for part in spec.split(",")], names)


def _is_file(spec: str) -> bool:
    try:
        return Path(spec).is_file()
    except OSError:  # many names in one text are longer than a file's name may be
        return False


def _explicit(spec: Any, names: Sequence[str], source: str = "") -> list[Order]:
    """Orders of a list of names or of a list of such lists, checked."""
    where = f" in {source}" if source else ""
    lists = spec if spec and all(isinstance(entry, list | tuple) for entry in spec) else [spec]
    orders = []
    for number, tasks in enumerate(lists, 1):
        which = f"order {number}{where}" if len(lists) > 1 else f"the order{where}"
        tasks = [str(name) for name in tasks]
        for name in tasks:
            if name not in names:
                error = unknown_name("task", name, list(names))
                raise OptionError(f"{which}: {error.message}", error.hint)
        twice = [name for name in tasks if tasks.count(name) > 1]
        if twice:
            raise OptionError(f"{which} has '{twice[0]}' twice", "name each task once")
        absent = sorted(set(names) - set(tasks))
        if absent:
            raise OptionError(
                f"{which} lacks {', '.join(absent)}",
                "name every task once, or leave them out with --tasks A,B,C",
            )
        orders.append(Order(f"given-{number}", tuple(tasks)))
    return orders


def _read_file(path: Path) -> Any:
    """The names in a file: YAML lists, or one name a line."""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(
            f"the order in {path} cannot be read: {error}", "one name a line, or a YAML list"
        ) from None
    if isinstance(content, list):
        return content
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
