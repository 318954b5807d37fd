"""Whatever happens to the files of a runs folder: the same numbers, or a line that says what was damaged."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_sets import BENCH, METHODS, Reference, facts, one_thread, plan
from conftest import Casam

from casam_cache.bench.fit import fit_task
from casam_cache.bench.predict import Predictor
from casam_cache.bench.results import read_results
from casam_cache.encode.kept_backbones import KEPT, damaged_backbones
from casam_cache.engine.runs import RECORD, DamagedError, Runs, read_record, stage_folder
from casam_cache.engine.uses import unreadable, uses
from casam_cache.errors import CasamError
from casam_cache.fingerprint import digest, digest_file
from casam_cache.training.checkpoints import read_checkpoint, write_checkpoint
from casam_cache.training.outcomes import FILE as OUTCOMES

OPTIONS = ("epochs=1", "batch_size=2", "blocks=1", "learning_rate=0.0003")
IMAGE = np.full((48, 40, 3), 90, dtype=np.uint8)
_times = itertools.count(10**18, 10**9)  # a clock may not tick between two writes


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    moment = next(_times)
    os.utime(path, ns=(moment, moment))


@dataclass
class Case:
    """A finished bench and a fit, whose files may be damaged."""

    stores: Path
    runs: Path
    rows: list[dict[str, Any]]
    fit: dict[str, Any]
    model: Path

    def bench(self) -> tuple[list[dict[str, Any]], list[str]]:
        lines: list[str] = []
        with one_thread():
            results = plan(self.stores, self.runs, METHODS, **BENCH).run(say=lines.append)
        return facts(results), lines

    def fitted(self) -> tuple[dict[str, Any], list[str]]:
        lines: list[str] = []
        with one_thread():
            report = fit_task("moss", self.stores, self.runs, options=OPTIONS, device="cpu", say=lines.append)
        return {
            **report.to_json(),
            "computed": False,
            "step_seconds": 0,
        }, lines  # how long it took is no result

    def whole(self) -> None:
        """Computed again, the numbers are those of before."""
        rows, _ = self.bench()
        assert rows == self.rows
        assert self.fitted()[0] == self.fit


@pytest.fixture(scope="session")
def original(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Case:
    runs = reference.copy(tmp_path_factory.mktemp("faults") / "runs")
    case = Case(reference.stores, runs, facts(reference.results), {}, Path())
    case.fit = case.fitted()[0]
    [model] = {row["run"] for row in reference.results.rows if row["method"] == "ca-sam"}
    case.model = runs / "model" / Path(model).name
    return case


@pytest.fixture
def case(original: Case, tmp_path: Path) -> Case:
    runs = tmp_path / "runs"
    shutil.copytree(original.runs, runs)
    fit = {
        name: value.replace(str(original.runs), str(runs)) if isinstance(value, str) else value
        for name, value in original.fit.items()
    }
    return Case(original.stores, runs, original.rows, fit, runs / "model" / original.model.name)


def files(runs: Path) -> list[Path]:
    kept = [path for path in sorted(runs.rglob("*")) if path.is_file() and "locks" not in path.parts]
    return [path for path in kept if path.stat().st_size]


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def found_out(case: Case, path: Path) -> bool:
    """Whether the code that reads a file takes it for damaged; anything but a message of ours is an error."""
    kind = path.relative_to(case.runs).parts[0]
    try:
        if kind == "bench":
            read_results(path.parent)
        elif kind == "used":
            return path in unreadable(Runs(case.runs))
        elif kind == KEPT:
            return any(line.startswith(str(path)) for line in damaged_backbones(case.runs))
        else:
            read_record(case.runs.joinpath(*path.relative_to(case.runs).parts[:2]))
    except CasamError as error:
        return bool(error.hint)
    return False


def flip_many(case: Case, count: int, seed: int) -> None:
    """One bit at a time, in any file; each file as often as any other, so that small ones are not passed over."""
    drawn, every = random.Random(seed), files(case.runs)
    for number in range(count):
        path = drawn.choice(every)
        content = path.read_bytes()
        bit = drawn.randrange(8 * len(content))
        put(path, flipped(content, bit))
        try:
            passed = not found_out(case, path)
            if passed:  # then it says the same: a letter of a number's exponent
                assert path.suffix == ".json", f"flip {number}: bit {bit} of {path}"
                assert json.loads(path.read_text()) == json.loads(content), (
                    f"flip {number}: bit {bit} of {path}"
                )
        finally:
            put(path, content)


def test_any_flipped_bit_is_found(case: Case) -> None:
    flip_many(case, 60, seed=1)
    for path in files(case.runs):
        assert not found_out(case, path), "the files are as they were"


@pytest.mark.slow
def test_thousands_of_flipped_bits_are_found(case: Case) -> None:
    flip_many(case, 3000, seed=2)


def test_flipped_bits_of_many_stages_are_mended_by_the_bench_that_made_them(case: Case) -> None:
    """At once one bit in every fourth stage: heads, outcomes, routers, memories, records."""
    drawn, hit = random.Random(3), []
    for folder in list(Runs(case.runs).stages())[::4]:
        path = drawn.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
        content = path.read_bytes()
        put(path, flipped(content, drawn.randrange(8 * len(content))))
        hit.append(folder)
    rows, lines = case.bench()
    told = "\n".join([*lines, *case.fitted()[1]])
    assert rows == case.rows
    for folder in hit:
        assert f"{folder.parent.name}/{folder.name}" in told
    assert all("computed again" in line for line in lines)
    assert case.bench() == (case.rows, [])


def flipped_checkpoint(path: Path) -> dict[str, Any] | str | None:
    try:
        return read_checkpoint(path.parent, "key")
    except CasamError:
        return "refused"


def test_flipped_bits_of_a_checkpoint_are_found(tmp_path: Path) -> None:
    state = {"key": "key", "head": {"weight": torch.arange(40.0)}, "steps": 7, "penalty": {}}
    write_checkpoint(tmp_path, state)
    path = tmp_path / "checkpoint.pt"
    content, drawn = path.read_bytes(), random.Random(4)
    for _ in range(300):
        bit = drawn.randrange(8 * len(content))
        put(path, flipped(content, bit))
        assert flipped_checkpoint(path) in ("refused", None), f"bit {bit}"
    put(path, content)
    found = read_checkpoint(tmp_path, "key")
    assert found is not None
    assert torch.equal(found["head"]["weight"], state["head"]["weight"])  # type: ignore[index]


# Coarser damage


def one(case: Case, kind: str) -> Path:
    """A stage of a kind that the bench needs."""
    return sorted(path for path in (case.runs / kind).iterdir())[0]


def payload(folder: Path) -> Path:
    """Its largest file but for the record."""
    kept = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD]
    return max(kept, key=lambda path: path.stat().st_size)


def swap(case: Case, kind: str) -> None:
    first, second = sorted((case.runs / kind).iterdir())[:2]
    apart = case.runs / "apart"
    first.rename(apart)
    second.rename(first)
    apart.rename(second)


def swap_files(case: Case, kind: str) -> None:
    paths = [payload(folder) for folder in sorted((case.runs / kind).iterdir())[:2]]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        put(path, content)


def renamed(case: Case, kind: str) -> None:
    """A stage in the place of another one, which is gone."""
    first, second = sorted((case.runs / kind).iterdir())[:2]
    shutil.rmtree(first)
    second.rename(first)


DAMAGE: dict[str, Callable[[Case, str], Any]] = {
    "no record": lambda case, kind: (one(case, kind) / RECORD).unlink(),
    "an empty record": lambda case, kind: put(one(case, kind) / RECORD, b""),
    "a record that is a list": lambda case, kind: put(one(case, kind) / RECORD, b"[]"),
    "no file": lambda case, kind: payload(one(case, kind)).unlink(),
    "an empty file": lambda case, kind: put(payload(one(case, kind)), b""),
    "half a file": lambda case, kind: put(
        payload(one(case, kind)),
        payload(one(case, kind)).read_bytes()[: -payload(one(case, kind)).stat().st_size // 2],
    ),
    "an empty folder": lambda case, kind: (shutil.rmtree(one(case, kind)), one_again(case, kind)),
    "swapped": swap,
    "swapped files": swap_files,
    "another's place": renamed,
}


def one_again(case: Case, kind: str) -> None:
    known = {path.name for path in (case.runs / kind).iterdir()}
    gone = next(name.split("/")[1] for use in uses(Runs(case.runs)) for name in use.stages
                if name.startswith(f"{kind}/") and name.split("/")[1] not in known)  # fmt: skip
    (case.runs / kind / gone).mkdir()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_stage_of_every_kind_is_computed_again_and_said(case: Case, damage: str) -> None:
    """All kinds at once: a fit, its evaluation, the router beside it."""
    kinds = ["fit", "evaluate", "router", "pool", "learn", "merge", "cost", "memory", "joint", "model"]
    kinds = [kind for kind in kinds if (case.runs / kind).is_dir()]
    assert {"fit", "evaluate", "router", "pool", "learn", "model"} <= set(kinds)
    hit = []
    for kind in kinds:
        several = len(list((case.runs / kind).iterdir())) > 1
        has_files = len(list(one(case, kind).rglob("*"))) > 1
        if ("swap" in damage or "another" in damage) and not several:
            continue
        if ("file" in damage) and not has_files:
            continue
        DAMAGE[damage](case, kind)
        hit.append(kind)
    rows, lines = case.bench()
    assert rows == case.rows
    lines = [*lines, *case.fitted()[1]]  # some stages are of the fit alone
    for kind in hit:
        assert any(f"/{kind}/" in line and "computed again" in line for line in lines), (kind, lines)
    assert case.bench() == (case.rows, []), "and then it is whole"
    assert case.fitted()[0] == case.fit


def test_a_deleted_head_is_fitted_again_although_its_scores_are_there(case: Case) -> None:
    """Its size is in the table, and the table names its folder."""
    shutil.rmtree(case.runs / "fit")
    shutil.rmtree(case.runs / "joint")
    assert case.bench()[0] == case.rows
    for row in case.bench()[0]:
        assert row in case.rows
    assert list((case.runs / "fit").iterdir())


def test_fit_says_that_it_computes_again(case: Case) -> None:
    (Path(case.fit["run"]) / RECORD).unlink()
    again, lines = case.fitted()
    assert again == case.fit
    assert len(lines) == 1
    assert "record.json is missing; computed again" in lines[0]
    put(Path(case.fit["outcomes"]) / OUTCOMES, b"task")
    again, lines = case.fitted()
    assert again == case.fit
    assert f"{OUTCOMES} is damaged" in lines[0]


def test_a_stage_that_is_a_file_is_computed_again(case: Case) -> None:
    folder = Path(case.fit["run"])
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    again, lines = case.fitted()
    assert again == case.fit
    assert "is not a folder; computed again" in lines[0]


def test_a_link_in_the_place_of_a_file_is_not_followed(case: Case, tmp_path: Path) -> None:
    weights = Path(case.fit["run"]) / "head.safetensors"
    outside = tmp_path / "outside.safetensors"
    weights.rename(outside)
    weights.symlink_to(outside)
    with pytest.raises(DamagedError, match=r"head\.safetensors"):
        read_record(Path(case.fit["run"]))


# Prediction


def mask(run: Path) -> bytes:
    return Predictor(run, device="cpu").set_image(IMAGE).predict(boxes=(5, 5, 30, 30)).mask.tobytes()


def test_prediction_is_the_same_or_names_what_is_damaged(case: Case) -> None:
    drawn = random.Random(5)
    for run in (Path(case.fit["run"]), case.model):
        before = mask(run)
        named = [run]
        if run == case.model:
            described = json.loads((run / "model.json").read_text())
            named += [case.runs / name for name in described["stages"].values()]
        for folder in named:
            path = drawn.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
            content = path.read_bytes()
            put(path, flipped(content, drawn.randrange(8 * len(content))))
            try:
                with pytest.raises(CasamError) as caught:
                    mask(run)
                assert folder.name in caught.value.message
                assert "\n" not in caught.value.message
            finally:
                put(path, content)
        assert mask(run) == before


def test_predict_says_so_in_one_line(case: Case, casam: Casam, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    (Path(case.fit["run"]) / RECORD).unlink()
    casam("predict", tmp_path / "image.png", "--box", "5,5,30,30", "--run", case.fit["run"])
    assert casam.code == 1
    assert [line for line in casam.err.splitlines() if "record.json is missing" in line]
    assert "Traceback" not in casam.err


def test_a_model_does_not_go_with_heads_that_were_fitted_anew(case: Case) -> None:
    """Thresholds and scores were of the heads of then."""
    described = json.loads((case.model / "model.json").read_text())
    folder = case.runs / next(name for role, name in described["stages"].items() if role.startswith("head/"))
    forge(folder, {"head.json": (folder / "head.json").read_bytes() + b"\n"})
    with pytest.raises(CasamError, match="computed anew"):
        mask(case.model)


# What somebody else wrote


def forge(folder: Path, contents: dict[str, bytes], **changed: Any) -> None:
    """Files with a record that agrees with them, as anybody can write one."""
    for name, content in contents.items():
        put(folder / name, content)
    data = json.loads((folder / RECORD).read_text())
    del data["digest"]
    data["files"] |= {name: digest_file(folder / name) for name in contents}
    data |= changed
    put(folder / RECORD, json.dumps({**data, "digest": digest(data)}).encode())


EVIL = """
from pathlib import Path
Path({mark!r}).write_text("run")
from casam_cache.heads.identity import IdentityHead
class Evil(IdentityHead):
    name = "evil"
"""


def test_a_head_that_names_code_runs_none(case: Case, tmp_path: Path) -> None:
    mark, run = tmp_path / "mark", Path(case.fit["run"])
    evil = tmp_path / "evil.py"
    evil.write_text(EVIL.format(mark=str(mark)))
    description = json.loads((run / "head.json").read_text())
    sha256 = digest_file(evil)
    heads: list[Any] = [
        {"name": f"{evil}:Evil"},
        {"name": "os:system"},
        {"name": "evil", "source": {"file": str(evil), "sha256": sha256, "class": "Evil"}},
        {"name": "evil", "source": {"file": str(evil), "sha256": "../" * 8 + "etc", "class": "Evil"}},
        {"name": "evil", "source": {"file": str(evil)}},
        {"name": "evil", "source": "evil"},
        {},
        "alignment",
        None,
    ]
    for head in heads:
        forge(run, {"head.json": json.dumps({**description, "head": head}).encode()})
        for trust in (False, True):
            with pytest.raises(CasamError):
                Predictor(run, device="cpu", trust=trust)
            assert not mark.exists(), head


def test_a_copy_beside_a_head_is_run_only_where_it_is_trusted(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / "cache"))
    mark, run = tmp_path / "mark", Path(case.fit["run"])
    code = EVIL.format(mark=str(mark)).encode()
    (tmp_path / "evil.py").write_bytes(code)
    sha256 = digest_file(tmp_path / "evil.py")
    description = json.loads((run / "head.json").read_text())
    head = {"name": "evil", "source": {"file": "evil.py", "sha256": sha256, "class": "Evil"}}
    forge(
        run,
        {"head.json": json.dumps({**description, "head": head}).encode(), f"source-{sha256[:16]}.py": code},
    )
    with pytest.raises(CasamError, match="brings Python code"):
        Predictor(run, device="cpu")
    assert not mark.exists()
    with contextlib.suppress(CasamError):  # its weights are those of another head
        Predictor(run, device="cpu", trust=True)
    assert mark.exists()


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "a/../../outside", "", ".", "a//b", "nul\0", "a\\b", "head.json/"],
)
def test_a_record_that_names_files_elsewhere_is_refused(case: Case, name: str) -> None:
    run = Path(case.fit["run"])
    (case.runs / "fit" / "outside").write_text("outside")
    files = {name: digest_file(case.runs / "fit" / "outside")}
    forge(run, {}, files=files)
    with pytest.raises(DamagedError):
        read_record(run)
    assert case.fitted()[0] == case.fit


@pytest.mark.parametrize(
    "changed",
    [{"files": []}, {"files": None}, {"parents": "x"}, {"code": 3}, {"revision": "1"}, {"kind": ["fit"]}, {"more": 1},
     {"files": {"head.json": 3}}, {"recorded": []}, {"key": "../../x"}],
)  # fmt: skip
def test_a_record_of_another_shape_is_refused(case: Case, changed: dict[str, Any]) -> None:
    run = Path(case.fit["run"])
    forge(run, {}, **changed)
    with pytest.raises(DamagedError):
        read_record(run)
    assert case.fitted()[0] == case.fit


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "fit/../../x", "partial/" + "0" * 20, "used/" + "0" * 20, "fit/" + "g" * 20, "",
             "fit", "Fit/" + "0" * 20, "fit/" + "0" * 20 + "\n"]
)  # fmt: skip
def test_a_model_that_names_no_stage_is_refused(case: Case, name: str) -> None:
    with pytest.raises(DamagedError):
        stage_folder(case.runs, name)
    described = json.loads((case.model / "model.json").read_text())
    role = next(role for role in described["stages"] if role.startswith("head/"))
    described["stages"][role] = name
    forge(case.model, {"model.json": json.dumps(described).encode()})
    with pytest.raises(CasamError):
        Predictor(case.model, device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda described: [],
        lambda described: {},
        lambda described: {**described, "stages": 3},
        lambda described: {**described, "stages": dict.fromkeys(described["stages"], 3)},
        lambda described: {**described, "tasks": ["nothing"]},
        lambda described: {**described, "method": {"name": "ca-sam", "options": 3}},
        lambda described: {**described, "router": {"name": "os.system"}},
    ],
)
def test_a_model_of_another_shape_is_refused(case: Case, change: Callable[[Any], Any]) -> None:
    described = json.loads((case.model / "model.json").read_text())
    forge(case.model, {"model.json": json.dumps(change(described)).encode()})
    with pytest.raises(CasamError):
        Predictor(case.model, device="cpu").set_image(IMAGE).predict(boxes=(5, 5, 30, 30))


@pytest.mark.parametrize("missing", ["identity", "task"])
def test_a_fit_without_what_prediction_needs_is_refused(case: Case, missing: str) -> None:
    run = Path(case.fit["run"])
    recorded = {name: value for name, value in read_record(run).recorded.items() if name != missing}
    forge(run, {}, recorded=recorded)
    with pytest.raises(CasamError):
        Predictor(run, device="cpu")
