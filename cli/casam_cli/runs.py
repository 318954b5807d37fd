"""`casam runs list | show | verify | remove`: what a runs folder holds, whether it is whole, and making room."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from casam_cache.errors import CasamError, OptionError
from casam_cli import console

if TYPE_CHECKING:
    from casam_cache.engine.runs import Runs

runs_app = typer.Typer(
    help="Look at a folder of runs, verify every byte of it, or remove what nothing needs.",
    no_args_is_help=True,
)
_Folder = typer.Argument(Path("casam_runs"), help="The folder of runs.")


def _open(folder: Path) -> Runs:
    from casam_cache.engine.runs import Runs

    if not folder.is_dir():
        raise CasamError(
            f"{folder}: there is no such folder", "casam fit and casam bench make one: --runs DIR"
        )
    return Runs(folder)


@runs_app.command(name="list")
def list_(runs: Path = _Folder, json_: bool = console.JsonOption) -> None:
    """List finished fits and benches, and the stages of each kind with their sizes."""
    from casam_cache.engine.uses import uses

    opened = _open(runs)
    kinds: dict[str, list[int]] = {}
    for folder in opened.stages():
        kinds.setdefault(folder.parent.name, []).append(_bytes(folder))
    noted = list(uses(opened))
    needed = {name for use in noted for name in use.stages}
    unused = sum(f"{folder.parent.name}/{folder.name}" not in needed for folder in opened.stages())
    results: list[dict[str, Any]] = [
        {"name": use.name, "what": use.what, "stages": len(use.stages), "when": use.when}
        for use in sorted(noted, key=lambda use: use.when)
    ]
    if json_:
        sizes = {kind: {"stages": len(found), "bytes": sum(found)} for kind, found in kinds.items()}
        console.print_json({"results": results, "kinds": sizes, "unused": unused})
        return
    for result in results:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(result["when"]))
        console.show_result(f"{when}  {result['what']}  ({result['stages']} stages, {result['name']})")
    for kind, found in kinds.items():
        console.show_result(f"{kind}: {len(found)} stages, {sum(found) / 2**20:,.1f} MiB")
    if unused:
        console.show_line(f"{unused} stages are needed by no result: casam runs remove {runs} --unused")


@runs_app.command()
def show(
    stage: Path = typer.Argument(..., help="The folder of a stage: RUNS/KIND/KEY."),
    json_: bool = console.JsonOption,
) -> None:
    """Print what a stage is: its options and seed, what it was computed from, by which code, when and where."""
    from casam_cache.engine.code import other_modules
    from casam_cache.engine.runs import read_record

    record = read_record(stage.absolute())
    other = other_modules(record.code)
    told = {**record.to_json(), "changed_modules": other}
    if json_:
        console.print_json(told)
        return
    for name in ("kind", "key", "revision", "inputs", "parents", "files", "recorded"):
        console.show_result(f"{name}: {json.dumps(told[name], indent=1, sort_keys=True)}")
    console.show_result(
        f"code: {len(record.code)} modules, "
        + (f"changed since: {', '.join(other)}" if other else "as it is now")
    )


@runs_app.command()
def verify(runs: Path = _Folder, json_: bool = console.JsonOption) -> None:
    """Read every byte of every stage back and name what is damaged; the exit code is 1 if anything is."""
    from casam_cache.bench.results import damaged_results
    from casam_cache.encode.kept_backbones import damaged_backbones
    from casam_cache.engine.runs import DamagedError, read_record
    from casam_cache.engine.uses import unreadable

    opened = _open(runs)
    folders, wrong = list(opened.stages()), list[str]()
    with console.bar("verify", unit="stages") as bar:
        for number, folder in enumerate(folders):
            try:
                read_record(folder)
            except DamagedError as error:
                wrong.append(error.message)
            bar.update(number + 1, len(folders))
    wrong += [
        *damaged_results(runs),
        *damaged_backbones(runs),
        *(f"{path} cannot be read" for path in unreadable(opened)),
    ]
    if json_:
        console.print_json({"stages": len(folders), "damaged": wrong})
    else:
        for line in wrong:
            console.show_result(line)
        console.show_line(f"{len(folders)} stages, {len(wrong)} damaged")
        if wrong:
            console.show_line("the command that made a stage computes it again")
    if wrong:
        raise typer.Exit(1)


@runs_app.command()
def remove(
    runs: Path = _Folder,
    name: list[str] = typer.Option(
        [], help="A result to forget, as casam runs list names it. It may be repeated."
    ),
    unused: bool = typer.Option(False, "--unused", help="Remove every stage that no result needs."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be removed, and remove nothing."),
    json_: bool = console.JsonOption,
) -> None:
    """Forget results by name, and remove stages that no result needs."""
    from casam_cache.engine.uses import FOLDER, unreadable, uses

    opened = _open(runs)
    if not (name or unused):
        raise OptionError(
            "nothing to remove was named", f"give --unused, or --name of casam runs list {runs}"
        )
    noted, name = {use.name: use for use in uses(opened)}, list(dict.fromkeys(name))
    for wanted in name:
        if wanted not in noted:
            raise OptionError(f"no result is named '{wanted}'", f"casam runs list {runs} lists them")
    if unused and (bad := unreadable(opened)):
        raise CasamError(
            f"{bad[0]} cannot be read: what it needs is not known", f"run that command again, or rm {bad[0]}"
        )
    if unused and (busy := opened.busy()):
        raise CasamError(
            f"{busy[0]} is being computed, and what a command needs is noted at its end",
            "wait until it is finished",
        )
    gone = [
        runs / part
        for wanted in name
        for part in (f"{FOLDER}/{wanted}.json", f"bench/{wanted}")
        if (runs / part).exists()
    ]
    needed = {stage for use in noted.values() if use.name not in name for stage in use.stages}
    if unused:
        gone += [folder for folder in opened.stages() if f"{folder.parent.name}/{folder.name}" not in needed]
    freed = sum(_bytes(path) for path in gone)
    for path in () if dry_run else gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    report: dict[str, Any] = {"removed": [str(path) for path in gone], "bytes": freed, "dry_run": dry_run}
    if json_:
        console.print_json(report)
        return
    console.show_line(f"{'would remove' if dry_run else 'removed'} {len(gone)}, {freed / 2**20:,.1f} MiB")


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
