"""What the documents say is run: the README's Python, its commands, the names it mentions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Casam, draw_dataset

import casam_cache

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block(heading: str, language: str) -> str:
    """The first code of a language under a heading."""
    found = re.search(rf"\n## {heading}\n.*?```{language}\n(.*?)```", README, re.DOTALL)
    assert found, heading
    return found[1]


def polyps(folder: Path) -> None:
    root = draw_dataset(folder / "data" / "polyps", images=10)
    for part in ("images", "masks"):
        shutil.copy(root / part / "p003.png", root / part / "0.png")
    with (root / "split.csv").open("a") as file:
        file.write("0,test,patient9\n")


def test_the_python_snippet_runs(casam: Casam, capsys: pytest.CaptureFixture[str]) -> None:
    polyps(casam.folder)
    snippet = block("From Python", "python")
    exec(compile(snippet, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"IoU 0\.\d+ frozen, 0\.\d+ fitted, \d+ parameters", printed)
    assert "(48, 40)" in printed


@pytest.mark.slow
def test_the_commands_run(casam: Casam) -> None:
    """With the default model and its real weights, on images of its tests' size."""
    polyps(casam.folder)
    data = casam.folder / "data"
    for part in ("images", "masks"):
        (data / "polyps" / part / "0.png").rename(data / "polyps" / part / "case-017.png")
    split = data / "polyps" / "split.csv"
    split.write_text(split.read_text().replace("0,test,patient9", "case-017,test,patient9"))
    shutil.copy(data / "polyps" / "images" / "p003.png", casam.folder / "new.png")
    (data / "new").mkdir()
    shutil.copy(casam.folder / "new.png", data / "new" / "a.png")
    (casam.folder / "prompts.csv").write_text("image,x0,y0,x1,y1\na.png,8,8,36,40\n")
    lines = block("Your own images", "sh").splitlines()
    commands = [line.split("#")[0].split()[1:] for line in lines if line.startswith("casam")]
    assert [command[0] for command in commands] == ["data", "encode", "fit", *["predict"] * 3, "fit"]
    run, smaller = "", {"40,60,200,220": "8,8,36,40", "120,80": "12,8", "40,30,0": "30,30,0"}
    for command in commands:
        command = [run if word == "casam_runs/fit/KEY" else word for word in command]
        command = [smaller.get(word, word) for word in command]
        command += ["--overwrite"] if "--id" in command else []  # its mask.png is there from the first
        extra = ["--epochs", "2"] if command[0] == "fit" else []
        extra += ["--set", "min_steps=2", "--set", "max_steps=2"] if "--head" in command else []
        report = casam.json(*command, *extra)
        assert casam.code == 0, casam.err
        run = report.get("run", run)
    assert (casam.folder / "mask.png").is_file()


def test_what_the_documents_name_exists() -> None:
    for document in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
    for name in re.findall(r"^  ([a-z]+)/  ", README, re.MULTILINE):
        assert (ROOT / "casam_cache" / name / "__init__.py").is_file(), name
    targets = re.findall(r"^make ([a-z-]+)", block("Two commands", "sh"), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        tmp_path / "site",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "tutorial.html", "api.html", "CONTRIBUTING.html", "own-method.html"} <= pages
    for page in pages:
        text = (tmp_path / "site" / page).read_text()
        assert not re.search(r'<(?:script|img|iframe)[^>]*src="http', text), f"{page} fetches something"
        assert not re.search(r'<link[^>]*rel="stylesheet"[^>]*href="http', text), f"{page} fetches something"
    api = (tmp_path / "site" / "api.html").read_text()
    for name in set(casam_cache.__all__):
        assert re.search(rf'id="casam_cache\.[\w.]*\b{name}"', api), f"{name} is not in the API reference"
