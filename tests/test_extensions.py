"""Everything that can be added from outside, together: one file each beside a user's data, and the command line.

The files are the examples of the pages; that each of them keeps its contract is tested in its own test file.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench_sets import draw_set, finished, kinds
from conftest import Casam

from casam_cache.fingerprint import digest_file
from casam_cache.references import load_file

DOCS = Path(__file__).parent.parent / "docs"


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def write_examples(folder: Path) -> None:
    (folder / "my_backbone.py").write_text(examples("own-backbone.md")[0])
    (folder / "my_head.py").write_text(examples("own-head.md")[0])
    (folder / "my_metric.py").write_text(examples("own-metric.md")[0])
    (folder / "my_reader.py").write_text(examples("own-reader.md")[0])
    router, pooling, _ = examples("own-router.md")
    (folder / "my_router.py").write_text(router)
    (folder / "my_pooling.py").write_text(pooling)


def forget() -> None:
    """As in a new process: no file of a user's has been run yet."""
    for name in [name for name in sys.modules if name.startswith("casam_file_")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    forget()
    yield
    forget()


def write_volumes(folder: Path, look: int) -> None:
    """Six patients of two slices; sets differ in brightness and in size."""
    folder.mkdir(parents=True)
    for number in range(6):
        rng = np.random.default_rng([look, number])
        y, x = np.mgrid[: 40 + 8 * look, :48]
        label = np.zeros((2, *y.shape), np.uint8)
        for z, (cy, cx) in enumerate(rng.integers(12, 28, (2, 2))):
            label[z] = (y - cy) ** 2 + (x - cx) ** 2 < 64
        image = rng.integers(-200, 0, label.shape) + (700, -700)[look] * label.astype(int)
        np.savez_compressed(folder / f"patient{number}.npz", image=image.astype(np.int16), label=label)


ASKED = (
    "--methods", "ca-sam", "--set", "router=my_router.py:Cosine", "--set", "pooling=my_pooling.py:GeM",
    "--set", "power=3", "--metric", "my_metric.py:Hausdorff95",
)  # fmt: skip


def test_a_reader_a_router_a_pooling_and_a_metric_in_one_bench(
    casam: Casam, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    write_examples(casam.folder)
    for look, name in enumerate(("thorax", "pelvis")):
        write_volumes(tmp_path / "data" / name, look)
    encoded = casam.json(
        "encode", tmp_path / "data", "--reader", "my_reader.py:Volumes",
        "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny",
    )  # fmt: skip
    assert casam.code == 0, casam.err
    assert {task["task"]: task["encoded"] for task in encoded["tasks"]} == {"pelvis": 12, "thorax": 12}

    command = ("bench", *ASKED, "--epochs", 1, "--set", "blocks=1", "--device", "cpu", "--jobs", 1)
    report = casam.json(*command)
    assert casam.code == 0, casam.err
    [row] = report["results"]
    assert (row["router"], row["options"]["pooling"], row["options"]["power"]) == ("cosine", "gem", 3)
    for column in ("last_hd95", "avg_hd95", "ff_hd95"):
        assert np.isfinite(row[column]), column
    assert 0 < row["last_hd95"] < np.hypot(48, 56)
    assert {"last_iou", "last_biou", "last_dice"} < set(row)

    forget()  # the names of the files are enough for another process
    again = casam.json(*command)
    assert again["stages"]["computed"] == 0
    assert again["results"][0]["last_hd95"] == row["last_hd95"]
    printed = casam(*command)
    head, line = (next(text for text in printed.splitlines() if word in text) for word in ("HD95", "ca-sam"))
    assert "HD95 (px)" in head
    assert f"{row['last_hd95']:.2f}" in line

    before = finished(casam.folder / "casam_runs")
    metric = casam.folder / "my_metric.py"
    metric.write_text(
        metric.read_text().replace("there, 95)", "there, 50)").replace("back, 95)", "back, 50)")
    )
    [edited] = casam.json(*command)["results"]
    assert casam.code == 0, casam.err
    assert edited["last_hd95"] < row["last_hd95"]
    assert edited["last_iou"] == row["last_iou"]
    made = kinds(finished(casam.folder / "casam_runs").keys() - before.keys())
    assert "evaluate" in made
    assert not {"fit", "router", "query"} & set(made), "only scores are made again"


def test_an_edit_of_the_same_length_in_the_same_second_is_run(tmp_path: Path) -> None:
    """Caches of bytecode are dated by the second and the length of their source; they would give the old class."""
    file = tmp_path / "mine.py"
    for value in (1, 2):
        file.write_text(f"class Mine:\n    value = {value}\n")
        os.utime(file, (1_000_000_000, 1_000_000_000))
        assert load_file(file).Mine.value == value


CARRIED = """

from casam_cache.methods.routed import Routed
from casam_cache.routers.choice import RoutingOptions


class CarriedOptions(ScaleShiftOptions, RoutingOptions):
    fallback: bool = False


class Carried(Routed):
    name = "carried"
    Options = CarriedOptions
    expert = "scale-shift"
"""
BROUGHT = ("my_backbone.py", "my_head.py", "my_router.py", "my_pooling.py")


def test_trust_reaches_everything_that_a_run_brings(
    casam: Casam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backbone, head, router and pooling of a stranger's file: one that was never run here is enough to refuse."""
    write_examples(casam.folder)
    with (casam.folder / "my_head.py").open("a") as file:
        file.write(CARRIED)
    for name in ("amber", "cobalt"):
        draw_set(tmp_path / "data", name)
    casam("encode", tmp_path / "data", "--model", "my_backbone.py:Convolutions", "--name", "own")
    assert casam.code == 0, casam.err
    report = casam.json(
        "bench", "--methods", "my_head.py:Carried", "--set", "router=my_router.py:Cosine", "--set",
        "pooling=my_pooling.py:GeM", "--epochs", 1, "--device", "cpu", "--jobs", 1,
    )  # fmt: skip
    assert casam.code == 0, casam.err
    hashes = {name: digest_file(casam.folder / name) for name in BROUGHT}
    for name in BROUGHT:
        (casam.folder / name).unlink()
    image = tmp_path / "data" / "cobalt" / "images" / "i000.png"
    command = ("predict", image, "--box", "5,5,30,30", "--run", report["results"][0]["run"], "--overwrite")
    for unknown in (*BROUGHT, None):
        monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / f"user of all but {unknown}"))
        known = tmp_path / f"user of all but {unknown}" / "files_run.txt"
        known.parent.mkdir()
        known.write_text("".join(f"{sha256}\n" for name, sha256 in hashes.items() if name != unknown))
        forget()
        casam(*command)
        if unknown is None:
            assert casam.code == 0, casam.err
            continue
        assert casam.code == 1, f"{unknown} was run"
        assert f"source-{hashes[unknown][:16]}.py" in casam.err
        assert "if you trust it: casam trust " in casam.err
        forget()
        found = casam.json(*command, "--trust")
        assert casam.code == 0, casam.err
        assert found["head"] == "scale-shift-head"
        forget()
        casam(*command)
        assert casam.code == 1, "trust once is not trust for ever"
