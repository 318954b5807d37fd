"""`casam view` in a real browser: click, exclude, drag, undo, keep and go on, by mouse and by keyboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam, draw_dataset
from PIL import Image
from test_view import served

from casam_cache.metrics.overlap import iou

NAME = "discs & $x^$ 'n' {{ 7+7 }}"
ITEM = "p004"


@pytest.fixture
def fitted(casam: Casam, tmp_path: Path) -> Path:
    """A fit of the shipped model to a dataset with a hostile name."""
    casam("encode", draw_dataset(tmp_path / "data" / NAME, size=(120, 96)), "--model", "small")
    assert casam.code == 0, casam.err
    return (
        casam.folder / casam.json("fit", "--task", NAME, "--set", "max_steps=4", "--set", "held_out=0")["run"]
    )


def centre(mask: np.ndarray) -> tuple[float, float]:
    y, x = np.nonzero(mask)
    return float(x.mean()), float(y.mean())


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_prompts_by_mouse_and_keyboard(
    casam: Casam, fitted: Path, browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    truth = np.asarray(Image.open(tmp_path / "data" / NAME / "masks" / f"{ITEM}.png")) > 0
    said: list[str] = []
    out = casam.folder / "kept"
    with served(fitted, out) as client:
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        home = f"http://127.0.0.1:{client.port}/{client.token}/"
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda asked: asked.url.startswith(home) or said.append(f"asked {asked.url}"))
        page.goto(home)
        page.wait_for_selector("#picture image")
        assert NAME in page.inner_text("#source")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.select_option("#item", label=ITEM)
        page.wait_for_selector("#title:has-text('96 × 120 pixels')")

        def on_screen(x: float, y: float) -> tuple[float, float]:
            """The middle of a pixel of the image, on the page."""
            found = page.evaluate(
                "([x, y]) => { const p = new DOMPoint(x + .5, y + .5).matrixTransform("
                "document.getElementById('picture').getScreenCTM()); return [p.x, p.y]; }",
                [float(x), float(y)],
            )
            return found[0], found[1]

        def outlines() -> list[str]:
            return [
                str(path)
                for path in page.eval_on_selector_all("path.line", "all => all.map(p => p.outerHTML)")
            ]

        def settled() -> None:
            """The page may evaluate no text, so it cannot be asked to wait for a condition."""
            for _ in range(200):
                if not page.evaluate("busy"):
                    return
                page.wait_for_timeout(20)
            raise AssertionError("no answer")

        def answered(act: Any) -> None:
            """Does something, and waits until the masks of the prompt it leaves are there."""
            with page.expect_response("**/predict") as response:
                act()
            assert response.value.status == 200
            settled()

        page.locator("#picture").scroll_into_view_if_needed()
        inside = on_screen(*centre(truth))
        answered(lambda: page.mouse.click(*inside))
        clicked = outlines()
        assert page.locator("#picture circle.point").count() == 1
        assert "fitted: alignment of" in page.inner_text("#told")
        assert "ms" in page.inner_text("#shown")

        corner = on_screen(3, 3)
        answered(lambda: page.mouse.click(*corner, button="right"))
        assert page.locator("#picture circle.excludes").count() == 1

        y, x = np.nonzero(truth)
        start, end = on_screen(x.min(), y.min()), on_screen(x.max(), y.max())

        def drag() -> None:
            page.mouse.move(*start)
            page.mouse.down()
            page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
            page.mouse.move(*end)
            page.mouse.up()

        page.click("#clear")
        settled()
        assert page.evaluate("prompts.length") == 0
        assert outlines() == []
        answered(drag)
        boxed = outlines()
        assert boxed
        assert boxed != clicked
        drawn = page.locator("#picture rect.prompt")
        assert drawn.count() == 1
        assert float(drawn.get_attribute("x")) == pytest.approx(x.min(), abs=1)
        assert float(drawn.get_attribute("width")) == pytest.approx(np.ptp(x) + 1, abs=2)

        answered(lambda: page.mouse.click(*corner, button="right"))
        answered(lambda: page.keyboard.press("u"))
        assert outlines() == boxed, "undone"

        page.select_option("#whose", "frozen")
        page.fill("#name", "a disc")
        with page.expect_response("**/keep"):
            page.click("#keep")
        page.wait_for_selector("#title:has-text('1 mask kept')")
        kept = json.loads((out / NAME / "masks.json").read_text())
        assert [entry["name"] for entry in kept["categories"]] == ["a disc"]
        [path] = (out / NAME).glob("*.png")
        assert path.name == f"{ITEM}_1.png"
        assert iou(np.asarray(Image.open(path)) > 0, truth) > 0.5, "the mask of the box that was dragged"

        # By keyboard alone: the cross is in the middle; a box from two corners, and on to the next image.
        page.focus("#stage")
        page.keyboard.press("c")
        settled()
        assert page.evaluate("prompts.length") == 0
        answered(lambda: page.keyboard.press("Enter"))
        assert page.locator("#picture circle.point").count() == 1
        page.keyboard.press("b")
        for key in ("Shift+ArrowRight", "Shift+ArrowDown"):
            page.keyboard.press(key)
        answered(lambda: page.keyboard.press("b"))
        assert page.locator("#picture rect.prompt").count() == 1
        page.keyboard.press("n")
        page.wait_for_selector("#title:has-text('p005')")
        assert outlines() == []
        page.wait_for_selector("#picture image")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.close()
    assert said == []
