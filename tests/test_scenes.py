"""Drawn training scenes: the same number gives the same scene, and masks are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from casam_cache.datasets.scenes import LOOK_PARAMETERS, LOOKS, contact_sheet, draw_look, draw_scene
from casam_cache.datasets.scenes.canvas import Canvas
from casam_cache.datasets.scenes.fields import field, fractal, texture
from casam_cache.datasets.scenes.layouts import LAYOUTS
from casam_cache.fingerprint import generator

SIZE = 64


def test_scene_depends_on_its_number_and_seed_alone() -> None:
    first, again = draw_scene(5, 0, SIZE), draw_scene(5, 0, SIZE)
    np.testing.assert_array_equal(first.image, again.image)
    assert len(first.masks) == len(again.masks)
    assert all(np.array_equal(a, b) for a, b in zip(first.masks, again.masks, strict=True))
    assert not np.array_equal(first.image, draw_scene(5, 1, SIZE).image)


def test_masks_are_objects_of_the_image() -> None:
    shapes = set()
    for index in range(40):
        scene = draw_scene(index, 0, SIZE)
        height, width = scene.image.shape[:2]
        shapes.add(height == width)
        assert scene.image.dtype == np.uint8
        assert scene.image.shape == (height, width, 3)
        assert max(height, width) == SIZE
        assert scene.masks
        for mask in scene.masks:
            assert mask.dtype == bool
            assert mask.shape == (height, width)
            assert 0 < mask.mean() <= 0.7
    assert shapes == {True, False}


def test_scenes_of_one_look_share_it_and_nothing_else() -> None:
    first, second = draw_scene(10, 0, SIZE, look=3), draw_scene(11, 0, SIZE, look=3)
    np.testing.assert_array_equal(first.look.parameters, second.look.parameters)
    assert first.look.parameters.shape == (LOOK_PARAMETERS,)
    assert first.image.shape != second.image.shape or not np.array_equal(first.image, second.image)


def test_every_look_is_drawn() -> None:
    assert {draw_look(0, index).name for index in range(120)} == set(LOOKS)


@pytest.mark.parametrize("layout", [layout for layout, _ in LAYOUTS], ids=lambda layout: layout.__name__)
def test_every_layout_paints_objects(layout) -> None:  # type: ignore[no-untyped-def]
    found = 0
    for index in range(4):
        canvas = Canvas(generator("test", layout.__name__, index), 48, SIZE, draw_look(0, index))
        layout(canvas)
        assert np.isfinite(canvas.latent).all()
        found += sum(bool(mask.any()) for mask in canvas.masks)
    assert found


@pytest.mark.parametrize("cell", [0.5, 3.0, 40.0])
def test_fields_have_unit_scale(cell: float) -> None:
    rng = np.random.default_rng(0)
    sheets = np.stack([field(rng, 60, 80, cell) for _ in range(30)])
    assert sheets.dtype == np.float32
    assert abs(float(sheets.mean())) < 0.3
    assert 0.7 < float(sheets.std()) < 1.3
    assert fractal(rng, 20, 30, 8, 3).shape == texture(rng, 20, 30, 2.0).shape == (20, 30)


def test_contact_sheet_shows_every_scene() -> None:
    assert contact_sheet([0, 1, 2], size=32, columns=2).size == (64, 128)
