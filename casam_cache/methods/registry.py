"""Methods by name: entry points of the group `casam_cache.methods`, or a class in a file: `my_file.py:MyMethod`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from pydantic import BaseModel

from casam_cache.errors import CasamError, unknown_name
from casam_cache.fingerprint import digest_file
from casam_cache.methods.base import Method
from casam_cache.references import is_file_reference, load_from_file

GROUP = "casam_cache.methods"


def method_names() -> list[str]:
    """The names `--method` takes, built-in and installed by others, sorted."""
    return sorted(_entry_points())


def method_class(name: str) -> type[Method]:
    """The method of that name, or the class of `my_file.py:MyMethod`, whose revision is the file's SHA-256.

    Raises:
        OptionError: there is none; the message lists those there are.
        CasamError: what a file or another package offers cannot be imported, or is no method.
    """
    if is_file_reference(name):
        return _from_file(name)
    found = _entry_points()
    if name not in found:
        raise unknown_name("method", name, [*found, "FILE.py:CLASS"])
    entry = found[name]
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise CasamError(f"method '{name}' ({entry.value}) cannot be imported: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise CasamError(f"method '{name}' ({entry.value}) is not a casam_cache.methods.base.Method")
    return loaded


def _from_file(reference: str) -> type[Method]:
    loaded, path = load_from_file(reference, Method)
    assert issubclass(loaded, Method)
    if not isinstance(getattr(loaded, "name", None), str):
        raise CasamError(f"{reference} has no name", 'give the class one for tables: name = "my-method"')
    if loaded.name in _entry_points():
        raise CasamError(
            f"{reference} has the name of an installed method, '{loaded.name}'", "give it another"
        )
    options = getattr(loaded, "Options", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        raise CasamError(f"{reference} has no Options", "give the class a pydantic model of its options")
    missing = sorted(getattr(loaded, "__abstractmethods__", ()))
    if missing:
        raise CasamError(f"{reference} does not define {', '.join(missing)}", "define it in the class")
    loaded.revision = digest_file(path)
    return loaded


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
