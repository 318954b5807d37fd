"""Files of a user's that define classes: `my_file.py:Class`.

A file is run once for each content it has had in this process, as a module named by the SHA-256 of its bytes: loading
it from another place (a copy beside a fitted head) gives the same classes, and an edited file gives new ones.

Only a file that the user named is run. Its SHA-256 is noted in the cache folder, so that a copy of it that lies beside
a result may be run later; a copy of any other file is data, and is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from casam_cache.errors import CasamError
from casam_cache.fingerprint import digest_file
from casam_cache.folders import cache_folder

_PREFIX = "casam_file_"
_SOURCE = "__casam_source__"
_KNOWN = "files_run.txt"
COPY = "source-{}.py"
_run: dict[str, ModuleType] = {}  # modules of users' files, the last one run last


def is_file_reference(text: str) -> bool:
    """Whether `text` names a Python file, with or without a class."""
    path, _, name = text.rpartition(":")
    return text.endswith(".py") or (path.endswith(".py") and bool(name))


def absolute_reference(text: str) -> str:
    """`my_file.py:Class` with the whole path: workers may stand in another folder."""
    file, _, name = text.rpartition(":")
    return f"{Path(file).expanduser().resolve()}:{name}"


def load_class(text: str, kind: type) -> type:
    """The class that `my_file.py:Class` names; the file counts from now on as one that the user has run.

    Raises:
        CasamError: there is no such file or class, the class is no `kind`, or the file cannot be run; the message
            names its line.
    """
    where, _, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
    path = Path(where).expanduser().resolve()
    if not path.is_file():
        raise CasamError(f"there is no file {where}", f"looked for {path}")
    module = load_file(path)
    _note(module)
    offered = ", ".join(sorted(cls.__name__ for cls in classes_of(module, kind))) or "none"
    hint = f"classes of it that are a {kind.__name__}: {offered}"
    if not name:
        raise CasamError(f"{where} is a file: name a class of it too, as {where}:MyClass", hint)
    found = getattr(module, name, None)
    if found is None:
        raise CasamError(f"{where} has no class '{name}'", hint)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise CasamError(f"'{name}' in {where} is no {kind.__module__}.{kind.__name__}", hint)
    return found


def load_reference(text: str) -> None:
    """Runs the file of `my_file.py:Class`, so that its classes are known by their names.

    Raises:
        CasamError: there is no such file, or it cannot be run.
    """
    _note(load_file(Path(text.rpartition(":")[0])))


def classes_of(module: ModuleType, kind: type) -> list[type]:
    """The classes of a `kind` that a module defines itself."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__
    ]


def loaded_files() -> list[ModuleType]:
    """The modules of all files of the user's that were run in this process, the last one first."""
    return [module for name, module in reversed(_run.items()) if sys.modules.get(name) is module]


def file_sha256(cls: type) -> str | None:
    """SHA-256 of the user's file that a class is from; None for one of an installed package."""
    module = cls.__module__
    return module.removeprefix(_PREFIX) if module.startswith(_PREFIX) else None


def load_file(path: Path) -> ModuleType:
    """The module of a Python file, run now unless a file of the same content was run before.

    Its folder can be imported from while it runs.

    Raises:
        CasamError: it cannot be read, or an error arose in it; the message names the line.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise CasamError(f"cannot read {path}: {error.strerror or error}") from None
    name = _PREFIX + hashlib.sha256(source).hexdigest()
    if name in sys.modules:
        _run[name] = _run.pop(name, sys.modules[name])  # the last one again
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pydantic look their module up by its name
    vars(module)[_SOURCE] = source  # the file may be edited while this process goes on
    try:
        with _importable(path.parent):
            # What was read, not what a cache of bytecode holds: that one takes an edit of the same second and the same
            # length for none.
            exec(compile(source, path, "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise CasamError(f"{path}, line {_line(error, path)}: {type(error).__name__}: {error}") from error
    _run[name] = module
    return module


def describe_source(cls: type, folder: Path) -> dict[str, str]:
    """For a class from a user's file: plain JSON that names the file, of which a copy is written into `folder`.

    Empty for a class of an installed package.
    """
    sha256 = file_sha256(cls)
    if sha256 is None:
        return {}
    module = sys.modules[cls.__module__]
    source: bytes = vars(module)[_SOURCE]
    (folder / COPY.format(sha256[:16])).write_bytes(source)
    return {"file": str(module.__file__), "sha256": sha256, "class": cls.__qualname__}


def restore_class(described: Mapping[str, str], folder: Path, kind: type, *, trust: bool = False) -> type:
    """The class that `describe_source` described: from memory, or from its copy.

    Args:
        described: what it returned.
        folder: where the copy is.
        kind: what the class must be derived from.
        trust: run the copy even if this user has never run a file of this content.

    Raises:
        CasamError: the copy is missing or not what was described, or the user has not run it before.
    """
    sha256 = str(described.get("sha256"))
    module = sys.modules.get(_PREFIX + sha256)
    if module is None:
        copy = folder / COPY.format(sha256[:16])
        if not copy.is_file() or digest_file(copy) != sha256:
            raise CasamError(
                f"{folder} needs the file {described.get('file')}, and its copy there is missing or changed",
                "run the command that made it again",
            )
        if not (trust or sha256 in _noted()):
            raise CasamError(
                f"{folder} brings Python code of its own ({copy.name}) that was never run here",
                f"read that file; if you trust it: casam trust {copy}",
            )
        module = load_file(copy)
    found = next(
        (cls for cls in classes_of(module, kind) if cls.__qualname__ == described.get("class")), None
    )
    if found is None:
        raise CasamError(f"{described.get('file')} has no {kind.__name__} named {described.get('class')}")
    return found


def trust_file(path: Path) -> str:
    """Notes that the user knows a file, as if it had been named and run; returns its SHA-256.

    Raises:
        CasamError: it cannot be read, or the note cannot be written.
    """
    try:
        sha256 = digest_file(path)
        _write_note(sha256)
    except OSError as error:
        raise CasamError(f"{error.filename or path}: {error.strerror or error}") from None
    return sha256


def _note(module: ModuleType) -> None:
    """The user has named this file; a cache folder that cannot be written only means to be asked again."""
    with contextlib.suppress(OSError):
        _write_note(module.__name__.removeprefix(_PREFIX))


def _write_note(sha256: str) -> None:
    if sha256 not in _noted():
        cache_folder().mkdir(parents=True, exist_ok=True)
        with (cache_folder() / _KNOWN).open("a") as file:
            file.write(f"{sha256}\n")


def _noted() -> set[str]:
    try:
        return set((cache_folder() / _KNOWN).read_text().split())
    except (OSError, UnicodeDecodeError):
        return set()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, os.fspath(folder))
    try:
        yield
    finally:
        sys.path.remove(os.fspath(folder))


def _line(error: Exception, path: Path) -> int:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 0
    frames = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return (frames or [0])[-1] or 0
