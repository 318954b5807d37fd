"""Results know the code that made them: what changed is named, kept or computed again, and nothing else is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bench_sets import finished, kinds

from casam_cache.engine import code
from casam_cache.engine.code import code_of, module_digest, other_modules

ROOT = Path(__file__).parent.parent
ARGUMENTS = (
    "--tasks", "amber,moss", "--order", "amber,moss", "--methods", "frozen,naive,ca-sam", "--epochs", "1",
    "--set", "batch_size=2", "--set", "blocks=1", "--set", "vae_steps=20", "--unseen", "none", "--jobs", "1",
)  # fmt: skip
FIT = ("fit", "--task", "moss", "--epochs", "1", "--set", "batch_size=2", "--set", "blocks=1")


@dataclass
class Copy:
    """The package in a folder of its own, to be changed there, and what it computed."""

    folder: Path
    stores: Path
    out: str = ""
    err: str = ""

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        paths = [str(self.folder / "package"), str(self.folder / "package" / "cli")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "300",
        }
        environment |= {"CASAM_CACHE_DIR": str(self.folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        where = ("--store", self.stores, "--runs", self.runs, "--device", "cpu")
        return subprocess.Popen(
            [sys.executable, "-c", "from casam_cli.main import run; run()", *map(str, (*arguments, *where))],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments: object, expect: int = 0) -> str:
        process = self.start(*arguments)
        self.out, self.err = process.communicate(timeout=250)
        assert process.returncode == expect, self.err
        assert "Traceback" not in self.err
        return self.out

    def bench(self, *more: str, expect: int = 0) -> str:
        return self("bench", *ARGUMENTS, *more, expect=expect)

    def change(self, module: str, old: str, new: str) -> None:
        path = self.folder / "package" / module
        text = path.read_text()
        assert old in text, f"{module} no longer holds {old!r}"
        path.write_text(text.replace(old, new, 1))

    def results(self) -> dict[str, Any]:
        [path] = self.runs.glob("bench/*/results.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def copied(folder: Path, stores: Path) -> Copy:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "casam_cache", folder / "package" / "casam_cache", ignore=ignored)
    shutil.copytree(ROOT / "cli" / "casam_cli", folder / "package" / "cli" / "casam_cli", ignore=ignored)
    return Copy(folder, stores)


LOSS = ("casam_cache/training/losses.py", "options.focal_weight *", "1.25 * options.focal_weight *")


@pytest.mark.slow
def test_a_fit_of_other_code_is_refused_until_it_is_said_what_to_do(
    bench_stores: Path, tmp_path: Path
) -> None:
    copy = copied(tmp_path, bench_stores)
    copy(*FIT)
    before = finished(copy.runs)
    copy.change(*LOSS)
    copy(*FIT, expect=1)
    assert "casam_cache.training.losses" in copy.err
    assert "1 fit" in copy.err
    assert finished(copy.runs) == before


@pytest.mark.slow
def test_a_changed_loss_is_named_kept_or_trained_again(bench_stores: Path, tmp_path: Path) -> None:
    copy = copied(tmp_path, bench_stores)
    copy.bench()
    before, numbers = finished(copy.runs), copy.results()
    assert "code" not in numbers["mixtures"]
    trained = {kind: count for kind, count in kinds(before).items() if kind in ("fit", "learn", "joint")}
    copy.change(*LOSS)

    copy.bench(expect=1)
    told = re.search(r"error: .*", copy.err)
    assert told is not None
    assert copy.err.count("error:") == 1
    for kind, count in trained.items():
        assert f"{count} {kind}" in told[0]
    for kind in ("evaluate", "pool", "router"):
        assert kind not in told[0]
    assert "casam_cache.training.losses" in told[0]
    assert "--recompute" in copy.err
    assert "--keep" in copy.err
    assert finished(copy.runs) == before

    table = copy.bench("--keep")
    assert "casam_cache.training.losses has changed since" in table
    kept = copy.results()
    assert kept["results"] == numbers["results"]
    assert kept["stages"]["computed"] == 0
    assert any("losses" in line for line in kept["mixtures"]["code"])
    assert finished(copy.runs) == before

    copy.bench("--recompute")
    after = finished(copy.runs)
    again = {name for name in after if after[name] != before.get(name)}
    assert {kind: count for kind, count in kinds(again).items() if kind in trained} == trained
    for kind in ("pool", "router"):
        assert kind not in kinds(again)
    for name in set(before) - again:
        record = json.loads((copy.runs / name / "record.json").read_text())
        assert "casam_cache.training.losses" not in record["code"]
    frozen = [
        name
        for name in after
        if name.startswith("evaluate/")
        and json.loads((copy.runs / name / "record.json").read_text())["inputs"]["head"] is None
    ]
    assert frozen
    assert not set(frozen) & again, "the frozen SAM was not trained"
    assert kinds(again)["evaluate"] == kinds(before)["evaluate"] - len(frozen)
    assert copy.results()["results"] != numbers["results"]
    assert "code" not in copy.results()["mixtures"]
    copy.bench()
    assert finished(copy.runs) == after


@pytest.mark.slow
def test_only_code_that_decides_results_counts(bench_stores: Path, tmp_path: Path) -> None:
    copy = copied(tmp_path, bench_stores)
    copy(*FIT)
    before = finished(copy.runs)
    copy.change("casam_cache/training/losses.py", '"""', '"""Another docstring. ')
    path = tmp_path / "package" / "casam_cache" / "training" / "losses.py"
    path.write_text(path.read_text() + "\n# another comment\n")
    copy.change(
        "casam_cache/training/interpolation.py",
        '"""Images that',
        '"""Another text of a constant. Images that',
    )
    engine = tmp_path / "package" / "casam_cache" / "engine" / "schedule.py"
    engine.write_text(engine.read_text() + "\nANOTHER = 1\n")
    copy(*FIT)
    assert finished(copy.runs) == before
    evaluation = tmp_path / "package" / "casam_cache" / "bench" / "stages" / "evaluate.py"
    evaluation.write_text(evaluation.read_text() + "\nANOTHER = 1\n")
    copy(*FIT, expect=1)
    assert "2 finished stages" in copy.err
    assert "(2 evaluate)" in copy.err
    assert "casam_cache.bench.stages.evaluate" in copy.err
    assert "casam_cache.training" not in copy.err
    copy(*FIT, "--recompute")
    after = finished(copy.runs)
    assert kinds({name for name in after if after[name] != before[name]}) == {"evaluate": 2}


@pytest.mark.slow
def test_a_checkpoint_of_other_code_is_not_gone_on_with(bench_stores: Path, tmp_path: Path) -> None:
    copy = copied(tmp_path, bench_stores)
    long = (*FIT[:3], "--epochs", "60", "--set", "batch_size=1", "--set", "blocks=1")
    process = copy.start(*long)
    deadline = time.monotonic() + 200
    while not list(copy.runs.glob("partial/*/checkpoints/checkpoint.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    assert not list(copy.runs.glob("fit/*"))
    copy.change(*LOSS)
    copy(*long)
    assert "begins anew" in copy.err
    [record] = copy.runs.glob("fit/*/record.json")
    assert json.loads(record.read_text())["recorded"]["fit"]["resumed_from"] == 0


# What counts as code


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package beside ours, whose modules are read anew in every test."""
    folder = tmp_path / "beside" / "casam_beside"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(folder.parent))
    code._module.cache_clear()
    code._code_of.cache_clear()
    yield folder
    code._module.cache_clear()
    code._code_of.cache_clear()


def reached(package: Path, **modules: str) -> dict[str, str]:
    code._module.cache_clear()
    code._code_of.cache_clear()
    for name, text in modules.items():
        (package / f"{name}.py").write_text(text)
    found = code_of(["casam_beside.first"])
    return {name.removeprefix("casam_beside."): digest for name, digest in found.items()}


def test_imports_are_followed_wherever_they_stand(package: Path) -> None:
    modules = dict.fromkeys(("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"), "A = 1\n")
    first = """
from typing import TYPE_CHECKING
import typing
import os, json
from casam_beside.second import A
def later():
    import casam_beside.third
    class C:
        from .fourth import A
from . import fifth
if TYPE_CHECKING:
    from casam_beside.sixth import A
if typing.TYPE_CHECKING:
    import casam_beside.sixth
else:
    import casam_beside.seventh
if not TYPE_CHECKING:
    import casam_beside.eighth
from casam_cache.geometry import Geometry
import casam_cache.engine.runs
"""
    found = reached(package, **modules, first=first)
    assert {name for name in found if "." not in name} - {"casam_beside"} == {
        "first", "second", "third", "fourth", "fifth", "seventh", "eighth",
    }  # fmt: skip
    assert "casam_cache.geometry" in found
    assert not any(name.startswith("casam_cache.engine") for name in found)
    assert "casam_beside.first" not in sys.modules, "nothing is imported to find out"


def test_a_change_shows_and_formatting_does_not(package: Path) -> None:
    text = 'def f(x):\n    """Doc."""\n    return x * 2.0\n'
    before = reached(package, first=text)["first"]
    for same in (
        "# comment\n" + text,
        text.replace("Doc.", "Another."),
        text.replace("x * 2.0", "(x  *  2.0)  # twice"),
        '"""Of the module."""\n' + text,
        text.replace('    """Doc."""\n', ""),
    ):
        assert reached(package, first=same)["first"] == before, same
    for other in ("x * 2", "x * 2.1", "x + 2.0", "(x, 2.0)", "x * 2.0 if x else None"):
        assert reached(package, first=text.replace("x * 2.0", other))["first"] != before, other
    assert reached(package, first=text + "A = 'text'\n")["first"] != before
    assert reached(package, first=text.replace("(x)", "(x=None)"))["first"] != before


def test_a_module_that_is_gone_or_changed_is_reported(package: Path) -> None:
    found = reached(package, first="from casam_beside import second\n", second="A = 1\n")
    recorded = {f"casam_beside.{name}": found[name] for name in ("first", "second")}
    assert other_modules(recorded) == []
    reached(package, second="A = 2\n")
    assert other_modules(recorded) == ["casam_beside.second"]
    (package / "second.py").unlink()
    code._module.cache_clear()
    assert module_digest("casam_beside.second") is None
    assert other_modules(recorded) == ["casam_beside.second"]
    assert other_modules({"no_such_package.module": "0"}) == ["no_such_package.module"]


def test_a_module_that_cannot_be_parsed_is_another_one(package: Path) -> None:
    before = reached(package, first="A = 1\n")
    recorded = {"casam_beside.first": before["first"]}
    reached(package, first="A = (\n")
    assert other_modules(recorded) == ["casam_beside.first"]


def test_a_file_edited_while_the_process_runs_is_not_the_code_that_runs(package: Path) -> None:
    before = reached(package, first="A = 1\n")
    (package / "first.py").write_text("A = 2\n")
    assert code_of(["casam_beside.first"])["casam_beside.first"] == before["first"]


STAGES = "casam_cache.bench.stages"


@pytest.mark.parametrize(
    ("root", "reaches", "never"),
    [
        ("evaluate", "metrics.base", "training.losses"),
        ("fit", "training.losses", "metrics.distribution"),
        ("routing", "routers.fit", "training.losses"),
        ("routing", "routers.pooling", "training.loop"),
        ("distance", "metrics.distribution", "training.losses"),
        ("sequence", "training.losses", "bench.results"),
    ],
)
def test_what_the_stages_reach(root: str, reaches: str, never: str) -> None:
    found = code_of([f"{STAGES}.{root}"])
    assert f"casam_cache.{reaches}" in found
    assert f"casam_cache.{never}" not in found
    assert "casam_cache.bench.bench" not in found
