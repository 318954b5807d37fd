"""Options by name and type: `key=value` assignments checked against pydantic models."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from casam_cache.errors import OptionError


def parse_assignments(assignments: Sequence[str], models: Sequence[type[BaseModel]]) -> list[BaseModel]:
    """One validated instance of each model from `key=value` texts; every key belongs to exactly one model.

    Values are read as YAML, so that `blocks=2`, `learning_rate=1e-4` and `relu=post` mean what they look like.

    Raises:
        OptionError: for text without "=", an unknown key (lists what there is), a key given twice, or a value of the
            wrong type.
    """
    owner = {name: model for model in models for name in model.model_fields}
    values: dict[type[BaseModel], dict[str, Any]] = {model: {} for model in models}
    for text in assignments:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise OptionError(f"--set {text}: expected key=value", _listing(models))
        if key not in owner:
            raise OptionError(f"unknown option '{key}'", _listing(models))
        if key in values[owner[key]]:
            raise OptionError(f"option '{key}' is given twice", "give it once")
        values[owner[key]][key] = _read_value(value)
    return [validated(model, values[model]) for model in models]


def validated(model: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """An instance of `model`; a validation error becomes one `OptionError` that names each wrong option."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        wrong = "; ".join(_complaint(e["loc"], e["msg"], e["input"]) for e in error.errors())
        raise OptionError(wrong, _listing([model])) from None


def _complaint(place: Sequence[int | str], message: str, value: Any) -> str:
    """One wrong option; with an empty place, options that do not go together, and then the message names them."""
    if not place:
        return message.removeprefix("Value error, ")
    return f"wrong value for {'.'.join(map(str, place))}: {message}, not {value!r}"


def _read_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-4, without a dot, as text
        except ValueError:
            return value
    return value


def _listing(models: Sequence[type[BaseModel]]) -> str:
    entries = [
        f"{name}={field.default!s} ({_type_name(field.annotation)})"
        for model in models
        for name, field in model.model_fields.items()
    ]
    return "options: " + (", ".join(entries) or "none")


def _type_name(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(entry) for entry in typing.get_args(annotation))
    return str(getattr(annotation, "__name__", annotation))
