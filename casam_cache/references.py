"""Classes named in text, so that code of the user's takes part: `package.module:Class`, or `my_file.py:Class`.

A file is run once for each content it has had in this process, as a module named by the SHA-256 of its bytes: loading
it from another place (a copy beside a fitted head) gives the same classes, and an edited file gives new ones.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from casam_cache.errors import CasamError
from casam_cache.fingerprint import digest_file

_PREFIX = "casam_file_"
_SOURCE = "__casam_source__"
COPY = "source-{}.py"


def is_file_reference(text: str) -> bool:
    """Whether `text` names a Python file, with or without a class."""
    path, _, name = text.rpartition(":")
    return text.endswith(".py") or (path.endswith(".py") and bool(name))


def load_from_file(text: str, kind: type) -> tuple[type, Path]:
    """The class of `my_file.py:Class`, and the file.

    Args:
        text: path of a Python file, a colon, and the name of a class in it.
        kind: what the class must be derived from.

    Raises:
        CasamError: there is no such file or class, the class is no `kind`, or the file cannot be run; the message
            names its line.
    """
    where, _, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
    path = Path(where).expanduser().resolve()
    if not path.is_file():
        raise CasamError(f"there is no file {where}", f"looked for {path}")
    module = load_file(path)
    offered = sorted(key for key, value in vars(module).items() if _is_own(value, kind, module))
    hint = f"classes of it that are a {kind.__name__}: {', '.join(offered) or 'none'}"
    if not name:
        raise CasamError(f"{where} is a file: name a class of it too, as {where}:MyClass", hint)
    found = getattr(module, name, None)
    if found is None:
        raise CasamError(f"{where} has no class '{name}'", hint)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise CasamError(f"'{name}' in {where} is no {kind.__module__}.{kind.__name__}", hint)
    return found, path


def _is_own(value: Any, kind: type, module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__


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
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CasamError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their module up by its name
    vars(module)[_SOURCE] = source  # the file may be edited while this process goes on
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise CasamError(f"{path}, line {_line(error, path)}: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _line(error: Exception, path: Path) -> int:
    """The line of the file that an error came from."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 0
    frames = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return (frames or [0])[-1] or 0


def describe_class(cls: type, folder: Path) -> dict[str, str]:
    """Plain JSON by which `find_class` finds a class again; the source of one from a file is copied into `folder`.

    Raises:
        CasamError: the class is defined inside a function or typed at a prompt.
    """
    if "<locals>" in cls.__qualname__:
        raise CasamError(
            f"the class {cls.__qualname__} is defined inside a function and could not be found again",
            "define it at the top level of a file",
        )
    module = sys.modules[cls.__module__]
    if not cls.__module__.startswith(_PREFIX) and cls.__module__ != "__main__":
        return {"module": cls.__module__, "name": cls.__qualname__}
    stated = getattr(module, "__file__", None)
    if stated is None:
        raise CasamError(
            f"the class {cls.__qualname__} was typed at a prompt and could not be found again",
            "define it in a file",
        )
    path = Path(stated).resolve()
    source: bytes = vars(module).get(_SOURCE) or path.read_bytes()
    sha256 = hashlib.sha256(source).hexdigest()
    (folder / COPY.format(sha256[:16])).write_bytes(source)
    return {"file": str(path), "sha256": sha256, "name": cls.__qualname__}


def find_class(described: Mapping[str, str], folder: Path) -> type:
    """The class that `describe_class` described: from memory, from its file if that is unchanged, else the copy.

    Args:
        described: what it returned.
        folder: where the copy is.

    Raises:
        CasamError: it cannot be found or imported any more.
    """
    if "module" in described:
        try:
            module = importlib.import_module(described["module"])
        except ImportError as error:
            raise CasamError(
                f"{described['module']}:{described['name']} cannot be imported: {error}",
                "install the package it comes from",
            ) from None
    else:
        module = _module_of(described, folder)
    found: Any = module
    for part in described["name"].split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise CasamError(f"{described.get('module') or described['file']} has no class {described['name']}")
    return found


def _module_of(described: Mapping[str, str], folder: Path) -> ModuleType:
    sha256, path = described["sha256"], Path(described["file"])
    main = sys.modules.get("__main__")
    started = getattr(main, "__file__", None)
    if main is not None and started is not None and Path(started).resolve() == path:
        return main
    if _PREFIX + sha256 in sys.modules:
        return sys.modules[_PREFIX + sha256]
    for candidate in (path, folder / COPY.format(sha256[:16])):
        if candidate.is_file() and digest_file(candidate) == sha256:
            return load_file(candidate)
    raise CasamError(
        f"the file {path} has changed since, and its copy in {folder} is missing",
        "bring the file back as it was, or fit again",
    )
