"""Drawn training scenes: the same number gives the same scene, and masks are what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from small_sam_scripts import importable

from casam_cache.datasets.phantoms.fields import field, fractal, texture
from casam_cache.datasets.phantoms.looks import LOOKS
from casam_cache.fingerprint import generator

Scripts = dict[str, ModuleType]
SIZE = 64


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    with importable("scenes", "layouts", "drawn_looks", "scene_canvas") as found:
        yield found


@pytest.fixture
def scenes(scripts: Scripts) -> ModuleType:
    return scripts["scenes"]


def test_scene_depends_on_its_number_and_seed_alone(scenes: ModuleType) -> None:
    first, again = scenes.draw_scene(5, 0, SIZE), scenes.draw_scene(5, 0, SIZE)
    np.testing.assert_array_equal(first.image, again.image)
    assert len(first.masks) == len(again.masks)
    assert all(np.array_equal(a, b) for a, b in zip(first.masks, again.masks, strict=True))
    assert not np.array_equal(first.image, scenes.draw_scene(5, 1, SIZE).image)


def test_masks_are_objects_of_the_image(scenes: ModuleType) -> None:
    shapes = set()
    for index in range(40):
        scene = scenes.draw_scene(index, 0, SIZE)
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


def test_scenes_of_one_look_share_it_and_nothing_else(scripts: Scripts) -> None:
    scenes, looks = scripts["scenes"], scripts["drawn_looks"]
    first, second = scenes.draw_scene(10, 0, SIZE, look=3), scenes.draw_scene(11, 0, SIZE, look=3)
    parameters = looks.look_parameters(first.look)
    np.testing.assert_array_equal(parameters, looks.look_parameters(second.look))
    assert parameters.shape == (looks.LOOK_PARAMETERS,)
    assert first.image.shape != second.image.shape or not np.array_equal(first.image, second.image)


def test_every_look_is_drawn(scripts: Scripts) -> None:
    assert {scripts["drawn_looks"].draw_look(0, index).name for index in range(120)} == set(LOOKS)


def test_every_layout_paints_objects(scripts: Scripts) -> None:
    for layout, _ in scripts["layouts"].LAYOUTS:
        found = 0
        for index in range(4):
            rng, look = generator("test", layout.__name__, index), scripts["drawn_looks"].draw_look(0, index)
            canvas = scripts["scene_canvas"].SceneCanvas(rng, 48, SIZE, look)
            layout(canvas)
            assert np.isfinite(canvas.latent).all()
            found += sum(bool(mask.any()) for mask in canvas.masks)
        assert found, layout.__name__


@pytest.mark.parametrize("cell", [0.5, 3.0, 40.0])
def test_fields_have_unit_scale(cell: float) -> None:
    rng = np.random.default_rng(0)
    sheets = np.stack([field(rng, 60, 80, cell) for _ in range(30)])
    assert sheets.dtype == np.float32
    assert abs(float(sheets.mean())) < 0.3
    assert 0.7 < float(sheets.std()) < 1.3
    assert fractal(rng, 20, 30, 8, 3).shape == texture(rng, 20, 30, 2.0).shape == (20, 30)


def test_a_contact_sheet_shows_every_scene(scenes: ModuleType, tmp_path: Path) -> None:
    assert scenes.contact_sheet([0, 1, 2], size=32, columns=2).size == (64, 128)
    out = tmp_path / "scenes.png"
    scenes.main([str(out), "--first", "5", "--count", "2", "--size", "32"])
    with Image.open(out) as sheet:
        np.testing.assert_array_equal(np.asarray(sheet), np.asarray(scenes.contact_sheet([5, 6], size=32)))
    before = out.read_bytes()
    with pytest.raises(SystemExit):
        scenes.main([str(out)])
    assert out.read_bytes() == before
