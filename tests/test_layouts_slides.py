"""Outlines that programs for slides write: GeoJSON of QuPath, XML of ASAP and of ImageScope."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam
from test_layouts_annotations import HEIGHT, SIZE, TINY, WIDTH, drawn, save, square, write_json

from casam_cache.datasets import DatasetOptions, find_reader, read_dataset, read_masks
from casam_cache.datasets.testing import ReaderContract
from casam_cache.errors import DatasetError


def feature(
    rings: list[Any], label: str | list[str] | None = None, kind: str = "annotation", shape: str = "Polygon"
) -> dict[str, Any]:
    named: Any = None if label is None else {"name": label} if isinstance(label, str) else {"names": label}
    properties = {"objectType": kind, **({"classification": named} if named else {})}
    return {"type": "Feature", "geometry": {"type": shape, "coordinates": rings}, "properties": properties}


def closed(x: float, y: float, side: float) -> list[list[float]]:
    corners = square(x, y, side)
    return [*corners, corners[0]]


def qupath(root: Path) -> Path:
    """Four slides: a ring of tumour, a region in two parts, an unnamed square, and a line."""
    for number in range(4):
        save(root / f"case {number}.png", number)
        features = [
            feature([closed(2, 2, 20), closed(8, 8, 6)], "Tumour"),
            feature(
                [[closed(30, 2, 4)], [closed(40, 2, 5), closed(42, 4, 1)]], "Stroma", shape="MultiPolygon"
            ),
            feature([closed(30, 20, 7)]),
            feature([[0, 0], [5, 5]], "Tumour", shape="LineString"),
        ]
        told: Any = {"type": "FeatureCollection", "features": features} if number else features
        write_json(root / f"case {number}.{'geojson' if number % 2 else 'json'}", told)
    return root


def test_qupath_has_holes_parts_and_classes(tmp_path: Path) -> None:
    dataset = read_dataset(qupath(tmp_path))
    assert dataset.reader.name == "geojson"
    assert [sample.id for sample in dataset.samples] == [f"case {number}" for number in range(4)]
    assert dataset.class_names == {1: "Stroma", 2: "Tumour", 3: "object"}
    for number in range(4):
        assert drawn(dataset, number) == [(1, 1, 16 + 24), (2, 1, 400 - 36), (3, 1, 49)]
    _, ring, _ = read_masks(dataset, dataset.samples[0], SIZE)
    assert not ring.bitmap[8:14, 8:14].any()
    assert {problem.message for problem in dataset.problems} == {
        "1 left out: LineString, without an area or damaged"
    }


def test_regions_around_detections_are_no_objects(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    cells = [
        feature([closed(4 + 12 * k, 4, 6)], ["Tumour", "Positive"], kind)
        for k, kind in enumerate(("cell", "detection"))
    ]
    area = feature([closed(0, 0, 30)])
    named = feature([closed(30, 20, 10)], "Necrosis")
    write_json(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": [area, *cells, named]})
    dataset = read_dataset(tmp_path, DatasetOptions(masks="instances"))
    assert dataset.class_names == {1: "Necrosis", 2: "Tumour: Positive"}
    assert drawn(dataset, 0) == [(1, 1, 100), (2, 1, 36), (2, 2, 36)]
    said = {problem.message for problem in dataset.problems}
    assert "1 left out: areas without a class where there are detections" in said


def asap(root: Path) -> Path:
    def annotation(group: str, corners: list[list[float]], kind: str = "Polygon") -> str:
        order = [2, 0, 1, 3]  # in any order in the file
        points = "".join(
            f'<Coordinate Order="{place}" X="{corners[place][0]}" Y="{corners[place][1]}"/>'
            for place in order
            if place < len(corners)
        )
        held = f"<Coordinates>{points}</Coordinates>"
        return f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}">{held}</Annotation>'

    for number in range(4):
        save(root / "images" / f"tumor_{number:03d}.png", number)
        (root / "xml").mkdir(exist_ok=True)
        shapes = annotation("metastases", square(2, 2, 9)) + annotation(
            "None", square(30, 20, 5), "Rectangle"
        )
        shapes += annotation("metastases", [[1, 1]], "Dot")
        (root / "xml" / f"tumor_{number:03d}.xml").write_text(
            f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{shapes}</Annotations></ASAP_Annotations>'
        )
    return root


def image_scope(root: Path) -> Path:
    """A layer without a name, as MoNuSeg has it: two cells, one with a hole, an ellipse by two corners, and a ruler."""

    def region(number: int, corners: list[list[float]], kind: int = 0, negative: int = 0) -> str:
        points = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
        return f'<Region Id="{number}" Type="{kind}" NegativeROA="{negative}"><Vertices>{points}</Vertices></Region>'

    for number in range(4):
        save(root / f"TCGA-{number}.png", number)
        regions = [
            region(1, square(2, 2, 10)), region(2, square(4, 4, 3), negative=1), region(3, square(30, 2, 6)),
            region(4, [[30, 20], [40, 30]], kind=2), region(5, [[0, 0], [9, 9]], kind=4),
        ]  # fmt: skip
        (root / f"TCGA-{number}.xml").write_text(
            '<Annotations MicronsPerPixel="0.25"><Annotation Id="1" Name="" Type="4"><Attributes>'
            '<Attribute Name="Description" Id="0" Value=""/></Attributes>'
            f"<Regions>{''.join(regions)}</Regions></Annotation></Annotations>"
        )
    return root


def test_asap_has_groups_and_an_order_of_corners(tmp_path: Path) -> None:
    dataset = read_dataset(asap(tmp_path))
    assert dataset.reader.name == "slide-xml"
    assert dataset.class_names == {1: "metastases", 2: "object"}
    assert [drawn(dataset, number) for number in range(4)] == [[(1, 1, 81), (2, 1, 25)]] * 4
    assert {problem.message for problem in dataset.problems} == {"1 left out: Dot, without an area"}


def test_image_scope_has_layers_holes_and_ellipses(tmp_path: Path) -> None:
    dataset = read_dataset(image_scope(tmp_path))
    assert dataset.class_names == {1: "object"}
    assert dataset.mask_mode == "instances"
    cell, other, ellipse = drawn(dataset, 0)
    assert (cell, other) == ((1, 1, 91), (1, 2, 36))
    assert abs(ellipse[2] - np.pi * 25) < 4
    assert {problem.message for problem in dataset.problems} == {"1 left out: regions without an area"}


def test_outlines_of_another_image_are_refused_and_those_beyond_its_border_said(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    inside, beyond = feature([closed(2, 2, 9)], "x"), feature([closed(WIDTH + 3, 2, 9)], "x")
    file = write_json(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": [inside, beyond]})
    said = {problem.message for problem in read_dataset(tmp_path).problems}
    assert "1 of 2 objects lie outside a.png, left out" in said
    write_json(file, {"type": "FeatureCollection", "features": [beyond]})
    with pytest.raises(
        DatasetError, match=rf"none of its objects \(1\) lies in a.png, which has {WIDTH} x {HEIGHT}"
    ):
        read_dataset(tmp_path)


def test_what_belongs_to_no_image_or_is_damaged_is_said(tmp_path: Path) -> None:
    qupath(tmp_path)
    write_json(tmp_path / "gone.geojson", {"type": "FeatureCollection", "features": []})
    (tmp_path / "case 3.geojson").write_text('{"type": "FeatureCollection", "features": [{')
    save(tmp_path / "bare.png")
    dataset = read_dataset(tmp_path)
    said = "\n".join(f"{problem.path}: {problem.message}" for problem in dataset.problems)
    for part in (
        "gone.geojson: there is no image 'gone'", "case 3.geojson: damaged GeoJSON", "bare.png: no annotation",
        "case 3.png: no annotation",
    ):  # fmt: skip
        assert part in said, said
    assert [sample.id for sample in dataset.samples] == ["case 0", "case 1", "case 2"]
    save(tmp_path / "other" / "case 1.png")
    assert len(read_dataset(tmp_path).samples) == 3, "the image beside it is the one"
    (tmp_path / "case 1.geojson").unlink()
    write_json(tmp_path / "elsewhere" / "case 1.geojson", {"type": "FeatureCollection", "features": []})
    said = "\n".join(problem.message for problem in read_dataset(tmp_path).problems)
    assert "it may be of case 1.png or other/case 1.png" in said


@pytest.mark.parametrize(("write", "objects"), [(qupath, 12), (asap, 8), (image_scope, 12)])
def test_they_are_recognised_encoded_and_cut_into_tiles(
    write: Callable[[Path], Path], objects: int, tmp_path: Path, casam: Casam, tiny_checkpoint: Path
) -> None:
    root = write(tmp_path / "slides")
    assert find_reader(root) is not None
    report = casam.json("encode", root, *TINY, tiny_checkpoint, "--masks", "instances")["tasks"][0]
    assert casam.code == 0, casam.err
    assert (report["failed"], report["masks"]) == (0, objects)
    whole = read_dataset(root, DatasetOptions(masks="instances"))
    tiles = read_dataset(root, DatasetOptions(masks="instances", tile=24, overlap=0, tiles="all"))
    for sample in whole.samples:
        areas = dict.fromkeys(((m.class_id, m.instance) for m in read_masks(whole, sample, SIZE)), 0)
        for part in (one for one in tiles.samples if one.id.partition("#")[0] == sample.id):
            assert part.tile is not None
            rows, columns = part.tile.core_inside
            for mask in read_masks(tiles, part, (part.tile.height, part.tile.width)):
                areas[mask.class_id, mask.instance] += int(mask.bitmap[rows, columns].sum())
        assert areas == {
            (m.class_id, m.instance): int(m.bitmap.sum()) for m in read_masks(whole, sample, SIZE)
        }


class TestGeoJson(ReaderContract):
    reader = "geojson"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        told = {"type": "FeatureCollection", "features": [feature([closed(1, 1, 5)], "a")]}
        (folder / f"{name}.geojson").write_text(json.dumps(told))
        return save(folder / f"{name}.png", seed)


class TestSlideXml(ReaderContract):
    reader = "slide-xml"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        points = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in square(1, 1, 5))
        (folder / f"{name}.xml").write_text(
            f'<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="cell"><Regions><Region Type="0">'
            f"<Vertices>{points}</Vertices></Region></Regions></Annotation></Annotations>"
        )
        return save(folder / f"{name}.png", seed)
