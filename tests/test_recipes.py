"""Every recipe runs, on a tiny dataset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import draw_dataset

RECIPES = Path(__file__).parent.parent / "recipes"


def test_frozen_vs_fitted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    draw_dataset(tmp_path / "data" / "discs", images=8)
    command = [RECIPES / "frozen_vs_fitted.sh", tmp_path / "data", tmp_path / "out"]
    options = ["--name", "tiny", "--checkpoint", tiny_checkpoint, "--resize", "stretch"]
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "FIT": "--set epochs=1 --seed 3",
    }
    done = subprocess.run(
        [*map(str, command), *map(str, options)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "out" / "table.json").read_text())["results"]
    assert (result["task"], result["model"], result["seed"]) == ("discs", "tiny", 3)
    assert "| discs" in (tmp_path / "out" / "table.md").read_text()


def test_every_recipe_is_tested() -> None:
    assert sorted(path.name for path in RECIPES.iterdir()) == ["frozen_vs_fitted.sh"]
