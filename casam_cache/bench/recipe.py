"""Recipes: a bench as one YAML file, checked before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from casam_cache.config import as_number, yaml_mapping
from casam_cache.errors import OptionError
from casam_cache.metrics.continual import Forgetting, Weight
from casam_cache.training.evaluation_prompts import BOX, parse_prompt

Scalar = Annotated[bool | int | float | str | None, BeforeValidator(as_number)]
TableName = Literal[
    "table1", "table2", "table3_7", "table4", "table5", "table6_9", "table8", "table10", "table11", "figure6",
    "routers", "bench",
]  # fmt: skip


class MethodEntry(BaseModel):
    """One method of a recipe, or a grid of them.

    Attributes:
        method: a registered name, or FILE.py:CLASS.
        label: its name in tables; the method's own unless given. The values of a grid are added to it.
        set: options of the method, its router or its training; a list of values is a grid.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(min_length=1)
    label: str = ""
    set: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)

    @field_validator("set")
    @classmethod
    def _some_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, value in values.items():
            if value == []:
                raise ValueError(f"option '{name}' has an empty list of values")
        return values

    def configurations(self) -> list[tuple[str, dict[str, Scalar]]]:
        """(label, options) of every combination of values, the last option varying fastest.

        Where an option has several values, the label names the one it has: `ca-sam, beta=1`.
        """
        names = list(self.set)
        choices = [value if isinstance(value, list) else [value] for value in self.set.values()]
        varied = [name for name, values in zip(names, choices, strict=True) if len(values) > 1]
        found = []
        for combination in itertools.product(*choices):
            options = dict(zip(names, combination, strict=True))
            parts = [self.label or self.method, *(f"{name}={_shown(options[name])}" for name in varied)]
            found.append((", ".join(parts), options))
        return found


class Recipe(BaseModel):
    """What `casam bench --recipe FILE` runs; options on the command line come before it.

    Attributes:
        title: over the table.
        table: the layout that `casam report` prints.
        tasks: `all` (that are not unseen sets), or names.
        order: see `orders.read_orders`: `paper`, `table8`, `random`, a file, names, or lists of names.
        orders: how many.
        order_seed: of random orders.
        seeds: how many; runs use the seeds 0, 1, ...
        unseen: `none`, `paper` (those of the paper's unseen sets that are there), or names.
        evaluate: split to score.
        select: choose among the configurations of each method on the validation split by this metric, and report
            test once; null reports all.
        metrics: further metrics beside IoU, Boundary IoU and Dice: names, or FILE.py:CLASS.
        prompts: what every mask is prompted with when it is scored: `box`, `jitter:0.1`, `jitter:5px`, `point`,
            `point:random` or `clicks:5`.
        weight: of the tasks in equation 8.
        forgetting: variant of FF.
        defaults: what stands where neither `training` nor a method says anything: `paper`, the paper's recipe, or
            `backbone`, that of the backbone (`Backbone.recipe`), as `casam bench` without a recipe takes it.
        training: options of every fit, unless a method sets its own.
        reference: folder of stores of adapter-tuned features (Table 4 only).
        methods: what to compare, in the order of the table's rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(min_length=1)
    table: TableName = "table1"
    tasks: Literal["all"] | list[str] = "all"
    order: str | list[str] | list[list[str]] = "paper"
    orders: int = Field(default=1, ge=1)
    order_seed: int = 0
    seeds: int = Field(default=1, ge=1)
    unseen: Literal["none", "paper"] | list[str] = "none"
    evaluate: Literal["test", "val"] = "test"
    select: Literal["iou", "biou"] | None = None
    metrics: list[str] = Field(default_factory=list)
    prompts: str = BOX.text
    weight: Weight = "images"
    forgetting: Forgetting = "paper"
    defaults: Literal["paper", "backbone"] = "paper"
    training: dict[str, Scalar] = Field(default_factory=dict)
    reference: str | None = None
    methods: list[MethodEntry] = Field(min_length=1)

    def rows_of(self, name: str) -> list[dict[str, Any]]:
        """The methods that a table has under this name, with what is set for them; else every row of that method."""
        under = [entry for entry in self.methods if (entry.label or entry.method) == name]
        rows = under or [entry for entry in self.methods if entry.method == name]
        return [entry.model_dump() for entry in rows]

    @field_validator("prompts")
    @classmethod
    def _known_prompt(cls, text: str) -> str:
        try:
            return parse_prompt(text).text
        except OptionError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None

    @model_serializer(mode="wrap")
    def _plain(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later keys where they are not used: results are named by the recipe, and keep their names."""
        data: dict[str, Any] = serialise(self)
        unused = {"prompts": BOX.text, "defaults": "paper"}
        return {key: value for key, value in data.items() if key not in unused or value != unused[key]}

    @field_validator("methods", mode="before")
    @classmethod
    def _names(cls, entries: Any) -> Any:
        """A method without options may be just its name."""
        if not isinstance(entries, list):
            return entries
        return [{"method": entry} if isinstance(entry, str) else entry for entry in entries]


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        OptionError: the file cannot be read, or has an unknown key or a wrong value; names file, key and fix.
    """
    keys = f"keys: {', '.join(Recipe.model_fields)}"
    content = yaml_mapping(path, "recipe", "give a YAML file to --recipe", keys)
    return read_recipe(content, str(path))


def read_recipe(content: Mapping[str, Any], source: str) -> Recipe:
    """The recipe of a mapping; `source` is its name in errors.

    Raises:
        OptionError: as `load_recipe`.
    """
    try:
        return Recipe.model_validate(dict(content))
    except ValidationError as error:
        raise _explained(error, source) from None


def _explained(error: ValidationError, source: str) -> OptionError:
    """One error that names every wrong key, where it is, and what may stand there."""
    wrong: dict[str, str] = {}
    hints: dict[str, None] = {}
    for entry in error.errors():
        place, key, keys = _place(*entry["loc"])
        hint = f"correct '{place}' in {source}"
        if entry["type"] == "extra_forbidden":
            told, hint = f"unknown key '{place}'", f"keys: {', '.join(keys)}"
        elif entry["type"] == "missing":
            told, hint = f"'{place}' is missing", "see recipes/ for complete files"
        elif entry["type"] == "value_error":
            told = f"{place}: {entry['msg'].removeprefix('Value error, ')}"
        elif key in _EXPECTED:
            told, hint = f"wrong value for '{place}': {entry['input']!r}", f"'{key}' takes {_EXPECTED[key]}"
        else:
            told = f"{place}: {entry['msg']}, not {entry['input']!r}"
        wrong[place] = told  # a union has an entry for each of its members
        hints[hint] = None
    return OptionError(f"recipe {source}: {'; '.join(wrong.values())}", "; ".join(hints))


def _place(key: int | str, *inner: int | str) -> tuple[str, str, list[str]]:
    """Where an error is, the key it is about, and the keys there are at that level."""
    which = ""
    model: type[BaseModel] = Recipe
    if key == "methods" and inner:
        which, model = f"method {int(inner[0]) + 1}", MethodEntry
        if len(inner) == 1:
            return which, "methods", list(model.model_fields)
        which, key, inner = f"{which}: ", inner[1], inner[2:]
    option = f".{inner[0]}" if key in ("set", "training") and inner else ""
    return f"{which}{key}{option}", str(key), list(model.model_fields)


_EXPECTED = {
    "tasks": "all, or a list of names",
    "order": "paper, table8, random, a file, a list of names, or a list of such lists",
    "unseen": "none, paper, or a list of names",
    "prompts": "one of box, jitter:0.1, jitter:5px, point, point:random, clicks:5",
    "training": "options with one value each",
    "set": "options with one value each, or a list of values for a grid",
    "methods": "a list of names, or of mappings with method, label and set",
}


def _shown(value: Scalar) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
