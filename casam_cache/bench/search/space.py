"""Which values of which options a search tries: a YAML file, or a built-in space, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError, create_model

from casam_cache.bench.search.builtin import builtin_space
from casam_cache.config import as_number, yaml_mapping
from casam_cache.errors import OptionError
from casam_cache.methods.base import Method
from casam_cache.training.options import TrainingOptions

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

BUILTIN = "builtin"
_RANGE = {"low", "high", "log", "step", "when"}
_LIST = {"values", "when"}
_FORM = "an option takes a value, a list of values, or {low, high, log}; {values, when} and {low, high, log, when} too"


@dataclass(frozen=True)
class Dimension:
    """One option of a space.

    Attributes:
        name: of the option.
        values: to choose from; empty for a range.
        low, high: ends of a range, both in it.
        log: whether equal factors are equally likely, not equal differences.
        step: between values of a range; None of a range of floats is no step.
        whole: whether a range is of whole numbers.
        when: values of earlier options with which it matters; with others it is left at the method's default.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def active(self, chosen: Mapping[str, Any]) -> bool:
        return all(name in chosen and chosen[name] in allowed for name, allowed in self.when.items())

    def suggest(self, trial: Trial) -> Any:
        """The value that a trial of Optuna chooses."""
        if self.values:
            return trial.suggest_categorical(self.name, list(self.values))
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=step)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)

    @property
    def distribution(self) -> BaseDistribution:
        """As Optuna keeps it with a trial."""
        from optuna import distributions

        if self.values:
            return distributions.CategoricalDistribution(list(self.values))
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return distributions.IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return distributions.FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def listed(self) -> list[Any] | None:
        """Every value it has; None of a range of floats."""
        if self.values:
            return list(self.values)
        if self.step is None and not self.whole:
            return None
        step = self.step or 1
        count = int((self.high - self.low) / step + 1e-9) + 1
        every = [self.low + place * step for place in range(count)]
        return [int(value) for value in every] if self.whole else every

    def to_json(self) -> dict[str, Any]:
        when = {name: list(values) for name, values in self.when.items()}
        if self.values:
            return {"values": list(self.values), **({"when": when} if when else {})}
        found: dict[str, Any] = {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return {**found, **({"when": when} if when else {})}


@dataclass(frozen=True)
class Space:
    """Options that vary, in the order in which they are chosen, and options that do not.

    Attributes:
        dimensions: that vary.
        fixed: values of further options.
        idle: options that never matter, as what they depend on is fixed.
    """

    dimensions: tuple[Dimension, ...]
    fixed: Mapping[str, Any]
    idle: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in self.dimensions)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A point: a value of every option that matters in it."""
        chosen: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.active(chosen):
                chosen[dimension.name] = dimension.suggest(trial)
        return chosen

    def points(self, most: int) -> list[dict[str, Any]] | None:
        """Every point in order; None where there are more than `most`, or no end of them."""
        found: list[dict[str, Any]] = [{}]
        for dimension in self.dimensions:
            listed = dimension.listed()
            if listed is None:
                return None
            longer: list[dict[str, Any]] = []
            for point in found:
                values = [{**point, dimension.name: value} for value in listed]
                longer += values if dimension.active(point) else [point]
            if len(longer) > most:
                return None
            found = longer
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data that says all of it."""
        return {
            "vary": {dimension.name: dimension.to_json() for dimension in self.dimensions},
            "fixed": dict(self.fixed),
        }


def read_space(text: str, made: type[Method], fixed: Mapping[str, Any]) -> Space:
    """The space that `builtin` or a file names.

    Args:
        text: `builtin`, or the path of a YAML file.
        made: the method whose options, beside the training's, may vary.
        fixed: options with one value each; they come before what the space says of them.

    Raises:
        OptionError: the file cannot be read; an unknown option, a wrong value or form, or nothing that varies.
    """
    if text == BUILTIN:
        return space_of(builtin_space(made, fixed), made, fixed, f"the built-in space of '{made.name}'")
    content = yaml_mapping(Path(text), "space", "give a YAML file to --space, or builtin", _FORM)
    return space_of(content, made, fixed, f"space {text}")


def space_of(content: Mapping[Any, Any], made: type[Method], fixed: Mapping[str, Any], where: str) -> Space:
    """The space of a mapping; `where` is its name in errors. Rest as of `read_space`."""
    models: Sequence[type[BaseModel]] = (made.options_model(), TrainingOptions)
    owner = {name: model for model in models for name in model.model_fields}
    dimensions: dict[str, Dimension] = {}
    settled: dict[str, Any] = {}
    for name in [*content, *fixed]:
        if name not in owner:
            raise OptionError(
                f"{where}: method '{made.name}' has no option '{name}'", f"options: {', '.join(owner)}"
            )
    for name, value in fixed.items():
        _check(owner[name], name, value, "--set")
    for name, entry in content.items():
        if name in fixed:
            continue
        if not isinstance(entry, list | Mapping):
            settled[name] = as_number(entry)
            _check(owner[name], name, settled[name], where)
            continue
        dimension = _dimension(name, entry, owner[name], where)
        for other, allowed in dimension.when.items():
            _check_condition(name, other, allowed, {**dimensions}, {**settled, **fixed}, where)
        if len(dimension.values) == 1 and not dimension.when:
            settled[name] = dimension.values[0]
            continue
        dimensions[name] = dimension
    chosen = {**settled, **fixed}
    kept = [found for each in dimensions.values() if (found := _settled(each, chosen)) is not None]
    if not kept:
        raise OptionError(f"{where}: nothing varies", "give an option several values: blocks: [1, 2, 3]")
    names = {each.name for each in kept}
    return Space(tuple(kept), chosen, tuple(name for name in dimensions if name not in names))


def _settled(dimension: Dimension, chosen: Mapping[str, Any]) -> Dimension | None:
    """Without conditions on options that have one value; None where those are never met."""
    if any(name in chosen and chosen[name] not in allowed for name, allowed in dimension.when.items()):
        return None
    when = {name: allowed for name, allowed in dimension.when.items() if name not in chosen}
    return Dimension(**{**vars(dimension), "when": when})


def _dimension(name: str, entry: Any, model: type[BaseModel], where: str) -> Dimension:
    if isinstance(entry, list):
        entry = {"values": entry}
    given = {str(key): value for key, value in entry.items()}
    allowed = _LIST if "values" in given else _RANGE
    unknown = sorted(set(given) - allowed)
    if unknown or ("values" not in given and not {"low", "high"} <= set(given)):
        told = f"'{unknown[0]}' is no part of it" if unknown else "a range needs low and high"
        raise OptionError(f"{where}: {name}: {told}", _FORM)
    when = _conditions(name, given.get("when"), where)
    if "values" in given:
        values = given["values"]
        if not isinstance(values, list) or not values:
            raise OptionError(f"{where}: {name} has no list of values", _FORM)
        values = [as_number(value) for value in values]
        for value in values:
            _check(model, name, value, where)
        if len({repr(value) for value in values}) < len(values):
            raise OptionError(f"{where}: {name} has a value twice: {values}", "give each value once")
        return Dimension(name, tuple(values), when=when)
    return _range(name, given, when, model, where)


def _range(
    name: str, given: Mapping[str, Any], when: Mapping[str, Any], model: type[BaseModel], where: str
) -> Dimension:
    low, high, step, log = (given.get(key) for key in ("low", "high", "step", "log"))
    low, high, step = (as_number(value) for value in (low, high, step))
    for key, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise OptionError(f"{where}: {name}: {key} is no number, but {value!r}", _FORM)
    if log not in (None, True, False):
        raise OptionError(f"{where}: {name}: log is true or false, not {log!r}", _FORM)
    if not low < high:
        raise OptionError(f"{where}: {name}: low={low} is not below high={high}", _FORM)
    if log and (low <= 0 or step is not None):
        told = "log has no step" if step is not None else f"log needs a low above 0, not {low}"
        raise OptionError(f"{where}: {name}: {told}", _FORM)
    if step is not None and (step <= 0 or abs((high - low) / step - round((high - low) / step)) > 1e-9):
        raise OptionError(
            f"{where}: {name}: steps of {step} do not lead from {low} to {high}", "choose another step"
        )
    if _takes(model, name, True) and not _is_number(model, name):
        raise OptionError(f"{where}: {name} is true or false, and has no range", f"{name}: [true, false]")
    whole = not _takes(model, name, low + (high - low) / 2.7182818)  # no whole number
    for value in (low, high, *([low + step] if step is not None else [])):
        _check(model, name, value, where)
    return Dimension(name, (), float(low), float(high), bool(log), step, whole, when)


def _conditions(name: str, when: Any, where: str) -> dict[str, tuple[Any, ...]]:
    if when is None:
        return {}
    if not isinstance(when, Mapping) or not when:
        raise OptionError(
            f"{where}: {name}: when is no mapping of options to values",
            "when: {train: lora}, or a list of values",
        )
    return {
        str(other): tuple(as_number(value) for value in (values if isinstance(values, list) else [values]))
        for other, values in when.items()
    }


def _check_condition(
    name: str,
    other: str,
    allowed: Sequence[Any],
    dimensions: Mapping[str, Dimension],
    settled: Mapping[str, Any],
    where: str,
) -> None:
    if other in settled:
        return
    if other not in dimensions or not dimensions[other].values:
        raise OptionError(
            f"{where}: {name} depends on '{other}', which has no list of values above it",
            f"put '{other}' with its values before '{name}'",
        )
    for value in allowed:
        if value not in dimensions[other].values:
            shown = ", ".join(map(str, dimensions[other].values))
            raise OptionError(
                f"{where}: {name} depends on {other}={value}, which is not tried", f"{other}: {shown}"
            )


def _field(model: type[BaseModel], name: str) -> type[BaseModel]:
    described = model.model_fields[name]
    fields: dict[str, Any] = {name: (described.annotation, described)}
    return create_model("Option", **fields)


def _check(model: type[BaseModel], name: str, value: Any, where: str) -> None:
    """Of one option alone; whether values go together shows with each point.

    Raises:
        OptionError: it is no value of the option.
    """
    try:
        if isinstance(value, list | dict):
            raise OptionError(f"{where}: wrong value for {name}: {value!r} is not one value", _FORM)
        _field(model, name).model_validate({name: value})
    except ValidationError as error:
        told = error.errors()[0]["msg"]
        raise OptionError(f"{where}: wrong value for {name}: {told}, not {value!r}", _FORM) from None


def _takes(model: type[BaseModel], name: str, value: Any) -> bool:
    try:
        _field(model, name).model_validate({name: value})
    except ValidationError:
        return False
    return True


def _is_number(model: type[BaseModel], name: str) -> bool:
    return any(_takes(model, name, value) for value in (2, 7, 0.3, 64))
