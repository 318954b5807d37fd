"""`casam bench` over processes: the same bits through any executor, from two at once, and after any kill."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_sets import BENCH, CIRCUMSTANCES, METHODS, Reference, facts, finished, one_thread, plan, small
from pydantic import BaseModel

from casam_cache.bench.bench import Bench, distinct
from casam_cache.bench.results import read_results
from casam_cache.bench.stages.fit import Fit
from casam_cache.engine.executors import run_stages
from casam_cache.engine.schedule import BUSY_SECONDS
from casam_cache.engine.stage import Stage
from casam_cache.errors import CasamError, StoreError
from casam_cache.training import outcomes

KILLS = 20


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def stripped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CIRCUMSTANCES} for row in rows]


def same_bits(runs: Path, reference: Reference) -> None:
    """Every file that a result is made from is byte for byte the one of the reference."""
    names = (
        "head.safetensors",
        "memory.safetensors",
        "features.safetensors",
        "router.safetensors",
        outcomes.FILE,
    )
    files = [path for path in reference.runs.glob("*/*/**/*") if path.name in names]
    assert len(files) > 50
    for path in files:
        assert (runs / path.relative_to(reference.runs)).read_bytes() == path.read_bytes(), path


# Executors


def make_processes() -> Executor:
    return ProcessPoolExecutor(2, get_context("spawn"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [None, lambda: ThreadPoolExecutor(3), make_processes], ids=["jobs", "threads", "processes"]
)
def test_any_executor_gives_the_same_bits(
    reference: Reference, tmp_path: Path, make: Callable[[], Executor] | None
) -> None:
    bench = plan(reference.stores, tmp_path / "runs", METHODS, **BENCH)
    if make is None:
        results = bench.run(jobs=2)
    else:
        with make() as executor:
            results = bench.run(jobs=3, executor=executor)
            assert executor.submit(int, "5").result() == 5, "not ours to shut down"
    assert facts(results) == facts(reference.results)
    assert results.stages == reference.results.stages
    assert finished(tmp_path / "runs").keys() == reference.stages.keys()
    same_bits(tmp_path / "runs", reference)
    assert results.mixtures == {}
    assert not active_children()


def plain(value: Any) -> bool:
    """Whether it is data that any process can unpickle: no function, no open file, no tensor."""
    if isinstance(value, Stage | BaseModel) or dataclasses.is_dataclass(value):
        return type(value).__module__.startswith("casam_cache.") and all(map(plain, vars(value).values()))
    if isinstance(value, dict):
        return all(map(plain, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def test_what_crosses_an_executor_is_plain_data(reference: Reference, tmp_path: Path) -> None:
    """A worker elsewhere needs the folders and these bytes alone."""
    sent: list[Any] = []

    class Recorder(ThreadPoolExecutor):
        def submit(self, function: Any, /, *arguments: Any, **more: Any) -> Any:
            assert function is run_stages
            assert not more
            sent.append(pickle.loads(pickle.dumps(arguments)))
            return super().submit(function, *sent[-1])

    bench = plan(reference.stores, tmp_path / "runs", ["ca-sam"], tasks=["moss"])
    with Recorder(2) as executor:
        results = bench.run(jobs=2, executor=executor)
    assert results.stages["computed"] == results.stages["distinct"]
    assert all(map(plain, sent))
    for root, stages, place, *_ in sent:
        assert Path(root).is_absolute()
        assert Path(place.stores).is_absolute()
        assert all(isinstance(stage, Stage) for stage in stages)


def test_a_failed_stage_ends_the_run_and_leaves_what_is_finished(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casam_cache.bench.stages import fit as head

    class Full(Exception):
        pass

    def fails(*arguments: Any, **options: Any) -> None:
        raise Full

    bench = plan(reference.stores, tmp_path / "runs", ["frozen", "naive"])
    with monkeypatch.context() as patch:
        patch.setattr(head, "fit_head", fails)
        with ThreadPoolExecutor(2) as executor, pytest.raises(Full):
            bench.run(jobs=2, executor=executor)
    before = finished(tmp_path / "runs")
    assert not any(name.startswith("fit") for name in before)
    bench.run()
    assert finished(tmp_path / "runs").items() >= before.items()


def die(*_: Any) -> None:
    os._exit(3)


@pytest.mark.slow
def test_a_worker_that_dies_is_one_clear_error(reference: Reference, tmp_path: Path) -> None:
    bench = plan(reference.stores, tmp_path / "runs", ["frozen", "alignment"])
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        executor.submit(die)
        with pytest.raises(CasamError, match="worker process") as caught:
            bench.run(jobs=1, executor=executor)
    assert "goes on" in caught.value.hint


def test_stores_that_change_under_a_plan_are_an_error(reference: Reference, tmp_path: Path) -> None:
    bench = plan(reference.stores, tmp_path / "runs", ["alignment"], tasks=["moss"])
    fit = the_fit(bench)
    other = dataclasses.replace(fit, items=dataclasses.replace(fit.items, content="0" * 64))
    with pytest.raises(StoreError, match="changed since the plan was made"):
        run_stages(str(tmp_path / "runs"), [other], bench.tasks.place)
    assert finished(tmp_path / "runs") == {}


def the_fit(bench: Bench) -> Fit:
    [found] = [stage for stage in distinct(bench.entries("test")) if isinstance(stage, Fit)]
    return found


# Processes of their own


def arguments(reference: Reference, runs: Path, *more: object) -> list[str]:
    """The reference bench as a command line."""
    recipe = runs.with_suffix(".yaml")
    content = {**BENCH, "title": "Tiny", "tasks": ["amber", "cobalt", "moss"], "unseen": ["ghost"]}
    content["training"] = dict(reference.results.recipe.training)
    content["methods"] = [{"method": name, "set": small(name)} for name in METHODS]
    recipe.write_text(json.dumps(content))
    given = [
        "bench",
        "--recipe",
        recipe,
        "--store",
        reference.stores,
        "--runs",
        runs,
        "--device",
        "cpu",
        *more,
    ]
    return [str(part) for part in given]


def start(given: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from casam_cli.main import run; run()", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def alive(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def leader(folder: str, given: list[str]) -> None:
    """The command line in a session of its own, in a process that need not import everything first."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(f"{folder}/output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = ["casam", *given]
    from casam_cli.main import run

    run()


def count(runs: Path) -> int:
    return sum(1 for _ in runs.glob("*/*/record.json"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_twenty_random_instants_it_ends_with_the_same_bits(
    reference: Reference, tmp_path: Path
) -> None:
    """SIGKILL to the whole group or to the parent alone; nothing committed is computed again, no worker stays."""
    rng = np.random.default_rng(2026)
    ready = get_context("forkserver")
    ready.set_forkserver_preload(["casam_cache.bench.bench", "casam_cache.methods.ca_sam", "casam_cli.main"])
    runs, committed, killed = tmp_path / "runs0", dict[str, int](), 0
    while killed < KILLS or committed:
        jobs = 2 if killed in (7, 14) else 1  # workers take long to start
        given = arguments(reference, runs, "--jobs", jobs)
        process = ready.Process(target=leader, args=(str(tmp_path), given))
        process.start()
        group = process.pid
        assert group is not None
        wait_until(lambda group=group, p=process: not p.is_alive() or os.getsid(group) == group)
        if killed < KILLS:
            # A random time after a random number of further stages: from the planning to the last of them.
            aim = len(committed) + int(rng.integers(0, 9))
            wait_until(lambda aim=aim, p=process, r=runs: not p.is_alive() or count(r) >= aim, 120)
            time.sleep(float(rng.uniform(0, 0.2)))
            killed += process.is_alive()
            if process.is_alive():
                (os.kill if killed % 2 else os.killpg)(group, signal.SIGKILL)
        process.join(120)
        wait_until(lambda group=group: not alive(group))
        after = finished(runs)
        assert after.items() >= committed.items(), "a finished stage was computed again"
        committed = after
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, (tmp_path / "output.txt").read_text()
            [results] = read_results(runs)
            assert stripped(results["results"]) == facts(reference.results)
            assert results["stages"]["distinct"] == len(committed) == len(reference.stages)
            assert after.keys() == reference.stages.keys()
            same_bits(runs, reference)
            assert not list((runs / "partial").iterdir())
            runs, committed = tmp_path / f"runs{killed}", {}  # the kills that are left hit another run
    assert killed == KILLS
    assert "Traceback" not in (tmp_path / "output.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_is_one_message_and_ends_every_worker(reference: Reference, tmp_path: Path, jobs: int) -> None:
    for stages in (0, 8):  # workers are just starting; everything is at work
        runs = tmp_path / f"runs{stages}"
        process = start(arguments(reference, runs, "--jobs", jobs))
        if stages:
            wait_until(lambda r=runs, n=stages: count(r) >= n, 120)
        else:
            wait_until(lambda p=process, r=runs: len(alive(p.pid)) > jobs or (r / "locks").exists(), 120)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to everybody
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert out == ""
        told = [line for line in err.splitlines() if line and not line.startswith("bench ")]
        assert "interrupted" in told[0]
        assert len(told) == 2, err
        wait_until(lambda p=process: not alive(p.pid))


@pytest.mark.slow
def test_two_at_once_share_the_work(reference: Reference, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    found = []
    for process in [start(arguments(reference, runs, "--json", "--jobs", 1)) for _ in range(2)]:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        found.append(json.loads(out))
    assert sum(entry["stages"]["computed"] for entry in found) == len(reference.stages)
    assert all(entry["stages"]["distinct"] == len(reference.stages) for entry in found)
    assert all(entry["stages"]["computed"] > 0 for entry in found), "the other one waited"
    assert [stripped(entry["results"]) for entry in found] == [facts(reference.results)] * 2
    assert not list((runs / "partial").iterdir())
    written = [path.name for path in runs.glob("bench/*/*")]
    assert sorted(written) == ["answers.json", "examples.npz", "results.json", "routing.json"]


def test_a_stage_that_another_process_computes_is_waited_for(reference: Reference, tmp_path: Path) -> None:
    """And taken over if the other one gives up."""
    import threading

    bench = plan(reference.stores, tmp_path / "runs", ["alignment"], tasks=["moss"])
    fit = the_fit(bench)
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with bench.runs.claim(fit):
            held.set()
            ended.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(30)
    assert run_stages(str(bench.runs.root), [fit], bench.tasks.place) == (["busy"], [])
    threading.Timer(3 * BUSY_SECONDS, ended.set).start()
    results = bench.run()
    other.join()
    assert results.stages["computed"] == results.stages["distinct"]
