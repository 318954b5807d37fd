"""Options by name and type: `key=value` settings checked against pydantic models."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from casam_cache.errors import OptionError

_FORM = "expected key=value, or key=value1,value2"


def parse_settings(texts: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each key in `key=value` texts, for every command that has `--set`.

    Values are YAML scalars, so that `blocks=2`, `learning_rate=1e-4`, `relu=post` and `shrinkage=null` mean what they
    look like; commas are between the values of a grid. What a key may be, and whether it may have several values, is
    for the command to say: `single_values`, `parse_assignments`.

    Raises:
        OptionError: for text without "=", a missing key or value, or a key given twice.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key, parts = key.strip(), [part.strip() for part in value.split(",")]
        if not (key and equals and all(parts)):
            raise OptionError(f"--set {text}: {_FORM}", "for none, write key=null")
        if key in found:
            raise OptionError(
                f"option '{key}' is given twice", f"give it once; a grid of values is {key}=value1,value2"
            )
        found[key] = [_scalar(part) for part in parts]
    return found


def single_values(settings: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The one value of every key.

    Raises:
        OptionError: a key has several.
    """
    for key, values in settings.items():
        if len(values) > 1:
            shown = ",".join(map(str, values))
            raise OptionError(
                f"--set {key}={shown}: one fit takes one value", f"casam bench --set {key}={shown} runs each"
            )
    return {key: values[0] for key, values in settings.items()}


def parse_assignments(
    texts: Sequence[str], models: Sequence[type[BaseModel]], usual: Mapping[str, Any] | None = None
) -> list[BaseModel]:
    """One validated instance of each model from `key=value` texts; every key belongs to exactly one model.

    `usual` holds values that stand where a text says nothing, in place of the models' own; keys of no model are passed
    over.

    Raises:
        OptionError: as `parse_settings`; for several values, an unknown key (lists what there is), or a value of the
            wrong type.
    """
    owner = {name: model for model in models for name in model.model_fields}
    values: dict[type[BaseModel], dict[str, Any]] = {model: {} for model in models}
    for key, value in single_values(parse_settings(texts)).items():
        if key not in owner:
            raise OptionError(f"unknown option '{key}'", _listing(models))
        values[owner[key]][key] = value
    for key, value in (usual or {}).items():
        if key in owner:
            values[owner[key]].setdefault(key, value)
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


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return as_number(value) if value is None or isinstance(value, bool | int | float | str) else text


def as_number(value: Any) -> Any:
    """Text that is a finite number becomes one: YAML 1.1 reads 1e-4, without a dot, as text. All else stays."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


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


def yaml_mapping(path: Path, what: str, give: str, form: str) -> Mapping[str, Any]:
    """The mapping in a YAML file of the user's.

    Args:
        path: the file.
        what: it is, for messages, e.g. `recipe`.
        give: the hint where it cannot be read.
        form: the hint where it holds something else.

    Raises:
        OptionError: it cannot be read, is not YAML, or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{what} {path} cannot be read: {error.strerror}", give) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"{what} {path} is not YAML: {error}", "correct the file at that place") from None
    if not isinstance(content, Mapping):
        raise OptionError(f"{what} {path} is not a mapping of names to values", form)
    return content
