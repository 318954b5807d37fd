"""Everything that can be added from outside, found by name in one way.

A name is an entry point of the registry's group (the built-in classes are entry points of this package), a class that
was registered in this process, or `FILE.py:Class`. A class that a user's file defines beside the one that was named is
found by its name too, e.g. the head of a method.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from casam_cache.errors import CasamError, unknown_name
from casam_cache.references import (
    classes_of,
    describe_source,
    file_sha256,
    is_file_reference,
    load_class,
    loaded_files,
    restore_class,
)

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind by name.

    Args:
        kind: for messages, e.g. "method".
        base: what every class is derived from.
        group: of the entry points, e.g. "casam_cache.methods".
        options: whether each class has `Options`, a pydantic model.
    """

    def __init__(self, kind: str, base: Any, group: str, *, options: bool = True) -> None:
        self.kind, self.group = kind, group
        self._base, self._options = base, options
        self._registered: dict[str, type[T]] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Makes a class of this process known by its `name`; also as a decorator.

        Raises:
            CasamError: it is no class of this kind, is unfinished, or has the name of an installed one.
        """
        self._check(cls, cls.__qualname__)
        self._registered[self._name(cls)] = cls
        return cls

    def names(self) -> list[str]:
        """All names there are now, sorted."""
        return sorted({*self._installed(), *self._registered, *self._of_files()})

    def get(self, name: str) -> type[T]:
        """The class of that name, or of `FILE.py:Class`.

        Raises:
            OptionError: there is none; the message lists those there are.
            CasamError: what a file or another package offers cannot be imported, is no class of this kind, or is
                unfinished.
        """
        if is_file_reference(name):
            loaded = load_class(name, self._base)
            self._check(loaded, name)
            return loaded
        for known in (self._registered, self._of_files()):
            if name in known:
                return known[name]
        found = self._installed()
        if name not in found:
            raise unknown_name(self.kind, name, [*self.names(), "FILE.py:CLASS"])
        entry = found[name]
        try:
            installed: Any = entry.load()
        except Exception as error:  # whatever another package's module does when it is run
            raise CasamError(
                f"{self.kind} '{name}' ({entry.value}) cannot be imported: {type(error).__name__}: {error}"
            ) from error
        if not (isinstance(installed, type) and issubclass(installed, self._base)):
            raise CasamError(
                f"{self.kind} '{name}' ({entry.value}) is not a {self._base.__module__}.{self._base.__name__}"
            )
        return installed

    def planned(self, name: str, revision: int | str) -> type[T]:
        """The class of that name, as it was when a plan named it with its revision.

        Raises:
            CasamError: it has changed since.
        """
        made = self.get(name)
        if revision_of(made) != revision:
            raise CasamError(
                f"{self.kind} '{name}' has changed since the plan was made",
                "run the command again: it plans with what is there now",
            )
        return made

    def all(self) -> dict[str, type[T]]:
        """Every class by its name, sorted."""
        return {name: self.get(name) for name in self.names()}

    def describe(self, cls: type[T], folder: Path) -> dict[str, Any]:
        """Plain JSON by which `restore` finds a class again; the file of a user's class is copied into `folder`.

        Raises:
            CasamError: the class is neither installed, nor registered, nor of a file that was loaded by its name.
        """
        name = self._name(cls)
        source = describe_source(cls, folder)
        if not source and (name not in self.names() or self.get(name) is not cls):
            raise CasamError(
                f"the {self.kind} {cls.__qualname__} could not be found again by its name '{name}'",
                f"register it (Registry.register), or name it as FILE.py:{cls.__name__}",
            )
        return {"name": name, **({"source": source} if source else {})}

    def restore(self, described: Mapping[str, Any], folder: Path, *, trust: bool = False) -> type[T]:
        """The class that `describe` described. Code that is not installed is only run if the user has run it before.

        Args:
            described: what it returned.
            folder: where it was written.
            trust: run the copy of a user's file that lies there, whoever wrote it.

        Raises:
            CasamError: it cannot be found, or brings code that the user does not know.
        """
        source = described.get("source", {}) if isinstance(described, Mapping) else None
        if not isinstance(source, Mapping) or not isinstance(described.get("name"), str):
            raise CasamError(f"{folder} does not name a {self.kind}", "run the command that made it again")
        if "source" in described:
            if not re.fullmatch(r"[0-9a-f]{64}", str(source.get("sha256"))):
                raise CasamError(
                    f"{folder} names no file of a {self.kind}", "run the command that made it again"
                )
            found = restore_class(described["source"], folder, self._base, trust=trust)
            self._check(found, str(described["name"]))
            return found
        name = str(described["name"])
        if is_file_reference(name):  # which would be run: only a person on the command line names one
            raise CasamError(
                f"{folder} names a file, {name}, where the name of a {self.kind} should be",
                "run the command that made it again",
            )
        return self.get(name)

    def _check(self, cls: type[T], shown: str) -> None:
        if not isinstance(getattr(cls, "name", None), str):
            raise CasamError(
                f"{shown} has no name", f'give the class one for tables: name = "my-{self.kind}"'
            )
        if self._name(cls) in self._installed():
            raise CasamError(
                f"{shown} has the name of an installed {self.kind}, '{self._name(cls)}'", "give it another"
            )
        options = getattr(cls, "Options", None)
        if self._options and not (isinstance(options, type) and issubclass(options, BaseModel)):
            raise CasamError(f"{shown} has no Options", "give the class a pydantic model of its options")
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise CasamError(f"{shown} does not define {', '.join(missing)}", "define it in the class")

    def _name(self, cls: type[T]) -> str:
        return str(cls.name)  # type: ignore[attr-defined]

    def _of_files(self) -> dict[str, type[T]]:
        """Finished classes of the user's files, those of the last file first."""
        found: dict[str, type[T]] = {}
        installed = self._installed()  # no file takes the place of one of these
        for module in loaded_files():
            for cls in classes_of(module, self._base):
                named = isinstance(getattr(cls, "name", None), str)
                if named and not inspect.isabstract(cls) and self._name(cls) not in installed:
                    found.setdefault(self._name(cls), cls)
        return found

    def _installed(self) -> dict[str, EntryPoint]:
        return _entries(self.group)


@lru_cache
def _entries(group: str) -> dict[str, EntryPoint]:
    """Read once: finding them takes milliseconds, and names are looked up for every configuration of a bench."""
    return {entry.name: entry for entry in entry_points(group=group)}


def revision_of(cls: type) -> int | str:
    """What a result's key holds of a class: the SHA-256 of the user's file it is from, else its `revision`."""
    revision: int | str = getattr(cls, "revision", 1)
    return file_sha256(cls) or revision
