"""Which code decided a result: a digest of every module that a computation reaches.

A digest is over a module's syntax tree without comments, docstrings and formatting. Modules are reached through import
statements, wherever they stand, beginning at the stage's own module and at those of the classes that were chosen by
name. The engine itself decides where and when something is computed, not what: it is left out.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = "casam_cache"
_ENGINE = "casam_cache.engine"
_DIGITS = 16


def code_of(roots: Iterable[str]) -> dict[str, str]:
    """The digest of every module that is reached from `roots` (names of modules), by name.

    Followed are imports within this package and within the package of each root. Modules of users' files are named by
    their content already and have no digest here.
    """
    found: dict[str, str] = {}
    for root in sorted(set(roots)):
        packages = {PACKAGE, root.partition(".")[0]}
        waiting = [root]
        while waiting:
            name = waiting.pop()
            if name in found or not _counts(name, packages):
                continue
            digest = module_digest(name)
            if digest is not None:
                found[name] = digest
                waiting += _imported(name)
    return dict(sorted(found.items()))


def other_modules(recorded: dict[str, str]) -> list[str]:
    """The modules whose code is no longer what a record says, sorted."""
    return sorted(name for name, digest in recorded.items() if module_digest(name) != digest)


def module_digest(name: str) -> str | None:
    """Of a module as its source is now; None where there is no source."""
    source = _source(name)
    return None if source is None else _digest(*_stamp(source))


def _counts(name: str, packages: set[str]) -> bool:
    if name == _ENGINE or name.startswith(f"{_ENGINE}."):
        return False
    return name != PACKAGE and name.partition(".")[0] in packages


@lru_cache(maxsize=4096)
def _source(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _stamp(path: Path) -> tuple[Path, int, int]:
    facts = path.stat()
    return path, facts.st_mtime_ns, facts.st_size


@lru_cache(maxsize=4096)
def _digest(path: Path, modified: int, size: int) -> str:
    written = hashlib.sha256()
    for part in _dumped(_tree(path, modified, size)):
        written.update(part.encode("utf-8", "surrogatepass"))
        written.update(b"\0")
    return written.hexdigest()[:_DIGITS]


@lru_cache(maxsize=512)
def _tree(path: Path, modified: int, size: int) -> ast.Module:
    return ast.parse(path.read_bytes())


def _dumped(node: Any) -> Iterator[str]:
    """A tree as text: types and fields that are set. `ast.dump` differs between releases of Python."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if (
                name == "body"
                and isinstance(node, _DOCUMENTED)
                and ast.get_docstring(node, clean=False) is not None
            ):
                value = value[1:]
            if value not in (None, []) and name not in ("ctx", "kind", "type_comment"):
                yield name
                yield from _dumped(value)
        yield "."
    elif isinstance(node, list):
        for entry in node:
            yield from _dumped(entry)
    else:
        yield repr(node)


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _imported(name: str) -> list[str]:
    """Names of modules, or of what may be one, that a module imports; not what is imported for type checkers alone."""
    source = _source(name)
    if source is None:
        return []
    package = name if source.name == "__init__.py" else name.rpartition(".")[0]
    found: list[str] = []
    for node in _runtime(_tree(*_stamp(source))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in dict.fromkeys(found) if name]


def _runtime(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _runtime(child)
