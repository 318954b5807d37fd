"""`casam bench --pack K`: results of alone within rounding under keys of their own, and no work lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_sets import facts, one_thread, plan
from conftest import Casam

from casam_cache.bench import pack_work
from casam_cache.bench.bench import Bench
from casam_cache.bench.results import Results
from casam_cache.bench.stages import Claim, Runs
from casam_cache.methods.decoder import Decoder
from casam_cache.training import pack as training_pack

GRID = ("alignment.learning_rate=3e-4,1e-3",)
TWO = {"tasks": ["amber", "moss"], "seeds": 2, "training": {"epochs": 2, "batch_size": 2}}


@pytest.fixture(autouse=True)
def in_one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the packs that are fitted."""
    found: list[int] = []

    def counted(requests: Any, *args: Any, **more: Any) -> Any:
        found.append(len(requests))
        return training_pack.fit_pack(requests, *args, **more)

    monkeypatch.setattr(pack_work, "fit_pack", counted)
    return found


def bench(stores: Path, runs: Path, pack: int = 1, methods: tuple[str, ...] = ("alignment",)) -> Bench:
    return plan(stores, runs, methods, GRID, pack=pack, **TWO)


def fits(runs: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Records of the fits by task, method, seed and learning rate."""
    records = [Runs(runs).record(folder) for folder in sorted((runs / "fit").iterdir())]
    return {
        (
            record["inputs"]["task"],
            record["inputs"]["method"]["name"],
            record["inputs"]["seed"],
            record["inputs"]["training"]["learning_rate"],
        ): record
        for record in records
    }


def weights(runs: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (runs / "fit").glob("*/head.safetensors")}


def same_within_rounding(first: Results, second: Results) -> None:
    for own, other in zip(facts(first), facts(second), strict=True):
        assert (own["label"], own["seed"]) == (other["label"], other["seed"])
        for name in ("last_iou", "last_biou"):
            assert own[name] == pytest.approx(other[name], abs=2e-3)


def test_packed_rows_are_those_of_alone_under_other_keys(
    bench_stores: Path, tmp_path: Path, sizes: list[int]
) -> None:
    runs = tmp_path / "runs"
    methods = ("alignment", "decoder", "ca-sam")
    alone = bench(bench_stores, runs, methods=methods).run()
    assert not sizes
    before = fits(runs)
    packed = bench(bench_stores, runs, 3, methods).run()
    assert sizes == [3] * 4, "of each task two seeds at two rates, and at the rate of CA-SAM's experts"
    same_within_rounding(packed, alone)
    keys = {record["key"] for record in before.values()}
    own = {place: record for place, record in fits(tmp_path / "runs").items() if record["key"] not in keys}
    assert {place[1] for place in own} == {"alignment"}, "what cannot be packed keeps its key and its result"
    for place, record in own.items():
        assert record["inputs"] == {**before[place]["inputs"], "pack": 3}
        assert record["recorded"]["packed"] == 3
    assert bench(bench_stores, runs, 3, methods).run().stages["computed"] == 0
    assert bench(bench_stores, runs, 1, methods).run().stages["computed"] == 0
    assert not any("pack" in record["inputs"] for record in before.values())


def test_an_interrupted_pack_ends_with_the_same_bits(
    bench_stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two epochs, and then between publishing one member and the next."""
    bench(bench_stores, tmp_path / "whole", 4).run()
    runs = tmp_path / "runs"

    class KilledError(Exception):
        pass

    written = training_pack.write_checkpoint

    def killed(*args: Any) -> None:
        written(*args)
        raise KilledError

    monkeypatch.setattr(training_pack, "write_checkpoint", killed)
    with pytest.raises(KilledError):
        bench(bench_stores, runs, 4).run()
    monkeypatch.setattr(training_pack, "write_checkpoint", written)
    finish, finished = Claim.finish, []

    def publish(self: Claim, recorded: dict[str, Any] | None = None) -> None:
        if "fit" in str(self.result) and len(finished) == 2:
            raise KilledError
        finished.append(self)
        finish(self, recorded)

    monkeypatch.setattr(Claim, "finish", publish)
    with pytest.raises(KilledError):
        bench(bench_stores, runs, 4).run()
    monkeypatch.setattr(Claim, "finish", finish)
    assert len(weights(runs)) == 2
    bench(bench_stores, runs, 4).run()
    assert weights(runs) == weights(tmp_path / "whole")


def test_stages_that_join_an_interrupted_pack_are_fitted_apart(
    bench_stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    runs, finish = tmp_path / "runs", Claim.finish
    published: list[str] = []

    class KilledError(Exception):
        pass

    def publish(self: Claim, recorded: dict[str, Any] | None = None) -> None:
        if published:
            raise KilledError
        published.append(str(self.result))
        finish(self, recorded)

    monkeypatch.setattr(Claim, "finish", publish)
    with pytest.raises(KilledError):
        plan(bench_stores, runs, ["alignment"], GRID, pack=2, **{**TWO, "tasks": ["amber"]}).run()
    monkeypatch.setattr(Claim, "finish", finish)
    plan(bench_stores, runs, ["alignment"], GRID, pack=2, **{**TWO, "tasks": ["amber"]}).run()
    assert sizes == [2, 1, 1, 1], (
        "the second member goes on from its pack, the third starts, the fourth is left"
    )


def test_from_the_command_line(casam: Casam, bench_stores: Path, tmp_path: Path, sizes: list[int]) -> None:
    asked = ("bench", "--store", bench_stores, "--model", "tiny", "--methods", "alignment", "--tasks", "amber",
             "--epochs", 1, "--seeds", 3, "--set", "blocks=1,2", "--pack", 4, "--device", "cpu",
             "--jobs", 1)  # fmt: skip
    found = casam.json(*asked)
    assert casam.code == 0, casam.err
    assert sizes == [4, 2]
    assert found["recipe"]["pack"] == 4
    assert casam.json(*asked)["stages"]["computed"] == 0
    assert "up to 4 at once (`--pack`)" in casam("report", "casam_runs")
    assert casam("bench", "--pack", 0) == ""
    assert casam.code == 2


def test_a_method_that_says_it_packs_but_cannot_is_fitted_alone(
    bench_stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    asked = {**TWO, "tasks": ["amber"]}
    plan(bench_stores, tmp_path / "alone", ["decoder"], **asked).run()
    monkeypatch.setattr(Decoder, "packs", True)
    plan(bench_stores, tmp_path / "packed", ["decoder"], pack=2, **asked).run()
    assert not sizes
    alone, packed = weights(tmp_path / "alone"), weights(tmp_path / "packed")
    assert sorted(alone.values()) == sorted(packed.values())
    assert not alone.keys() & packed.keys()
