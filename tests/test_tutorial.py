"""The tutorial runs from its first cell to its last, as committed: without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Casam

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


@pytest.mark.slow
def test_every_cell_runs(
    casam: Casam, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    namespace: dict[str, Any] = {}
    shown = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"tutorial.ipynb, cell {number}", "exec"), namespace)
            shown += [axes.get_title() for figure in plt.get_fignums() for axes in plt.figure(figure).axes]
            plt.close("all")
    assert [title.split(" ")[0].rstrip(":0123456789") for title in shown] == [
        "polyp-endoscopy-", "image", "embedding"
    ]  # fmt: skip
    printed = capsys.readouterr().out
    places = [printed.index(f"\n{label} ") for label in ("frozen", "naive", "ca-sam", "channelwise")]
    assert places == sorted(places)
    assert "3 tasks; a single seed and order" in printed[places[-1] :]
