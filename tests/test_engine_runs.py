"""Stages: named by what decides their result, computed once, kept whole or not at all."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from disks import limited_file_size
from pydantic import BaseModel

from casam_cache.engine import uses
from casam_cache.engine.runs import RECORD, DamagedError, Record, Runs, read_record, stage_folder
from casam_cache.engine.schedule import run_plan
from casam_cache.engine.stage import Stage, Work, beside
from casam_cache.errors import CasamError


@dataclass(frozen=True)
class Here:
    """As little of a place as the engine asks for."""

    device: str = "cpu"


@dataclass(frozen=True)
class Items:
    """A value that says what a key holds of it."""

    content: str
    path: str = "decides nothing"

    def key_data(self) -> list[str]:
        return [self.content]


class Options(BaseModel, frozen=True):
    blocks: int = 1
    rate: float = 1e-4


DEFAULTS = Options()
Compute = Callable[[Work], dict[str, Any] | None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit(Stage):
    """Fields of every sort; `do` is what computing it does."""

    kind: ClassVar[str] = "fit"

    task: str = "discs"
    options: Options = DEFAULTS
    items: Items = Items("abc")
    seed: int = 0
    before: tuple[Stage, ...] = ()
    members: Mapping[str, Stage] | None = None
    do: Compute | None = beside(None)  # noqa: RUF009

    def compute(self, work: Work) -> dict[str, Any]:
        assert not list(work.result.iterdir()), "what an interrupted run left is not a result"
        assert self.do is not None
        return self.do(work) or {}


@dataclass(frozen=True, eq=False, kw_only=True)
class Other(Fit):
    kind: ClassVar[str] = "other"


@dataclass(frozen=True, eq=False, kw_only=True)
class Revised(Fit):
    revision: ClassVar[int] = 2


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def obtain(runs: Runs, stage: Stage, **options: Any) -> bool:
    """Whether the stage was computed now."""
    return stage.key in run_plan([stage], runs, Here(), **options)


def writer(text: str, calls: list[str]) -> Compute:
    def compute(work: Work) -> dict[str, Any]:
        calls.append(text)
        (work.result / "file.txt").write_text(text)
        return {"told": text}

    return compute


# Keys


def test_the_key_follows_from_every_deciding_field_and_from_nothing_else() -> None:
    stage = Fit()
    for same in (Fit(cost=9.0), Fit(items=Items("abc", "elsewhere")), Fit(do=lambda work: None)):
        assert (same.key, same.name) == (stage.key, f"fit/{stage.key}")
    parent, another = Fit(seed=1), Fit(seed=2)
    others = [
        Other(),
        Revised(),
        Fit(task="other"),
        Fit(seed=3),
        Fit(items=Items("other")),
        Fit(options=Options(blocks=2)),
        Fit(options=Options(rate=1.1e-4)),
        Fit(before=(parent,)),
        Fit(before=(another,)),
        Fit(before=(parent, another)),
        Fit(before=(another, parent)),
        Fit(members={"a": parent}),
        Fit(members={"b": parent}),
        Fit(before=(Fit(before=(parent,)),)),
    ]
    assert len({stage.key, *(other.key for other in others)}) == len(others) + 1


def test_the_order_of_a_mapping_is_no_part_of_the_key() -> None:
    members = {"a": Fit(seed=1), "b": Fit(seed=2)}
    stage = Fit(members=members)
    assert stage.key == Fit(members=dict(reversed(members.items()))).key
    assert {parent.key for parent in stage.parents} == {member.key for member in members.values()}
    twice = Fit(before=(members["a"],), members=members)
    assert len(twice.parents) == 2, "each once"


# One stage


def test_a_stage_is_computed_once_and_recorded(runs: Runs) -> None:
    calls = list[str]()
    parent = Fit(seed=1, do=writer("parent", calls))
    stage = Fit(before=(parent,), do=writer("first", calls), cost=3.0)
    assert runs.find(stage) is None
    assert runs.recorded(stage) == {}
    with pytest.raises(CasamError, match="is not in"):
        runs.open(stage)
    assert run_plan([stage], runs, Here()) == {parent.key, stage.key}
    assert run_plan([replace(stage, do=writer("second", calls))], runs, Here()) == frozenset()
    assert calls == ["parent", "first"]
    folder = runs.open(stage)
    assert folder == runs.root / "fit" / stage.key == stage_folder(runs.root, stage.name)
    assert (folder / "file.txt").read_text() == "first"
    record = runs.find(stage)
    assert record is not None
    assert (record.kind, record.revision, record.key) == ("fit", 1, stage.key)
    assert record.inputs == {
        "task": "discs",
        "options": {"blocks": 1, "rate": 1e-4},
        "items": ["abc"],
        "seed": 0,
        "before": [parent.key],
        "members": None,
    }
    above = runs.find(parent)
    assert above is not None
    assert record.parents == {parent.name: above.content}
    assert list(record.files) == ["file.txt"]
    assert __name__ in record.code
    assert "casam_cache.errors" in record.code
    assert not any(name.startswith("casam_cache.engine") for name in record.code), "it decides no result"
    facts = record.recorded
    assert (facts["device"], facts["told"], facts["cost"], facts["threads"]) == ("cpu", "first", 3.0, 1)
    assert {"python", "torch", "numpy"} <= facts["versions"].keys()
    assert facts["seconds"] >= 0
    assert not list((runs.root / "partial").iterdir())


def test_a_stage_appears_whole(runs: Runs) -> None:
    def compute(work: Work) -> None:
        (work.result / "file.txt").write_text("x")
        assert work.runs.find(stage) is None
        assert not work.runs.folder(stage).exists()

    stage = Fit(do=compute)
    assert obtain(runs, stage)
    assert sorted(path.name for path in runs.folder(stage).iterdir()) == ["file.txt", RECORD]


# Interruptions


def interrupted(work: Work) -> None:
    (work.result / "half.txt").write_text("half")
    (work.resumable() / "epoch").write_text("7")
    raise KeyboardInterrupt


def resumed(work: Work) -> dict[str, Any]:
    found = work.resumable() / "epoch"
    return {"resumed": found.read_text() if found.exists() else "nothing"}


def test_an_interrupted_stage_keeps_its_checkpoints_alone(runs: Runs) -> None:
    stage = Fit(do=interrupted)
    with pytest.raises(KeyboardInterrupt):
        obtain(runs, stage)
    assert runs.find(stage) is None
    assert not (runs.root / "fit").exists()
    assert obtain(runs, Fit(do=resumed))
    assert runs.recorded(stage)["resumed"] == "7"
    assert [path.name for path in runs.folder(stage).iterdir()] == [RECORD]
    assert not list((runs.root / "partial").iterdir())


def test_what_other_code_or_other_parents_began_is_not_gone_on_with(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casam_cache.engine import runs as engine_runs

    parent = Fit(seed=1, do=writer("parent", []))
    stage, told = Fit(before=(parent,), do=interrupted), list[str]()
    with pytest.raises(KeyboardInterrupt):
        obtain(runs, stage)
    with monkeypatch.context() as patch:
        patch.setattr(engine_runs, "code_of", lambda roots: {"a.module": "other"})
        assert obtain(runs, replace(stage, do=resumed), say=told.append)
    assert runs.recorded(stage)["resumed"] == "nothing"
    assert any("begins anew" in line for line in told)

    shutil.rmtree(runs.folder(stage))
    with pytest.raises(KeyboardInterrupt):
        obtain(runs, stage)
    shutil.rmtree(runs.folder(parent))
    told.clear()
    below = replace(stage, before=(Fit(seed=1, do=writer("another", [])),), do=resumed)
    assert below.key == stage.key
    assert obtain(runs, below, say=told.append)
    assert runs.recorded(stage)["resumed"] == "nothing"
    assert any("begins anew" in line for line in told)


# Others at the same time


def test_two_who_want_the_same_stage_compute_it_once(runs: Runs) -> None:
    calls, found = list[str](), list[bool]()

    def slow(work: Work) -> dict[str, Any]:
        time.sleep(0.2)
        return writer("x", calls)(work) or {}

    threads = [
        threading.Thread(target=lambda: found.append(obtain(Runs(runs.root), Fit(do=slow)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["x"]
    assert sorted(found) == [False, False, False, True]


def test_a_claim_waits_for_the_other_one_or_leaves_it_alone(runs: Runs) -> None:
    stage = Fit(do=writer("x", []))
    held, ended, taken = threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        with runs.claim(stage):
            held.set()
            ended.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(30)
    with Runs(runs.root).claim(stage, wait=False) as claim:
        assert claim is None
    threading.Timer(0.3, ended.set).start()
    with Runs(runs.root).claim(stage) as claim:
        assert claim is not None, "the other one gave up"
        assert ended.is_set()
        taken.append("taken")
    other.join()
    assert taken


def test_different_stages_do_not_wait_for_each_other(runs: Runs) -> None:
    inside, calls = threading.Barrier(2, timeout=20), list[str]()

    def together(work: Work) -> None:
        inside.wait()
        calls.append("x")

    threads = [threading.Thread(target=obtain, args=(runs, Fit(seed=seed, do=together))) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 2


# Folders that are not what they should be


def test_a_folder_that_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="is not a finished stage"):
        read_record(tmp_path / "nowhere")
    (tmp_path / "damaged").mkdir()
    for text in ("{", "[]", "{}", "null", '{"digest": 1}', "\udcff"):
        (tmp_path / "damaged" / RECORD).write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(DamagedError, match="cannot be read"):
            read_record(tmp_path / "damaged")
    for name in ("fit/x", "../etc", "fit/../../x", "partial/0123456789abcdef0123", "fit"):
        with pytest.raises(DamagedError, match="is not the name of a stage"):
            stage_folder(tmp_path, name)


def damage_bytes(folder: Path) -> None:
    path = folder / "file.txt"
    path.write_text("Y" * len(path.read_text()))


def damage_record(folder: Path) -> None:
    (folder / RECORD).write_text((folder / RECORD).read_text().replace('"discs"', '"discz"'))


def move_elsewhere(folder: Path) -> None:
    folder.rename(folder.parent / ("0" * 20))
    shutil.copytree(folder.parent / ("0" * 20), folder)
    other = json.loads((folder / RECORD).read_text())
    del other["digest"]
    made = Record(**{**other, "key": "0" * 20}).to_json()
    (folder / RECORD).write_text(json.dumps(made))


def make_it_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


@pytest.mark.parametrize(
    "damage",
    [
        damage_bytes,
        damage_record,
        move_elsewhere,
        make_it_a_file,
        lambda folder: (folder / "file.txt").unlink(),
        lambda folder: (folder / RECORD).unlink(),
    ],
    ids=["bytes", "record", "another stage", "a file", "a missing file", "no record"],
)
def test_a_damaged_stage_is_said_and_computed_again(runs: Runs, damage: Callable[[Path], None]) -> None:
    stage, told = Fit(do=writer("text", [])), list[str]()
    obtain(runs, stage)
    record = runs.find(stage)
    damage(runs.folder(stage))
    with pytest.raises(DamagedError):
        runs.find(stage)
    with pytest.raises(CasamError):
        runs.open(stage)
    assert obtain(runs, stage, say=told.append)
    assert len(told) == 1
    assert str(runs.folder(stage)) in told[0]
    again = runs.find(stage)
    assert record is not None
    assert again is not None
    assert again.content == record.content
    assert not list((runs.root / "partial").iterdir())


def test_a_runs_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(CasamError, match="cannot write to the runs folder") as caught:
        obtain(Runs(tmp_path / "runs"), Fit(do=writer("x", [])))
    assert "--runs" in caught.value.hint
    assert (tmp_path / "runs").read_text() == "a file"


def test_a_file_elsewhere_is_named_for_itself(runs: Runs, tmp_path: Path) -> None:
    gone = tmp_path / "store.zarr" / "shard"
    with pytest.raises(CasamError, match=r"a stage cannot use .*shard: No such file") as caught:
        obtain(runs, Fit(do=lambda work: {"read": gone.read_text()}))
    assert "casam store verify" in caught.value.hint


def test_a_disk_that_fills_up_leaves_no_half_stage(runs: Runs) -> None:
    stage = Fit(do=writer("x" * 5000, []))
    with limited_file_size(1000), pytest.raises(CasamError, match="runs folder"):
        obtain(runs, stage)
    assert runs.find(stage) is None
    assert obtain(runs, stage)
    assert len((runs.open(stage) / "file.txt").read_text()) == 5000


def test_a_note_that_cannot_be_written_is_one_clear_error(runs: Runs) -> None:
    """All is computed by then, and a full disk, or a file in the way, is told like any other."""
    stage = Fit(do=writer("x", []))
    obtain(runs, stage)
    (runs.root / uses.FOLDER).write_text("a file")
    with pytest.raises(CasamError, match="cannot write to the runs folder"):
        uses.note_use(runs, "name", "what", [stage])
    (runs.root / uses.FOLDER).unlink()
    with limited_file_size(4), pytest.raises(CasamError, match="cannot write to the runs folder"):
        uses.note_use(runs, "name", "what", [stage])
    assert list(uses.uses(runs)) == []
    uses.note_use(runs, "name", "what", [stage])
    [use] = uses.uses(runs)
    assert (use.what, use.stages) == ("what", {stage.name})
