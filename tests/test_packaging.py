"""Wheel and source distribution are what an index takes, and the wheel alone does the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command: object, folder: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env={**clean, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two distributions; the wheel is made from the source distribution, so that this is complete."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, folder=out)
    return out


def environment_with(wheel: Path, folder: Path) -> Path:
    """A fresh environment with the wheel, which sees the packages of this one but not its casam-cache."""
    venv.create(folder, with_pip=False)
    run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps",
        "--no-index", wheel, folder=folder)  # fmt: skip
    (packages,) = folder.glob("lib/python3*/site-packages")
    # Of a folder named here no .pth file is read: not that of the editable install of the checkout either.
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")
    return folder / "bin"


def test_an_index_would_take_both(dist: Path) -> None:
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert "FAILED" not in run(sys.executable, "-m", "twine", "check", "--strict", wheel, source, folder=dist)
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    asked = (
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "docs/cli.md",
        "recipes/table1.yaml",
        "tests/conftest.py",
    )
    assert names.issuperset(asked)


def test_the_wheel_alone_does_the_main_job(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    programs = environment_with(wheel, tmp_path / "environment")
    where = "import casam_cache, casam_cli; print(casam_cache.__file__); print(casam_cli.__file__)"
    for line in run(programs / "python", "-c", where, folder=tmp_path).splitlines():
        assert line.startswith(str(tmp_path / "environment"))
    casam = programs / "casam"
    assert run(casam, "--version", folder=tmp_path).startswith("casam-cache ")
    out = run(casam, "demo", "--images", 6, "--epochs", 1, "--json", folder=tmp_path, OMP_NUM_THREADS="1")
    report = json.loads(out)
    assert len(report["fits"]) == len(report["pictures"]) == 9
    assert all((tmp_path / picture).is_file() for picture in [report["table"], *report["pictures"]])
