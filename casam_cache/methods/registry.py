"""Methods by name: entry points of the group `casam_cache.methods`, loaded when asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from casam_cache.errors import CasamError, unknown_name
from casam_cache.methods.base import Method

GROUP = "casam_cache.methods"


def method_names() -> list[str]:
    """The names `--method` takes, built-in and installed by others, sorted."""
    return sorted(_entry_points())


def method_class(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        OptionError: there is none; the message lists those there are.
        CasamError: another package offers it, and it cannot be imported or is no method.
    """
    found = _entry_points()
    if name not in found:
        raise unknown_name("method", name, list(found))
    entry = found[name]
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise CasamError(f"method '{name}' ({entry.value}) cannot be imported: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise CasamError(f"method '{name}' ({entry.value}) is not a casam_cache.methods.base.Method")
    return loaded


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
