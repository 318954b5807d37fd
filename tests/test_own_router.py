"""The examples of docs/own-router.md, as a user would run them; and what goes wrong in files of users."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_sets import draw_set, finished, kinds
from conftest import Casam

from casam_cache.config import validated
from casam_cache.errors import CasamError, OptionError
from casam_cache.fingerprint import digest_file
from casam_cache.methods.registry import METHODS
from casam_cache.references import load_reference
from casam_cache.routers.choice import (
    RouterChoice,
    RoutingOptions,
    chosen_options,
    load_references,
    pooling_choice,
    router_choice,
    routing_model,
)
from casam_cache.routers.files import load_pooling, load_router
from casam_cache.routers.testing import PoolingContract, RouterContract

DOCUMENT = Path(__file__).parent.parent / "docs" / "own-router.md"
ROUTER, POOLING, CONTRACT = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
ASKED = ("--set", "router=my_router.py:Cosine", "--set", "pooling=my_pooling.py:GeM", "--set", "power=3")


def write(folder: Path) -> None:
    (folder / "my_router.py").write_text(ROUTER)
    (folder / "my_pooling.py").write_text(POOLING)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write(folder)
    return folder


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """As in a new process: no file of a user's has been run yet."""
    forget()
    yield
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("casam_file_")]:
        del sys.modules[name]


@pytest.fixture
def made(examples: Path, request: pytest.FixtureRequest) -> None:
    if issubclass(request.cls, RouterContract):
        request.cls.router = f"{examples}/my_router.py:Cosine"
    else:
        request.cls.pooling = f"{examples}/my_pooling.py:GeM"


@pytest.mark.usefixtures("made")
class TestCosine(RouterContract):
    options = {"direction": "median"}  # noqa: RUF012


@pytest.mark.usefixtures("made")
class TestGeM(PoolingContract):
    pass


def test_the_documented_tests_are_these() -> None:
    for text in (
        "class TestCosine(RouterContract)",
        "class TestGeM(PoolingContract)",
        '{"direction": "median"}',
    ):
        assert text in CONTRACT
    assert f"casam bench --methods ca-sam {' '.join(ASKED)}" in DOCUMENT.read_text()


def test_the_examples_are_benched_and_predicted_with(
    casam: Casam, bench_stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(casam.folder)
    command = (
        "bench", "--methods", "ca-sam", "--tasks", "amber,cobalt", "--epochs", 1, "--set", "blocks=1",
        "--store", bench_stores, "--runs", "runs", "--device", "cpu", "--jobs", 1,
    )  # fmt: skip
    report = casam.json(*command, *ASKED)
    assert casam.code == 0, casam.err
    [row] = report["results"]
    assert row["router"] == "cosine"
    assert (row["options"]["pooling"], row["options"]["power"]) == ("gem", 3)
    assert "beta" not in row["options"], "options of routers that were not chosen"
    assert 0 <= row["routing_accuracy"] <= 1
    assert casam.json(*command, *ASKED)["stages"]["computed"] == 0

    runs = casam.folder / "runs"
    before = finished(runs)
    (casam.folder / "my_router.py").write_text(ROUTER + "\n# another text\n")
    assert casam.json(*command, *ASKED)["results"][0]["run"] != row["run"]
    assert kinds(finished(runs).keys() - before.keys()) == {"router": 2, "model": 1}, "heads and vectors stay"

    folder = casam.folder / row["run"]
    (casam.folder / "my_pooling.py").write_text("changed = 1\n")
    image = draw_set(tmp_path / "data", "cobalt") / "images" / "i000.png"
    from casam_cache.bench.predict import Predictor

    forget()
    found = Predictor(folder, device="cpu").set_image(image).predict(boxes=(5, 5, 30, 30))
    assert found.mask.shape == (40, 64)
    stages = json.loads((folder / "model.json").read_text())["stages"]
    place = runs / stages["router/amber"]
    forget()
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / "another user"))
    for load, where in ((load_router, place), (load_pooling, folder)):
        with pytest.raises(CasamError, match="brings Python code of its own"):
            load(where)
    assert load_router(place, trust=True).choice.name == "cosine"
    assert load_pooling(folder, trust=True).options.power == 3


def test_a_grid_goes_over_installed_ones_and_files(casam: Casam, bench_stores: Path) -> None:
    write(casam.folder)
    plan = casam.json(
        "bench", "--methods", "ca-sam", "--tasks", "amber,cobalt", "--store", bench_stores, "--runs", "runs",
        "--set", "router=vae,my_router.py:Cosine", "--set", "vae_steps=5", "--set", "direction=median", "--dry-run",
    )  # fmt: skip
    assert casam.code == 0, casam.err
    assert plan["kinds"]["router"]["distinct"] == 4


def composed(**values: Any) -> Any:
    values, _ = load_references(values)
    return validated(routing_model(RoutingOptions), values)


def test_a_reference_becomes_the_name_and_its_hash_the_revision(examples: Path) -> None:
    file = f"{examples}/my_router.py:Cosine"
    settings, references = load_references({"ca-sam.router": ["vae", file], "blocks": [1]})
    assert settings == {"ca-sam.router": ["vae", "cosine"], "blocks": [1]}
    assert references == {"router cosine": file}
    options = composed(router=file, direction="median", beta=3)
    assert options.router == "cosine"
    choice = router_choice(options)
    assert choice.decisive() == {
        "name": "cosine",
        "revision": digest_file(examples / "my_router.py"),
        "options": {"direction": "median"},
        "folds": 5,
    }
    assert type(choice).restore(choice.decisive()) == choice
    with pytest.raises(CasamError, match="router 'cosine' has changed"):
        type(choice).restore({**choice.decisive(), "revision": "another"})
    assert {"direction", "temperature"} < set(chosen_options(options))
    assert not {"beta", "neighbours"} & set(chosen_options(options))


def test_another_process_finds_the_classes(examples: Path) -> None:
    _, references = load_references({"router": f"{examples}/my_router.py:Cosine"})
    decisive = router_choice(composed(router="cosine")).decisive()
    forget()
    with pytest.raises(OptionError, match="unknown router 'cosine'"):
        RouterChoice.restore(decisive)
    for place in references.values():
        load_reference(place)
    assert RouterChoice.restore(decisive).decisive() == decisive


def test_options_of_a_file_are_known_once_it_is_loaded(examples: Path) -> None:
    before = METHODS.get("ca-sam").options_model()
    assert METHODS.get("ca-sam").options_model() is before
    with pytest.raises(OptionError, match="power"):
        validated(before, {"power": 3})
    load_references({"pooling": f"{examples}/my_pooling.py:GeM"})
    after = METHODS.get("ca-sam").options_model()
    found: Any = validated(after, {"power": 2, "pooling": "gem"})
    assert pooling_choice(found).decisive()["options"] == {"power": 2.0}
    with pytest.raises(OptionError, match="power"):
        validated(after, {"power": 0.5})
    assert "power" not in METHODS.get("moda").options_model().model_fields


OWN = """
from pydantic import BaseModel, Field, model_validator
from casam_cache.routers.centroid import Centroid
class O(BaseModel):
    {field}
class Mine(Centroid):
    name = "mine"
    Options = O
"""


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("beta: float = 1", r"Mine \(casam_file_.* and VAE .*both have an option 'beta'"),
        ("temperature: float = 1", "Mine .*both have an option 'temperature'"),
        ("blocks: int = 1", "CASAMOptions and Mine .*'blocks'"),
        ("learning_rate: float = 1", "TrainingOptions and Mine .*'learning_rate'"),
    ],
)
def test_options_of_one_name_are_refused(tmp_path: Path, field: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(OWN.format(field=field))
    load_references({"router": f"{tmp_path}/mine.py:Mine"})
    with pytest.raises(OptionError, match=words):
        METHODS.get("ca-sam").options_model()


def test_rules_between_options_hold_where_the_router_is_chosen(tmp_path: Path) -> None:
    rule = """low: float = 1
    high: float = 2

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self
"""
    (tmp_path / "mine.py").write_text(OWN.format(field=rule))
    file = f"{tmp_path}/mine.py:Mine"
    with pytest.raises(OptionError, match="low must not be above high"):
        composed(router=file, low=3)
    assert composed(router="centroid", low=3).low == 3


def test_two_files_of_one_name_cannot_be_told_apart(tmp_path: Path, examples: Path) -> None:
    shutil.copy(examples / "my_router.py", tmp_path / "copy.py")
    with (tmp_path / "copy.py").open("a") as file:
        file.write("# another\n")
    with pytest.raises(
        OptionError, match=r"my_router.py:Cosine and .*copy.py:Cosine are both named 'cosine'"
    ):
        load_references({"router": [f"{examples}/my_router.py:Cosine", f"{tmp_path}/copy.py:Cosine"]})


@pytest.mark.parametrize(
    ("setting", "words", "hint"),
    [
        ("router=tree", "unknown router 'tree'", "centroid, gmm, knn, mahalanobis, vae"),
        ("pooling=max", "unknown pooling 'max'", "FILE.py:CLASS, attention"),
        ("router=nothing.py:Mine", "there is no file nothing.py", "looked for"),
        ("router=my_pooling.py:GeM", "is no casam_cache.routers.base.Router", "none"),
        ("pooling=my_pooling.py:Gem", "has no class 'Gem'", "GeM"),
    ],
)
def test_a_wrong_name_is_told_by_the_command(
    casam: Casam, bench_stores: Path, setting: str, words: str, hint: str
) -> None:
    write(casam.folder)
    casam("bench", "--methods", "ca-sam", "--store", bench_stores, "--set", setting)
    assert casam.code == 1
    assert words in casam.err
    assert hint in casam.err
