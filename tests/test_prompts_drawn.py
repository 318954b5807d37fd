"""A prompt's text, what is drawn from a mask by it, and where a click falls."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from casam_cache.datasets import interior_point
from casam_cache.errors import OptionError
from casam_cache.training.clicks import Click, next_click
from casam_cache.training.evaluation_prompts import parse_prompt, parse_prompts

OWNER = ("toy", "image 0", 1, 1)


# The text


@pytest.mark.parametrize(
    ("given", "text", "name"),
    [
        ("box", "box", "oracle box"),
        (" oracle box ", "box", "oracle box"),
        ("jitter:5px", "jitter:5px", "jitter:5px"),
        ("jitter:2.50px@3", "jitter:2.5px@3", "jitter:2.5px@3"),
        ("jitter:.10", "jitter:0.1", "jitter:0.1"),
        ("jitter:0.1@0", "jitter:0.1", "jitter:0.1"),
        ("point", "point", "point"),
        ("point:random", "point:random", "point:random"),
        ("point:random@12", "point:random@12", "point:random@12"),
        ("clicks:05", "clicks:5", "clicks:5"),
    ],
)
def test_one_text_a_prompt(given: str, text: str, name: str) -> None:
    prompt = parse_prompt(given)
    assert (prompt.text, prompt.name) == (text, name)
    assert parse_prompt(prompt.text) == parse_prompt(prompt.name) == prompt


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "unknown prompt ''"),
        ("boxes", "unknown prompt 'boxes'"),
        ("jitter", "unknown prompt 'jitter'"),
        ("jitter:", "a number above 0"),
        ("jitter:0", "a number above 0"),
        ("jitter:-1px", "a number above 0"),
        ("jitter:nan", "a number above 0"),
        ("jitter:1e3px", "a number above 0"),
        ("jitter:5", "jitter:5px is 5 pixels"),
        ("point:centre", "unknown prompt 'point:centre'"),
        ("point@1", "a seed is"),
        ("point:random@", "a seed is"),
        ("point:random@-1", "a seed is"),
        ("clicks:5@1", "a seed is"),
        ("box@1", "a seed is"),
        ("clicks", "unknown prompt 'clicks'"),
        ("clicks:0", "from 1 to 100"),
        ("clicks:101", "from 1 to 100"),
        ("clicks:2.5", "from 1 to 100"),
    ],
)
def test_a_wrong_text_is_one_line_that_says_what_is_right(given: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_prompt(given)
    assert words in str(caught.value)
    assert caught.value.hint


def test_several_prompts_each_once() -> None:
    assert [prompt.text for prompt in parse_prompts("point, box,jitter:5px")] == [
        "point",
        "box",
        "jitter:5px",
    ]
    with pytest.raises(OptionError, match="twice"):
        parse_prompts("box,jitter:0.1,jitter:0.10")


# What is drawn


def boxes(count: int = 200) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """Boxes with the sizes (H, W) of their images; many of one pixel, at a border, or as large as the image."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        x, y = np.sort(rng.integers(0, width, 2)), np.sort(rng.integers(0, height, 2))
        if rng.random() < 0.3:
            x[1], y[1] = x[0], y[0]
        found.append((np.array([x[0], y[0], x[1], y[1]], np.float32), (height, width)))
    return found


@pytest.mark.parametrize("text", ["jitter:5px", "jitter:0.1", "jitter:1", "jitter:1000px", "jitter:0.3@7"])
def test_jitter_stays_in_reach_and_inside_the_image_and_is_never_reversed(text: str) -> None:
    prompt = parse_prompt(text)
    moved = 0
    for number, (box, (height, width)) in enumerate(boxes()):
        x0, y0, x1, y1 = drawn = prompt.box(box, (height, width), ("toy", f"i{number}", 1, 1))
        assert drawn.dtype == np.float32
        assert 0 <= x0 <= x1 <= width - 1
        assert 0 <= y0 <= y1 <= height - 1
        reach = prompt.amount * (1 if prompt.pixels else np.tile(box[2:] - box[:2] + 1, 2))
        # Sides that passed each other changed places: the sorted ones are no farther from the sorted true ones.
        assert (np.abs(drawn - box) <= reach + 1e-4).all()
        moved += not np.array_equal(drawn, box)
    assert moved > 120, "most boxes move; those as large as a small image may not"


def test_a_draw_belongs_to_seed_task_item_class_and_instance_and_to_nothing_else() -> None:
    box, size = np.array([10, 12, 20, 30], np.float32), (64, 64)
    jitter, again = parse_prompt("jitter:0.1"), parse_prompt("jitter:0.1@1")
    first = jitter.box(box, size, OWNER)
    for _ in range(2):
        jitter.box(box, size, ("toy", "another", 1, 1))
    assert np.array_equal(jitter.box(box, size, OWNER), first)
    others = [
        ("other", "image 0", 1, 1),
        ("toy", "image 1", 1, 1),
        ("toy", "image 0", 2, 1),
        ("toy", "image 0", 1, 2),
    ]
    drawn = [first, again.box(box, size, OWNER), *(jitter.box(box, size, owner) for owner in others)]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(drawn, 2))
    twice = parse_prompt("jitter:0.2").box(box, size, OWNER)
    np.testing.assert_allclose(twice - box, 2 * (first - box), atol=1e-5)
    as_pixels = parse_prompt("jitter:3px").box(box, size, OWNER)
    np.testing.assert_allclose(
        (as_pixels - box) / 3, (first - box) / (0.1 * np.array([11, 19, 11, 19])), atol=1e-5
    )


def test_every_pixel_of_a_mask_may_be_the_random_point_and_no_other() -> None:
    bitmap = np.zeros((5, 7), bool)
    bitmap[1, 2] = bitmap[3, 6] = bitmap[4, 0] = True
    prompt, centre = parse_prompt("point:random"), np.array([2, 1], np.float32)
    drawn = [tuple(prompt.point(bitmap, centre, ("toy", f"i{n}", 1, 1)).tolist()) for n in range(300)]
    counts = {point: drawn.count(point) for point in set(drawn)}
    assert set(counts) == {(2.0, 1.0), (6.0, 3.0), (0.0, 4.0)}
    assert min(counts.values()) > 60
    assert np.array_equal(prompt.point(bitmap, centre, OWNER), prompt.point(bitmap, centre, OWNER))
    with pytest.raises(ValueError, match="empty"):
        prompt.point(np.zeros((3, 3), bool), centre, OWNER)


def innermost(region: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pixels (y, x) of a region, those farthest from any pixel that is not in it first; images have no border here."""
    ys, xs = [y for y, _ in region], [x for _, x in region]
    around = itertools.product(range(min(ys) - 1, max(ys) + 2), range(min(xs) - 1, max(xs) + 2))
    outside = [place for place in around if place not in region]
    distance = {(y, x): min((y - v) ** 2 + (x - u) ** 2 for v, u in outside) for y, x in region}
    return sorted(region, key=lambda place: (-distance[place], place))


def random_mask(rng: np.random.Generator, height: int = 9, width: int = 11) -> np.ndarray:
    bitmap = rng.random((height, width)) < rng.choice([0.05, 0.3, 0.6, 0.9])
    y, x = rng.integers(0, height), rng.integers(0, width)
    bitmap[y : y + 4, x : x + 4] = rng.random() < 0.7
    return bitmap


def test_the_point_of_a_store_is_the_centre_of_the_largest_inscribed_circle() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        bitmap = random_mask(rng)
        if not bitmap.any():
            continue
        # Circles inside an object with a hole or several parts are inside the whole foreground.
        y, x = innermost(set(map(tuple, np.argwhere(bitmap).tolist())))[0]
        assert interior_point(bitmap).tolist() == [x, y]


# Where clicks fall


def components(bitmap: np.ndarray) -> list[set[tuple[int, int]]]:
    """8-connected regions, in row-major order of their first pixels."""
    left = {(int(y), int(x)) for y, x in np.argwhere(bitmap)}
    found = []
    while left:
        region, border = set(), [min(left)]
        while border:
            y, x = border.pop()
            if (y, x) in left:
                left.remove((y, x))
                region.add((y, x))
                border += [(y + v, x + u) for v in (-1, 0, 1) for u in (-1, 0, 1)]
        found.append(region)
    return found


def reference_click(truth: np.ndarray, predicted: np.ndarray, made: Sequence[Click]) -> Click | None:
    missed = [(region, True) for region in components(truth & ~predicted)]
    superfluous = [(region, False) for region in components(predicted & ~truth)]
    clicked = {(click.y, click.x) for click in made}
    for region, positive in sorted([*missed, *superfluous], key=lambda pair: -len(pair[0])):
        for y, x in innermost(region):
            if (y, x) not in clicked:
                return Click(float(x), float(y), positive)
    return None


def test_clicks_fall_where_a_brute_force_search_puts_them() -> None:
    rng = np.random.default_rng(3)
    labels = []
    for _ in range(150):
        truth, predicted = random_mask(rng), random_mask(rng)
        made: list[Click] = []
        for _ in range(3):
            click = next_click(truth, predicted, made)
            assert click == reference_click(truth, predicted, made)
            if click is None:
                break
            assert (
                truth[int(click.y), int(click.x)] == click.positive != predicted[int(click.y), int(click.x)]
            )
            made.append(click)
            labels.append(click.positive)
    assert {True, False} == set(labels)
    assert min(labels.count(True), labels.count(False)) > 50


def test_a_pixel_is_clicked_once_and_nothing_wrong_is_no_click() -> None:
    truth = np.zeros((6, 6), bool)
    truth[0, 0:3] = truth[4, 4] = True
    nothing = np.zeros_like(truth)
    made: list[Click] = []
    while (click := next_click(truth, nothing, made)) is not None:
        made.append(click)
    assert [(click.x, click.y) for click in made] == [(0, 0), (1, 0), (2, 0), (4, 4)]
    assert next_click(truth, truth, []) is None
    assert next_click(nothing, nothing, []) is None
    assert next_click(nothing, ~nothing, []) == Click(2.0, 2.0, False)
