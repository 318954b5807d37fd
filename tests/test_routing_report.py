"""What reports show of routers: scores a task beside its threshold, and the images that went to the frozen SAM."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from bench_sets import TASKS, UNSEEN, Reference, row_of
from html_pages import check_safe
from PIL import Image

from casam_cache.bench.results import FOLDER
from casam_cache.engine.runs import Runs
from casam_cache.fingerprint import digest
from casam_cache.report.html.writing import write_report
from casam_cache.report.routing import (
    BINS,
    FILE,
    OTHER,
    OWN,
    Routing,
    read_routing,
    routing_picture,
    routing_values,
    write_routing,
)
from casam_cache.report.routing import (
    UNSEEN as UNSEEN_SETS,
)


@pytest.fixture
def kept(reference: Reference, tmp_path: Path) -> tuple[Path, list[Routing]]:
    """The folder of the bench's results in a copy of its runs, and what was written there."""
    runs = Runs(reference.copy(tmp_path / "runs"))
    found = write_routing(reference.results, reference.results.entries[0].tasks.place, runs)
    return runs.root / FOLDER / reference.results.key, found


def test_histograms_and_rejected_images_agree_with_the_results(
    reference: Reference, kept: tuple[Path, list[Routing]]
) -> None:
    folder, found = kept
    assert read_routing(folder) == (reference.stores.resolve(), "tiny", found)
    [routing] = [one for one in found if one.label == "ca-sam"]
    row = row_of(reference.results, "ca-sam", routing.order)
    assert [each.task for each in routing.histograms] == sorted(TASKS)
    sent = {name: sum(counts.values()) for name, counts in row["confusion"].items()}
    for each in routing.histograms:
        assert each.threshold == row["thresholds"][each.task]
        assert each.images == {
            OWN: sent[each.task], OTHER: sum(sent[name] for name in TASKS if name != each.task),
            UNSEEN_SETS: sent[UNSEEN],
        }  # fmt: skip
        for shares in each.shares.values():
            assert len(shares) == BINS
            assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert len(each.edges) == BINS + 1
        assert each.threshold is None or each.low <= each.threshold <= each.high
    assert routing.count == sum(counts.get("frozen", 0) for counts in row["confusion"].values())
    assert routing.count == len(routing.rejected) > 0
    for one in routing.rejected:
        assert one.score > one.threshold
    own = sorted(one.image for one in routing.rejected if one.set == "amber")
    assert len(own) == row["confusion"]["amber"].get("frozen", 0)
    values = list(csv.DictReader(io.StringIO(routing_values(routing))))
    assert len(values) == len(TASKS) * 3 * BINS
    assert sum(float(one["percent"]) for one in values) == pytest.approx(900, abs=0.1)
    assert routing_picture(routing, "svg") == routing_picture(routing, "svg")


def test_the_report_shows_them_small_and_large(
    reference: Reference, kept: tuple[Path, list[Routing]], tmp_path: Path
) -> None:
    folder, found = kept
    page = check_safe(write_report(folder, tmp_path / "report").index)
    count = next(one.count for one in found if one.label == "ca-sam")
    assert f"{count} image{'s' if count > 1 else ''} rejected" in page.text
    large = [file for file in page.files() if "/rejected/" in file and not file.endswith("_small.jpg")]
    assert large
    for file in large:
        with (
            Image.open(tmp_path / "report" / file) as image,
            Image.open(tmp_path / "report" / file.replace(".jpg", "_small.jpg")) as small,
        ):
            assert image.size == small.size, "images this small are as they are"
    assert [file for file in page.files() if file.endswith("_routing1.svg")]
    without = write_report(folder, tmp_path / "without", masks=False)
    assert not [file for file in check_safe(without.index).files() if "/rejected/" in file]

    data = json.loads((folder / FILE).read_text())
    data.pop("digest")
    data["stores"] = str(tmp_path / "nowhere")
    (folder / FILE).write_text(json.dumps({**data, "digest": digest(data)}))
    gone = check_safe(write_report(folder, tmp_path / "gone").index)
    assert re.search(r"rejected images of \w+ are not shown: .*nowhere", gone.text)
    assert f"{count} image{'s' if count > 1 else ''} rejected" in gone.text
    (folder / FILE).write_text(json.dumps(data))
    changed = check_safe(write_report(folder, tmp_path / "changed").index)
    assert "scores of its routers" not in changed.text
    assert "routing.json is damaged and left out" in changed.text
