"""From the methods of a recipe to configurations: grids expanded, every option checked by name and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from casam_cache.bench.families import Config
from casam_cache.bench.recipe import MethodEntry, Recipe
from casam_cache.config import validated
from casam_cache.errors import OptionError
from casam_cache.methods.base import Method
from casam_cache.methods.registry import METHODS
from casam_cache.references import absolute_reference
from casam_cache.training.options import TrainingOptions

# Table 1, from top to bottom; `--methods all`.
ALL_METHODS = (
    "joint", "frozen", "naive", "lwf", "ewc", "emr", "er", "der", "l2p", "moda-hq", "moda", "ca-sam",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """The configurations of one entry of a recipe.

    Attributes:
        label: of the entry.
        configs: its grid, expanded; a single one without a grid.
    """

    label: str
    configs: tuple[Config, ...]


def expand(recipe: Recipe) -> tuple[list[Group], list[str]]:
    """Every configuration, and the classes that are not installed, as FILE.py:CLASS.

    Raises:
        OptionError: an unknown method or option, a wrong value, or two entries with one label.
    """
    groups: list[Group] = []
    references: dict[str, str] = {}
    for entry in recipe.methods:
        made = METHODS.get(entry.method)
        if ":" in entry.method:
            place = absolute_reference(entry.method)
            if references.setdefault(made.name, place) != place:
                raise OptionError(
                    f"{references[made.name]} and {place} are both named '{made.name}'",
                    "give each a name of its own",
                )
        configs = tuple(
            _config(made, label, {**recipe.training, **chosen}, chosen)
            for label, chosen in entry.configurations()
        )
        groups.append(Group(entry.label or made.name, configs))
    labels = [config.label for group in groups for config in group.configs]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise OptionError(
            f"two methods are both labelled '{twice[0]}'", "give each its own label in the recipe"
        )
    return groups, list(references.values())


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with `key=v1,v2` or `method.key=v1,v2` texts; they come before what the recipe says.

    A key without a method goes to every method that has the option; several values are a grid.

    Raises:
        OptionError: for text without "=", or an option that none of the methods has.
    """
    entries = list(recipe.methods)
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not value:
            raise OptionError(f"--set {text}: expected key=value or key=value1,value2", _listing(entries))
        method, _, name = key.rpartition(".")
        values: list[Any] = [part.strip() for part in value.split(",")]
        used = False
        for place, entry in enumerate(entries):
            if method and method not in (entry.method, entry.label):
                continue
            if name not in _fields(entry.method):
                continue
            used = True
            chosen = {**entry.set, name: _scalars(values)}
            entries[place] = MethodEntry(method=entry.method, label=entry.label, set=chosen)
        if not used:
            raise OptionError(f"no method here has an option '{key}'", _listing(entries))
    return recipe.model_copy(update={"methods": entries})


def _scalars(values: Sequence[str]) -> Any:
    import yaml

    read = [yaml.safe_load(value) for value in values]
    return read[0] if len(read) == 1 else read


def _config(made: type[Method], label: str, options: Mapping[str, Any], chosen: Mapping[str, Any]) -> Config:
    fields = made.Options.model_fields
    own = {key: value for key, value in options.items() if key in fields}
    rest = {key: value for key, value in options.items() if key not in fields}
    unknown = [key for key in rest if key not in TrainingOptions.model_fields]
    if unknown:
        raise OptionError(
            f"method '{made.name}' has no option '{unknown[0]}'",
            f"options: {', '.join([*fields, *TrainingOptions.model_fields])}",
        )
    training = validated(TrainingOptions, rest)
    assert isinstance(training, TrainingOptions)
    return Config(label, made(validated(made.Options, own)), training, dict(chosen))


def _fields(method: str) -> set[str]:
    return {*METHODS.get(method).Options.model_fields, *TrainingOptions.model_fields}


def _listing(entries: Sequence[MethodEntry]) -> str:
    own = dict.fromkeys(name for entry in entries for name in METHODS.get(entry.method).Options.model_fields)
    return f"of methods: {', '.join(own) or 'none'}; of training: {', '.join(TrainingOptions.model_fields)}"
