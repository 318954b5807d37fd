"""The page of every test mask: each scored mask is there with its outlines and scores; and in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam, draw_dataset
from html_pages import check_safe
from PIL import Image, ImageDraw

from casam_cache.report.fit_sheet import chosen_rows
from casam_cache.report.html.fits import scored_fits
from casam_cache.report.html.gallery import crop_of
from casam_cache.report.html.masks import ScoredMasks, overlap
from casam_cache.report.html.outlines import outline

NAME = "discs & $x^$ 'n' {{ 7+7 }}"


def shape(path: str, size: tuple[int, int], times: int = 8) -> np.ndarray:
    """What an SVG path fills by the even-odd rule, bool (H, W)."""
    filled = np.zeros((size[0], size[1]), bool)
    for part in path.split("M")[1:]:
        first, *steps = part.rstrip("z").split("l")
        points = np.cumsum([[float(value) for value in step.split()] for step in (first, *steps)], axis=0)
        picture = Image.new("1", (size[1] * times, size[0] * times))
        ImageDraw.Draw(picture).polygon([tuple(point) for point in (points * times - 0.5).tolist()], fill=1)
        filled ^= np.asarray(picture)[times // 2 :: times, times // 2 :: times]
    return filled


def test_an_outline_fills_what_it_outlines() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :60]
    ring = (np.hypot(y - 20, x - 30) < 15) & (np.hypot(y - 20, x - 30) > 6)
    two = ring | ((y > 34) & (x < 9))
    blocks = np.kron(rng.random((5, 6)) < 0.5, np.ones((8, 10))).astype(bool)
    for mask in (ring, two, blocks, np.ones((40, 60), bool), y == 3):
        found = shape(outline(mask, 1.0), mask.shape)
        assert (found != mask).mean() < 0.02
    assert outline(np.zeros((4, 4), bool), 1.0) == ""
    assert shape(outline(ring, 0.5), (20, 30))[10, 8]
    assert len(outline(np.hypot(*np.mgrid[-600:600, -600:600]) < 500, 0.5)) < 2500


def masks_data(report: Path) -> dict[str, Any]:
    """What the scripts of the page hand over, by kind and key."""
    found: dict[str, Any] = {"rows": {}, "outlines": {}}
    for path in sorted((report / "masks").glob("*.js")):
        text = path.read_text()
        assert text.startswith("casamData(...")
        assert text.endswith(");\n")
        assert "<" not in text
        kind, key, value = json.loads(text.removeprefix("casamData(...").removesuffix(");\n"))
        if kind == "fits":
            found["fits"] = value
        else:
            found[kind].setdefault(str(key), []).extend(value)
    return found


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture
def fitted(casam: Casam, encode: Callable[..., Any], tmp_path: Path) -> Path:
    """A fit of a dataset with a hostile name; returns its dataset."""
    data = draw_dataset(tmp_path / "data" / NAME)
    encode(data)
    casam("fit", "--task", NAME, "--epochs", 1, "--set", "held_out=0")
    assert casam.code == 0, casam.err
    return data


def test_every_mask_is_there_as_it_was_scored(casam: Casam, fitted: Path) -> None:
    counts = casam.json("report", "casam_runs", "--html", "report")
    assert casam.code == 0, casam.err
    check_safe(casam.folder / "report" / "masks.html")
    [fit] = scored_fits(casam.folder / "casam_runs")
    found = masks_data(casam.folder / "report")
    [described] = found["fits"]
    assert (described["task"], described["count"]) == (NAME, len(fit.fitted))
    assert counts["masks"] == len(fit.fitted) == len(found["outlines"]["0-0"])
    rows = {row[0]: row for row in found["rows"]["0"]}
    assert set(rows) == set(fit.fitted.item)
    for place, (item, row) in enumerate(rows.items()):
        name, file, group, class_id, _, area, width, height, scale, image, thumb, crop, prompt, scores, _ = (
            row
        )
        truth = np.asarray(Image.open(fitted / "masks" / f"{item}.png")) > 0
        assert (name, file, width, height, class_id) == (item, f"images/{item}.png", 40, 48, 1)
        assert group in fit.fitted.group
        assert area == truth.sum()
        assert scale == 1
        at = fit.fitted.item.index(item)
        assert scores[0] == [round(side.scores["iou"][at], 4) for side in (fit.frozen, fit.fitted)]
        y, x = np.nonzero(truth)
        assert prompt == [x.min(), y.min(), x.max(), y.max()]
        assert (shape(found["outlines"]["0-0"][place][0], truth.shape) != truth).mean() < 0.02
        pictures = casam.folder / "report" / "masks"
        assert size_of(pictures / "images" / "0" / f"{image}.jpg") == (40, 48)
        assert size_of(pictures / "thumbs" / "0" / f"{thumb}.jpg") == (168, 168)
        assert crop[2] >= 12


def test_masks_are_predicted_again_as_they_were_scored(casam: Casam, fitted: Path) -> None:
    [fit] = scored_fits(casam.folder / "casam_runs")
    masks = ScoredMasks(fit.scored, "cpu")
    every = list(masks.cases(at_once=1))
    assert [case.row for case in every] == list(range(len(fit.fitted)))
    for case in every:
        for side, mask in ((fit.frozen, case.frozen), (fit.fitted, case.fitted)):
            assert overlap(mask, case.truth) == pytest.approx(side.scores["iou"][case.row], abs=1e-6)
        x, y, side = crop_of(case, 1.0)
        assert x >= -4
        assert x + side <= 48
        assert y + side <= 48
    [one] = masks.cases([len(fit.fitted) - 1])
    assert (one.frozen.bitmap == every[-1].frozen.bitmap).all()


def test_the_same_fit_gives_the_same_bytes(casam: Casam, fitted: Path) -> None:
    for name in ("one", "two"):
        casam("report", "casam_runs", "--html", name)
        assert casam.code == 0, casam.err
    one, two = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (casam.folder / "one", casam.folder / "two")
    )
    assert one == two
    assert any(name.endswith(".jpg") for name in one)


def test_images_that_are_gone_moved_or_changed(casam: Casam, fitted: Path) -> None:
    moved = casam.folder / "elsewhere" / NAME
    shutil.move(fitted, moved)
    casam("report", "casam_runs", "--html", "gone")
    assert "outlines are shown alone" in casam.err
    assert "--data" in casam.err
    found = masks_data(casam.folder / "gone")
    assert all(row[9] == row[10] == -1 for row in found["rows"]["0"])
    assert all(all(outlines[:1]) for outlines in found["outlines"]["0-0"])
    assert "outlines are shown alone" in check_safe(casam.folder / "gone" / "index.html").text
    first = found["rows"]["0"][0][1]
    Image.new("RGB", (40, 48)).save(moved / first)
    for number, data in enumerate((moved.parent, moved)):
        casam("report", "casam_runs", "--html", f"moved{number}", "--data", data)
        rows = masks_data(casam.folder / f"moved{number}")["rows"]["0"]
        assert [row[9] == -1 for row in rows] == [True] + [False] * (len(rows) - 1)
        assert "not the image that was encoded" in casam.err
    shutil.rmtree(casam.folder / "casam_store")
    casam("report", "casam_runs", "--html", "no-store")
    assert casam.code == 0
    assert "masks are not shown" in casam.err
    assert not (casam.folder / "no-store" / "masks.html").exists()


def test_without_masks_nothing_is_predicted(casam: Casam, fitted: Path) -> None:
    assert casam.json("report", "casam_runs", "--html", "report", "--no-masks")["masks"] == 0
    assert not (casam.folder / "report" / "masks").exists()
    casam("report", "casam_runs", "--no-masks")
    assert casam.code != 0
    assert "--html" in casam.err


@pytest.mark.slow
def test_the_report_in_a_browser(casam: Casam, fitted: Path, browser: Any) -> None:
    casam("fit", "--task", NAME, "--epochs", 1, "--seed", 1, "--set", "held_out=0")
    casam("report", "casam_runs", "--html", "report")
    assert casam.code == 0, casam.err
    said: list[str] = []
    for width, scheme in ((1280, "light"), (360, "dark")):
        page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda asked: asked.url.startswith("file://") or said.append(f"asked {asked.url}"))
        page.on("requestfailed", lambda asked: said.append(f"failed {asked.url}"))
        page.goto((casam.folder / "report" / "index.html").as_uri())
        assert NAME in page.inner_text("#fits")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        masks = "#fits thead th:has-text('fitted')"
        page.click(f"{masks} button")
        assert page.get_attribute(masks, "aria-sort") == "descending"
        shown = page.eval_on_selector_all(
            "#fits tbody tr", "rows => rows.map(row => Number(row.cells[8].dataset.value))"
        )
        assert shown == sorted(shown, reverse=True)
        page.focus(f"{masks} button")
        page.keyboard.press("Enter")
        assert page.get_attribute(masks, "aria-sort") == "ascending"

        page.click("nav a:has-text('Every test mask')")
        page.wait_for_selector(".tile")
        total = int(page.inner_text("#shown").split()[0])
        assert total == page.locator(".tile").count() > 2
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.wait_for_selector(".tile path.truth", state="attached")
        for _ in range(50):
            if page.eval_on_selector(".tile img", "image => image.naturalWidth") == 168:
                break
            page.wait_for_timeout(100)
        else:
            raise AssertionError("a thumbnail was not loaded")
        page.select_option("#method", index=1)
        assert int(page.inner_text("#shown").split()[0]) == total // 2
        page.fill("#search", "no such name")
        assert page.locator(".tile").count() == 0
        page.click("button[type=reset]")
        page.wait_for_selector(f".tile >> nth={total - 1}")
        page.select_option("#order", "large")
        page.locator(".tile").first.press("Enter")
        page.wait_for_selector("dialog[open] path.fitted")
        first = page.inner_text("#large-title")
        assert f"images/{first}.png" in page.inner_text("#told")
        assert "oracle box" in page.inner_text("#told")
        assert page.locator("#picture .prompt").count() == 1
        page.keyboard.press("t")
        assert page.locator("#picture path.truth.line").is_hidden()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("z")
        assert page.get_attribute("#zoom", "aria-pressed") == "true"
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        assert page.evaluate("document.activeElement.className") == "tile"
        page.close()
    assert said == []


def test_which_masks_a_picture_shows() -> None:
    scores = [0.9, 0.1, float("nan"), 0.5, 0.3, 0.6, 0.2, 0.8, 0.4]
    assert chosen_rows(scores) == [
        ("worst", 1), ("worst", 6), ("median", 8), ("median", 3), ("best", 7), ("best", 0)
    ]  # fmt: skip
    assert chosen_rows([0.5, float("nan"), 0.4, 0.6]) == [("worst", 2), ("median", 0), ("best", 3)]
    assert chosen_rows([0.5, 0.5]) == [("worst", 0), ("best", 1)]
    assert chosen_rows([float("nan")]) == []


def test_a_fit_ends_with_a_picture(casam: Casam, fitted: Path) -> None:
    asked = ("fit", "--task", NAME, "--epochs", 1, "--set", "held_out=0")
    told = casam.json(*asked)
    picture = casam.folder / told["pictures"]
    assert "worst, median and best masks" in casam.err
    assert "alone" not in casam.err
    drawn = picture.read_bytes()
    assert Path(told["outcomes"]).name in picture.name
    assert size_of(picture)[0] > 4 * 240
    picture.unlink()
    shutil.move(fitted, casam.folder / "elsewhere")
    casam(*asked)
    assert casam.code == 0
    assert "outlines alone" in casam.err
    assert picture.read_bytes() != drawn
    listed = casam.json("runs", "verify", "casam_runs")
    assert casam.code == 0, listed
