"""What a stage is: a class of its own for each kind, whose fields are everything that its result depends on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from casam_cache.fingerprint import digest

if TYPE_CHECKING:
    from casam_cache.engine.runs import Runs

KEY_DIGITS = 20
_DECIDES = "decides"


def beside(default: Any) -> Any:
    """A field that decides no result and enters no key: a size for estimates, a name for people."""
    return field(default=default, metadata={_DECIDES: False})


@dataclass(frozen=True)
class Work:
    """What computing a stage gets beside the stage's own fields.

    Attributes:
        runs: where the finished stages before it are read.
        place: where inputs lie and where to compute; decides no result.
        result: an empty folder for the stage's files.
        claim: gives the folder of checkpoints.
        progress: takes what is worth showing meanwhile; None in other processes.
        say: takes a line for a person.
        used: classes that were chosen by name while computing; their code is recorded with the result.
    """

    runs: Runs
    place: Any
    result: Path
    claim: Callable[[set[type]], Path]
    progress: Callable[[Any], None] | None
    say: Callable[[str], None]
    used: set[type] = field(default_factory=set)

    def use(self, *classes: type) -> None:
        """Notes that the code of these classes takes part in the result."""
        self.used.update(classes)

    def resumable(self) -> Path:
        """A folder that survives interruptions until the stage is finished; empty if other code wrote into it.

        To be asked for once everything that takes part was named to `use`.
        """
        return self.claim(self.used)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stage(ABC):
    """One computation. Fields are plain data, pydantic models, values with `key_data`, or other stages: its parents.

    Stages are compared by `key`. Fields made with `beside` are no part of it.

    Attributes:
        kind: what is computed; also the name of the folder.
        revision: raised when the same fields would give another result.
        cost: how much work it is, in a unit of its kind; for estimates only.
    """

    kind: ClassVar[str]
    revision: ClassVar[int] = 1

    cost: float = beside(1.0)

    @abstractmethod
    def compute(self, work: Work) -> dict[str, Any]:
        """Writes the result's files into `work.result`; returns plain facts to record beside them."""

    @classmethod
    def compute_together(cls, stages: Sequence[Any], works: Sequence[Work]) -> list[dict[str, Any]]:
        """Several stages of one `group`; a kind that gains by sharing work between them overrides it."""
        return [stage.compute(work) for stage, work in zip(stages, works, strict=True)]

    @property
    def group(self) -> str | None:
        """Stages that name the same group are computed together where several can start."""
        return None

    @property
    def label(self) -> str:
        """For people."""
        return self.kind

    @property
    def pace(self) -> str:
        """What decides, beside the kind, how long a unit of `cost` takes; for estimates only."""
        return ""

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The deciding fields as plain JSON; parents are named by their keys."""
        return {name: _plain(value) for name, value in self._deciding()}

    @cached_property
    def key(self) -> str:
        """The hash that names the stage."""
        return digest([self.kind, self.revision, self.inputs])[:KEY_DIGITS]

    @property
    def name(self) -> str:
        """KIND/KEY."""
        return f"{self.kind}/{self.key}"

    @cached_property
    def parents(self) -> tuple[Stage, ...]:
        """The stages whose results it reads, each once."""
        return each_once(stage for _, value in self._deciding() for stage in _stages(value))

    def _deciding(self) -> Iterator[tuple[str, Any]]:
        for entry in fields(self):
            if entry.metadata.get(_DECIDES, True):
                yield entry.name, getattr(self, entry.name)


def _plain(value: Any) -> Any:
    if isinstance(value, Stage):
        return value.key
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if hasattr(value, "key_data"):
        return _plain(value.key_data())
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _stages(value: Any) -> Iterator[Stage]:
    if isinstance(value, Stage):
        yield value
    elif isinstance(value, Mapping):
        yield from _stages(list(value.values()))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _stages(entry)


def each_once(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """The stages in their order, without repetitions."""
    return tuple({stage.key: stage for stage in stages}.values())


def closure(targets: Iterable[Stage]) -> list[Stage]:
    """The stages and all their ancestors, each once, parents first."""
    seen: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in seen:
            for parent in stage.parents:
                visit(parent)
            seen[stage.key] = stage

    for stage in targets:
        visit(stage)
    return list(seen.values())
