"""Which code decided a result: a digest of every module that a computation reaches.

A digest is over a module's syntax tree without comments, docstrings (of constants too) and formatting. Modules are
reached through import statements and strings that name a module of the package, wherever they stand, beginning at the
stage's own module and at those of the classes that were chosen by name. Nothing is imported to find out. The engine
itself decides where and when something is computed, not what: it is left out.

A module is read once a process: that is the code which runs here, however its file is edited meanwhile.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "casam_cache"
_ENGINE = "casam_cache.engine"
_DIGITS = 16
_OF_PACKAGE = re.compile(rf"{PACKAGE}(\.[a-z_][a-z0-9_]*)+")


class _Module(NamedTuple):
    """What is known of a module: its digest, and names of modules, or of what may be one, that it reaches."""

    digest: str
    reaches: tuple[str, ...]


def code_of(roots: Iterable[str]) -> dict[str, str]:
    """The digest of every module that is reached from `roots` (names of modules), by name.

    Followed are imports within this package and within the package of each root. Modules of users' files are named by
    their content already and have no digest here; what they import of this package does.
    """
    return dict(_code_of(frozenset(roots)))


@lru_cache(maxsize=1024)
def _code_of(roots: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for root in sorted(roots):
        packages = {PACKAGE, root.partition(".")[0]}
        waiting, seen = [root], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen or not _counts(name, packages):
                continue
            seen.add(name)
            module = _module(name)
            if module is None:
                continue
            if not _is_of_user(name):
                found[name] = module.digest
            waiting += module.reaches
    return dict(sorted(found.items()))


def other_modules(recorded: dict[str, str]) -> list[str]:
    """The modules whose code is no longer what a record says, sorted."""
    return sorted(name for name, digest in recorded.items() if module_digest(name) != digest)


def module_digest(name: str) -> str | None:
    """Of a module as this process first read it; None where there is no source."""
    module = _module(name)
    return None if module is None else module.digest


def _counts(name: str, packages: set[str]) -> bool:
    if name == _ENGINE or name.startswith(f"{_ENGINE}."):
        return False
    return name != PACKAGE and name.partition(".")[0] in packages


@cache
def _module(name: str) -> _Module | None:
    if _is_of_user(name):
        source: bytes | None = vars(sys.modules[name]).get(_SOURCE) if name in sys.modules else None
        package = ""
    else:
        path = _file(name)
        source = None if path is None else path.read_bytes()
        package = name if path is not None and path.name == "__init__.py" else name.rpartition(".")[0]
    if source is None:
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # nothing that runs; a record of it is outdated
        return _Module(hashlib.sha256(source).hexdigest()[:_DIGITS], ())
    written = hashlib.sha256()
    for part in _dumped(tree):
        written.update(part.encode("utf-8", "surrogatepass"))
        written.update(b"\0")
    return _Module(written.hexdigest()[:_DIGITS], tuple(_reached(tree, package)))


_SOURCE = "__casam_source__"  # as `references` keeps it


def _is_of_user(name: str) -> bool:
    return name.startswith("casam_file_")


def _file(name: str) -> Path | None:
    """The source of a module, found without importing anything: `find_spec` would import its packages."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        whole = Path(folder).joinpath(*rest)
        for path in (whole / "__init__.py", whole.with_name(f"{whole.name}.py")):
            if path.is_file():
                return path
    return None


def _dumped(node: Any) -> Iterator[str]:
    """A tree as text: types and fields that are set. `ast.dump` differs between releases of Python."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(value, list):
                value = [each for each in value if not _is_text(each)]
            if value not in (None, []) and name not in ("ctx", "kind", "type_comment"):
                yield name
                yield from _dumped(value)
        yield "."
    elif isinstance(node, list):
        for entry in node:
            yield from _dumped(entry)
    else:
        yield repr(node)


def _is_text(node: Any) -> bool:
    """A string that stands alone: what documents a module, a class, a function or the name above it."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _reached(tree: ast.Module, package: str) -> list[str]:
    """What a module imports or names, but for what only type checkers see."""
    found: list[str] = []
    for node in _runtime(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and _OF_PACKAGE.fullmatch(str(node.value)):
            found.append(str(node.value))  # for import_module, perhaps from a table
    return [name for name in dict.fromkeys(found) if name]


def _runtime(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those in the body of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).rpartition(".")[2] == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from _runtime(other)
            continue
        yield child
        yield from _runtime(child)
