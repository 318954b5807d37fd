"""The example of docs/own-method.md, as a user would run it; and what goes wrong in files of users."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Casam

from casam_cache.backbones.sam import seeded_backbone
from casam_cache.config import validated
from casam_cache.errors import CasamError, OptionError
from casam_cache.fingerprint import digest_file
from casam_cache.heads.files import load_head, save_head
from casam_cache.methods.base import Method
from casam_cache.methods.registry import METHODS
from casam_cache.methods.sequential import Sequential
from casam_cache.methods.testing import TINY, MethodContract
from casam_cache.references import trust_file
from casam_cache.registry import revision_of

DOCUMENT = Path(__file__).parent.parent / "docs" / "own-method.md"
EXAMPLE, CONTRACT = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
Encode = Callable[..., Any]


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "my_method.py"
    path.write_text(EXAMPLE)
    return path


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """As in a new process: no file of a user's has been run yet."""
    yield
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("casam_file_")]:
        del sys.modules[name]


@pytest.fixture
def made(example: Path, request: pytest.FixtureRequest) -> None:
    request.cls.method = f"{example}:{request.cls.name}"


@pytest.mark.usefixtures("made")
class TestBottleneck(MethodContract):
    name = "Bottleneck"


@pytest.mark.usefixtures("made")
class TestAnchoredBottleneck(MethodContract):
    name = "AnchoredBottleneck"
    options = {"anchor_weight": 0.5}  # noqa: RUF012


def test_the_documented_tests_are_these() -> None:
    for name in ("TestBottleneck", "TestAnchoredBottleneck", 'options = {"anchor_weight": 0.5}'):
        assert name in CONTRACT


def test_the_example_is_fitted_and_predicted_with(
    casam: Casam, encode: Encode, discs: Path, example: Path
) -> None:
    encode(discs)
    shutil.copy(example, casam.folder / "my_method.py")
    command = ("fit", "--task", "discs", "--epochs", 1, "--method", "my_method.py:Bottleneck")
    report = casam.json(*command, "--set", "reduction=2")
    assert casam.code == 0, casam.err
    assert report["computed"]
    run = casam.folder / report["run"]
    assert json.loads((run / "head.json").read_text())["head"]["name"] == "bottleneck-adapter"
    assert not casam.json(*command, "--set", "reduction=2")["computed"]
    (casam.folder / "my_method.py").write_text(EXAMPLE + "\n# another text\n")
    again = casam.json(*command, "--set", "reduction=2")
    assert again["computed"]
    assert again["run"] != report["run"]
    from casam_cache.bench.predict import Predictor

    found = (
        Predictor(run, device="cpu").set_image(discs / "images" / "p004.png").predict(boxes=(5, 5, 20, 20))
    )
    assert found.head == "bottleneck-adapter"
    casam(*command, "--set", "reductoin=2")
    assert casam.code == 1
    assert "reduction=4" in casam.err


def test_a_class_from_a_file_has_its_hash_as_revision(example: Path, tmp_path: Path) -> None:
    found = METHODS.get(f"{example}:Bottleneck")
    assert issubclass(found, Method)
    assert revision_of(found) == digest_file(example)
    assert METHODS.get(f"{example}:Bottleneck") is found
    other = tmp_path / "renamed.py"
    shutil.copy(example, other)
    assert METHODS.get(f"{other}:Bottleneck") is found, "the same text is the same code"
    other.write_text(EXAMPLE.replace("default=4", "default=8"))
    changed = METHODS.get(f"{other}:Bottleneck")
    assert changed is not found
    assert revision_of(changed) == digest_file(other)
    assert validated(changed.Options, {}).reduction == 8  # type: ignore[attr-defined]
    assert Method.revision == Sequential.revision == 1


def test_a_head_comes_back_with_the_text_it_was_fitted_with(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / "cache"))
    path, saved = tmp_path / "mine.py", tmp_path / "saved"
    shutil.copy(example, path)
    saved.mkdir()
    backbone = seeded_backbone(TINY, 0)
    made = METHODS.get(f"{path}:Bottleneck")
    head = made(validated(made.Options, {"reduction": 2})).build(backbone, 3)
    path.write_text("changed = 1\n")
    save_head(head, saved)
    forget()
    loaded = load_head(saved, backbone)
    assert type(loaded).__name__ == "Adapter"
    forget()
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / "another user"))
    with pytest.raises(CasamError, match="brings Python code of its own") as caught:
        load_head(saved, backbone)
    assert type(load_head(saved, backbone, trust=True)).__name__ == "Adapter"
    forget()
    [copy] = saved.glob("source-*.py")
    assert caught.value.hint.endswith(f"casam trust {copy}")
    trust_file(copy)
    assert type(load_head(saved, backbone)).__name__ == "Adapter"
    assert loaded.options.reduction == 2  # type: ignore[attr-defined]
    assert all(
        torch.equal(a, b)
        for a, b in zip(head.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    forget()
    next(saved.glob("source-*.py")).unlink()
    with pytest.raises(CasamError, match="missing or changed"):
        load_head(saved, backbone)


@pytest.mark.parametrize(
    ("text", "reference", "words"),
    [
        (None, "nothing.py:Mine", "there is no file nothing.py"),
        ("x = 1\n", "mine.py:Mine", "has no class 'Mine'"),
        ("class Mine: pass\n", "mine.py:Mine", "is no casam_cache.methods.base.Method"),
        ("import nothing_like_it\n", "mine.py:Mine", "mine.py, line 1: ModuleNotFoundError"),
        ("x = 1\n\ndef broken(:\n", "mine.py:Mine", "mine.py, line 3: SyntaxError"),
        ("def fails():\n    return 1 / 0\n\nfails()\n", "mine.py:Mine", "mine.py, line 2: ZeroDivisionError"),
        ("x = 1\n", "mine.py", "name a class of it too"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, reference: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(CasamError) as caught:
        METHODS.get(reference)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    Options = O\n    def build(self, backbone, seed): ...\n", "has no name"),
        (
            "    name = 'naive'\n    Options = O\n    def build(self, backbone, seed): ...\n",
            "has the name of an installed method",
        ),
        ("    name = 'mine'\n    def build(self, backbone, seed): ...\n", "has no Options"),
        ("    name = 'mine'\n    Options = O\n", "does not define build"),
    ],
)
def test_an_unfinished_method_is_said(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(
        "from casam_cache.methods.base import Method\nfrom casam_cache.heads.options import IdentityOptions as O\n"
        f"class Mine(Method):\n{body}"
    )
    with pytest.raises(CasamError, match=words):
        METHODS.get(f"{tmp_path}/mine.py:Mine")


def test_files_may_import_their_neighbours(tmp_path: Path, example: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("REDUCTION = 3\n")
    text = EXAMPLE.replace("import torch\n", "import torch\nfrom neighbour_of_mine import REDUCTION\n", 1)
    (tmp_path / "mine.py").write_text(text.replace("default=4", "default=REDUCTION"))
    before = list(sys.path)
    assert validated(METHODS.get(f"{tmp_path}/mine.py:Bottleneck").Options, {}).reduction == 3  # type: ignore[attr-defined]
    assert sys.path == before


def test_an_unknown_name_lists_methods_and_the_form_of_a_file() -> None:
    with pytest.raises(OptionError, match=r"FILE\.py:CLASS.*alignment"):
        METHODS.get("no-such-method")
