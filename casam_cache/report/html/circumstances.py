"""Under what a bench or fit was computed: code, device, machine, versions, as its stages recorded it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from casam_cache.engine.code import other_modules
from casam_cache.engine.runs import Runs, read_record
from casam_cache.engine.uses import uses
from casam_cache.errors import CasamError


@dataclass(frozen=True)
class Circumstances:
    """Of some finished stages.

    Attributes:
        facts: name and value, several values joined.
        warnings: a line where stages differ in something, or cannot be read.
    """

    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def stages_of(root: Path, name: str) -> list[Path]:
    """The stages behind a finished command, by the name of its note; empty where there is no note."""
    return [root / stage for use in uses(Runs(root)) if use.name == name for stage in sorted(use.stages)]


def circumstances(stages: Iterable[Path]) -> Circumstances:
    """What the records of stages say; their files are not read again, which `casam runs verify` does."""
    seen: dict[str, set[str]] = {}
    changed, unread, seconds, count = set[str](), 0, 0.0, 0
    for folder in stages:
        try:
            record = read_record(folder, verify=False)
        except CasamError:
            unread += 1
            continue
        count += 1
        facts = record.recorded
        told = {name: facts.get(name) for name in ("device", "threads", "machine")}
        for name, value in {**told, **(facts.get("versions") or {})}.items():
            if value is not None:
                seen.setdefault(name, set()).add(str(value))
        if facts.get("store"):
            seen.setdefault("store", set()).add(str(Path(str(facts["store"])).parent.parent))
        changed.update(other_modules(record.code))
        seconds += float(facts.get("seconds") or 0.0)
    shown = [(name, ", ".join(sorted(values))) for name, values in sorted(seen.items())]
    if count:
        shown.append(("stages", f"{count}, {seconds:,.0f} s of computing"))
        shown.append(
            ("code", "this release's" if not changed else f"{len(changed)} modules have changed since")
        )
    warnings = [
        f"stages were computed under several {name}: {', '.join(sorted(values))}"
        for name, values in sorted(seen.items())
        if len(values) > 1 and name != "store"
    ]
    if changed:
        warnings.append(
            f"some stages were computed by other code than this report is written by: {', '.join(sorted(changed)[:6])}"
            + (f" and {len(changed) - 6} more modules" if len(changed) > 6 else "")
        )
    if unread:
        warnings.append(f"{unread} stages are missing or cannot be read: casam runs verify names them")
    return Circumstances(tuple(shown), tuple(warnings))
