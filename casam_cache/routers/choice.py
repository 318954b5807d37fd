"""Which router and pooling a method was asked to use, and the flat options that `--set` takes for all of them.

Options models must know every option by name and type before a value can be checked. Those of a method that routes
are its own and those of every router and pooling there is; the ones of routers and poolings that are not chosen are
ignored, so that one grid goes over several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from inspect import get_annotations
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from casam_cache.config import validated
from casam_cache.errors import OptionError
from casam_cache.references import absolute_reference, is_file_reference
from casam_cache.registry import Registry, revision_of
from casam_cache.routers.base import Router
from casam_cache.routers.pooling import Pooling
from casam_cache.routers.registry import POOLINGS, ROUTERS
from casam_cache.routers.thresholds import Rule

_REGISTRIES: dict[str, Registry[Any]] = {"router": ROUTERS, "pooling": POOLINGS}


class RoutingOptions(BaseModel):
    """What every density that routes has; `routing_model` adds the options of all routers and poolings.

    Attributes:
        router: kind of density fitted to each task: a name, or FILE.py:CLASS.
        pooling: how an embedding becomes one vector (Table 5), likewise; `attention` is the paper's equation 5.
        threshold: rule that makes tau from held-out scores; `none` never falls back.
        folds: K of the calibration; at most the number of groups.
        strict: fall back unless s < tau (Algorithm 7) instead of s <= tau (section 3.3).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    router: str = "vae"
    pooling: str = "attention"
    threshold: Rule = "p97"
    folds: int = Field(default=5, ge=2)
    strict: bool = False

    @field_validator("router")
    @classmethod
    def _router(cls, value: str) -> str:
        return ROUTERS.get(value).name

    @field_validator("pooling")
    @classmethod
    def _pooling(cls, value: str) -> str:
        return POOLINGS.get(value).name

    @model_validator(mode="after")
    def _own_rules(self) -> Self:
        """The chosen ones' own validators have a say in options that this flat model only copied."""
        router_choice(self)
        pooling_choice(self)
        return self


@dataclass(frozen=True)
class PoolingChoice:
    """A pooling with its own options and no others.

    Attributes:
        kind: its class.
        options: its `Options`.
    """

    kind: type[Pooling]
    options: BaseModel

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def learned(self) -> bool:
        return self.kind.learned

    def decisive(self) -> dict[str, Any]:
        """What pooled vectors depend on, as plain JSON."""
        options = self.options.model_dump(mode="json")
        return {"name": self.name, "revision": revision_of(self.kind), "options": options}

    def make(self) -> Pooling:
        """The pooling; a learned one not fitted yet."""
        return self.kind(self.options)

    @classmethod
    def restore(cls, decisive: Mapping[str, Any]) -> Self:
        """The choice that gave `decisive`.

        Raises:
            CasamError: there is no such pooling, or its code is another by now.
        """
        kind = POOLINGS.planned(str(decisive["name"]), decisive["revision"])
        return cls(kind, validated(kind.Options, decisive["options"]))


@dataclass(frozen=True)
class RouterChoice:
    """A router with its own options and no others, and how its threshold is made.

    Attributes:
        kind: its class.
        options: its `Options`.
        folds: K of the calibration.
        threshold: rule; plays no part in a fit.
        strict: as in `RoutingOptions`; plays no part in a fit.
    """

    kind: type[Router]
    options: BaseModel
    folds: int = 5
    threshold: str = "p97"
    strict: bool = False

    @property
    def name(self) -> str:
        return self.kind.name

    def decisive(self) -> dict[str, Any]:
        """What a fit depends on, as plain JSON: thresholds are read off it later and have no part in it."""
        options = self.kind.decisive(self.options)
        return {
            "name": self.name,
            "revision": revision_of(self.kind),
            "options": options,
            "folds": self.folds,
        }

    @classmethod
    def restore(cls, decisive: Mapping[str, Any]) -> Self:
        """The choice that gave `decisive`, with the default rule for its threshold.

        Raises:
            CasamError: there is no such router, or its code is another by now.
        """
        kind = ROUTERS.planned(str(decisive["name"]), decisive["revision"])
        return cls(kind, validated(kind.Options, decisive["options"]), int(decisive["folds"]))


def pooling_choice(options: BaseModel) -> PoolingChoice:
    """The pooling that a method's options name, with its own among them; defaults for those that it lacks."""
    kind = POOLINGS.get(getattr(options, "pooling", RoutingOptions.model_fields["pooling"].default))
    return PoolingChoice(kind, _own(kind.Options, options))


def router_choice(options: BaseModel) -> RouterChoice:
    """The router that a method's options name, with its own among them; defaults for those that it lacks."""
    default = {name: field.default for name, field in RoutingOptions.model_fields.items()}
    found = {name: getattr(options, name, value) for name, value in default.items()}
    kind = ROUTERS.get(found["router"])
    own = _own(kind.Options, options)
    return RouterChoice(kind, own, found["folds"], found["threshold"], found["strict"])


def chosen_options(options: BaseModel) -> dict[str, Any]:
    """A method's options as plain JSON, without those of routers and poolings that were not chosen."""
    plain = options.model_dump(mode="json")
    if not isinstance(options, RoutingOptions):
        return plain
    chosen = {*type(router_choice(options).options).model_fields}
    chosen |= {*type(pooling_choice(options).options).model_fields}
    ignored = {name for kind in _all_options() for name in kind.model_fields} - chosen
    return {name: value for name, value in plain.items() if name not in ignored}


def routing_model(static: type[BaseModel], reserved: type[BaseModel] | None = None) -> type[BaseModel]:
    """`static` and the options of every router and pooling that is known by now, as one flat model.

    Args:
        static: derived from `RoutingOptions`.
        reserved: further options that are set beside these, e.g. of the training.

    Raises:
        OptionError: two of them have an option of the same name.
    """
    known = tuple(cls for registry in _REGISTRIES.values() for cls in registry.all().values())
    return _composed(static, reserved, known)


@lru_cache(maxsize=32)
def _composed(
    static: type[BaseModel], reserved: type[BaseModel] | None, known: tuple[type, ...]
) -> type[BaseModel]:
    owners: dict[str, tuple[str, type]] = {}
    for model in (static, reserved):
        for name in model.model_fields if model else ():
            assert model is not None
            owners[name] = (model.__name__, model)
    fields: dict[str, Any] = {}
    for cls in known:
        options: type[BaseModel] = cls.Options  # type: ignore[attr-defined]
        for name, field in options.model_fields.items():
            owner = (f"{cls.__name__} ({cls.__module__})", _definer(options, name))
            taken = owners.setdefault(name, owner)
            if taken[1] is not owner[1]:  # two may share the model that defines an option
                raise OptionError(
                    f"{taken[0]} and {owner[0]} both have an option '{name}'",
                    "options are set by name alone: give it another name in the file that is yours",
                )
            fields[name] = (field.annotation, field)
    return create_model(static.__name__, __base__=static, __module__=static.__module__, **fields)


def load_references(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Loads the files that routers and poolings are named by, so that `routing_model` knows their options.

    Args:
        settings: values, or lists of values, by option; a key may have a method before it, as in `ca-sam.router`.

    Returns:
        The settings with plain names in place of `FILE.py:CLASS`; and where each such name is from, with its whole
        path, for another process, as `load_reference` takes it.

    Raises:
        CasamError: a file cannot be used, or two of them define different classes of one name.
    """
    found: dict[str, Any] = {}
    references: dict[str, str] = {}

    def plain(kind: str, value: Any) -> Any:
        if not (isinstance(value, str) and is_file_reference(value)):
            return value
        name = _REGISTRIES[kind].get(value).name
        place = absolute_reference(value)
        if references.setdefault(f"{kind} {name}", place) != place:
            raise OptionError(
                f"{references[f'{kind} {name}']} and {place} are both named '{name}'",
                "give each a name of its own",
            )
        return name

    for key, value in settings.items():
        kind = key.rpartition(".")[2]
        if kind not in _REGISTRIES:
            found[key] = value
        elif isinstance(value, list | tuple):
            found[key] = [plain(kind, one) for one in value]
        else:
            found[key] = plain(kind, value)
    return found, references


def _all_options() -> list[type[BaseModel]]:
    return [cls.Options for registry in _REGISTRIES.values() for cls in registry.all().values()]


def _own(model: type[BaseModel], options: BaseModel) -> BaseModel:
    return validated(
        model, {key: getattr(options, key) for key in model.model_fields if hasattr(options, key)}
    )


def _definer(model: type[BaseModel], name: str) -> type:
    """The class in which a field was written down."""
    return next(cls for cls in model.__mro__ if name in get_annotations(cls))
