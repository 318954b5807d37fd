"""From the methods of a recipe to configurations: grids expanded, every option checked by name and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from casam_cache.bench.families import Config
from casam_cache.bench.recipe import MethodEntry, Recipe
from casam_cache.config import parse_settings, validated
from casam_cache.errors import OptionError
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.base import Method
from casam_cache.methods.registry import METHODS
from casam_cache.metrics.registry import METRICS
from casam_cache.references import absolute_reference, is_file_reference
from casam_cache.routers.choice import load_references
from casam_cache.training.options import TrainingOptions

EMR_ROUTED: dict[str, Any] = {"method": "emr", "label": "emr, router", "set": {"routing": "density"}}
# Table 1, from top to bottom, EMR with its tasks told and with CA-SAM's router; `--methods all`.
ALL_METHODS: tuple[str | dict[str, Any], ...] = (
    "joint", "frozen", "naive", "lwf", "ewc", "emr", EMR_ROUTED, "er", "der", "l2p", "moda-hq", "moda", "ca-sam",
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


def expand(recipe: Recipe, usual: Mapping[str, Any] | None = None) -> tuple[list[Group], list[str]]:
    """Every configuration, and the classes that are not installed, as FILE.py:CLASS.

    `usual` are values of a backbone's recipe: they stand where nothing else is said, for methods that have the option.

    Raises:
        OptionError: an unknown method or option, a wrong value, or two entries with one label.
    """
    groups: list[Group] = []
    references: dict[str, str] = {}

    def note(name: str, place: str) -> None:
        if references.setdefault(name, place) != place:
            raise OptionError(
                f"{references[name]} and {place} are both a {name}", "give each a name of its own"
            )

    for text in filter(is_file_reference, recipe.metrics):
        note(f"metric {METRICS.get(text).name}", absolute_reference(text))
    for entry in recipe.methods:
        made = METHODS.get(entry.method)
        chosen_set, files = load_references(entry.set)
        for name, place in files.items():
            note(name, place)
        if is_file_reference(entry.method):
            note(f"method {made.name}", absolute_reference(entry.method))
        entry = entry.model_copy(update={"set": chosen_set})
        configs = tuple(
            config_of(
                made,
                label,
                {**fitting(usual, made, {**recipe.training, **chosen}), **recipe.training, **chosen},
                chosen,
            )
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

    A key without a method goes to every method that has the option, unless the same key is given with the method;
    several values are a grid.

    Raises:
        OptionError: as `parse_settings`, or for an option that none of the methods has.
    """
    entries = list(recipe.methods)
    given = parse_settings(settings)
    load_references(given)
    for entry in entries:
        load_references(entry.set)
    for key, values in sorted(given.items(), key=lambda item: "." in item[0]):
        method, _, name = key.rpartition(".")
        used = False
        for place, entry in enumerate(entries):
            if method and method not in (entry.method, entry.label):
                continue
            if name not in _fields(entry.method):
                continue
            used = True
            if METHODS.get(entry.method).family == "frozen":
                continue  # what never trains has one row, whatever the options of training
            chosen = {**entry.set, name: values[0] if len(values) == 1 else values}
            entries[place] = MethodEntry(method=entry.method, label=entry.label, set=chosen)
        if not used:
            raise OptionError(f"no method here has an option '{key}'", _listing(entries))
    return recipe.model_copy(update={"methods": entries})


def config_of(
    made: type[Method], label: str, options: Mapping[str, Any], chosen: Mapping[str, Any]
) -> Config:
    """A method and its training from options of both.

    Raises:
        OptionError: an unknown option, a wrong value, or values that do not go together.
    """
    model = made.options_model()
    fields = model.model_fields
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
    return Config(label, made(validated(model, own)), training, dict(chosen))


def fitting(usual: Mapping[str, Any] | None, made: type[Method], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a backbone's recipe that a method has, as far as they agree with what is `given`.

    What it says of an Alignment Layer is for methods that have one: `blocks` are another thing to a decoder of maps.
    Points between the states of a fit are for fits that begin as the frozen SAM, each task on its own: in a sequence
    they would lie between one task's weights and the next one's, which is another method.
    Who names epochs means all of them, whatever the recipe's limits; who names one limit of steps moves the other. A
    layer of one scale and shift has no blocks, however many the recipe's own has.
    """
    own, layer = set(made.options_model().model_fields), set(AlignmentOptions.model_fields)
    known = {*(own if layer <= own else own - layer), *TrainingOptions.model_fields}
    found = {name: value for name, value in (usual or {}).items() if name in known}
    if "epochs" in given:
        found.pop("min_steps", None)
        found.pop("max_steps", None)
    elif "max_steps" in given and found.pop("max_steps", None) is not None and "min_steps" in found:
        found["min_steps"] = given["max_steps"] or found["min_steps"]  # null: no limit
    elif "min_steps" in given:
        found.pop("max_steps", None)
    if given.get("kind") == "affine":
        found.pop("blocks", None)
    if made.family not in ("single", "routed") or not given.get("held_out", True):
        found.pop("interpolations", None)
    return found


def _fields(method: str) -> set[str]:
    return {*METHODS.get(method).options_model().model_fields, *TrainingOptions.model_fields}


def _listing(entries: Sequence[MethodEntry]) -> str:
    own = dict.fromkeys(
        name for entry in entries for name in METHODS.get(entry.method).options_model().model_fields
    )
    return f"of methods: {', '.join(own) or 'none'}; of training: {', '.join(TrainingOptions.model_fields)}"
