"""Objects drawn in text files: COCO, YOLO segmentation, LabelMe and Label Studio, and how a polygon becomes pixels."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from casam_cache.datasets import Dataset, DatasetOptions, find_reader, read_dataset, read_masks
from casam_cache.datasets.layouts.label_studio import decode_brush
from casam_cache.datasets.layouts.polygon import fill
from casam_cache.datasets.testing import ReaderContract
from casam_cache.errors import DatasetError, ImageError

TINY = ("--model", "small", "--name", "tiny", "--checkpoint")
SIZE = HEIGHT, WIDTH = 40, 56
Write = Callable[[Path], Path]


def save(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)
    return path


def write_json(path: Path, told: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def flat(points: list[list[float]]) -> list[float]:
    return [number for point in points for number in point]


def bitmap(*boxes: tuple[int, int, int]) -> np.ndarray:
    drawn = np.zeros(SIZE, bool)
    for x, y, side in boxes:
        drawn[y : y + side, x : x + side] = True
    return drawn


def drawn(dataset: Dataset, number: int) -> list[tuple[int, int, int]]:
    """Class, instance and area of the masks of an image."""
    return [
        (m.class_id, m.instance, int(m.bitmap.sum()))
        for m in read_masks(dataset, dataset.samples[number], SIZE)
    ]


# Polygons


@given(
    st.lists(
        st.tuples(st.floats(-5, 60, allow_nan=False, width=32), st.floats(-5, 45, allow_nan=False, width=32)),
        min_size=3,
        max_size=3,
    )
)
def test_triangles_differ_from_pycocotools_at_their_outline_alone(corners: list[tuple[float, float]]) -> None:
    found = fill(corners, SIZE)
    ours = np.zeros(SIZE, bool) if found is None else found.bitmap
    sides = list(zip(corners, corners[1:] + corners[:1], strict=True))
    area = abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in sides)) / 2
    runs = coco_mask.frPyObjects([[number for corner in corners for number in corner]], *SIZE)
    theirs = coco_mask.decode(coco_mask.merge(runs)).astype(bool)
    around = sum(math.dist(a, b) for a, b in sides)
    inside = all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in corners)
    if inside:  # pycocotools moves corners outside to the edge, which changes the triangle
        assert (ours ^ theirs).sum() <= 1.5 * around + 4
        assert abs(ours.sum() - area) <= around + 1
    rows, columns = np.nonzero(ours)
    if len(rows) > 1:  # every pixel's centre lies inside, by the sides it is on
        signs = [
            (x1 - x0) * (rows + 0.5 - y0) - (y1 - y0) * (columns + 0.5 - x0) for (x0, y0), (x1, y1) in sides
        ]
        assert (
            np.all([sign >= -1e-3 for sign in signs], 0) | np.all([sign <= 1e-3 for sign in signs], 0)
        ).all()


@given(st.integers(0, 40), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20))
def test_whole_rectangles_are_exact(x: int, y: int, width: int, height: int) -> None:
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    wanted = np.zeros(SIZE, bool)
    wanted[y : y + height, x : x + width] = True
    found = fill(corners, SIZE)
    assert found is not None
    assert np.array_equal(found.bitmap, wanted)
    runs = coco_mask.frPyObjects([[number for corner in corners for number in corner]], *SIZE)
    assert np.array_equal(coco_mask.decode(coco_mask.merge(runs)).astype(bool), wanted)


@given(st.floats(1, 50), st.floats(1, 35))
def test_neighbours_share_no_pixel_and_leave_none(x: float, y: float) -> None:
    corners = [(0.0, 0.0), (float(WIDTH), 0.0), (float(WIDTH), float(HEIGHT)), (0.0, float(HEIGHT))]
    parts = [fill([corners[i], corners[(i + 1) % 4], (x, y)], SIZE) for i in range(4)]
    assert np.array_equal(
        sum(part.bitmap.astype(int) for part in parts if part is not None), np.ones(SIZE, int)
    )


def test_odd_polygons() -> None:
    tiny = fill([(5.1, 5.1), (5.3, 5.1), (5.2, 5.3)], SIZE)
    assert tiny is not None
    assert (tiny.top, tiny.left, tiny.area) == (5, 5, 1)
    assert fill([(-9.0, -9.0), (-3.0, -9.0), (-3.0, -3.0)], SIZE) is None
    twice = fill([*square(2, 2, 6), *square(2, 2, 6)], SIZE)  # type: ignore[arg-type]
    assert twice is not None
    assert twice.area == 36
    for wrong in ([(1.0, 1.0), (2.0, 2.0)], [(1.0, 1.0), (2.0, math.nan), (3.0, 3.0)]):
        with pytest.raises(ValueError, match="corner"):
            fill(wrong, SIZE)


# COCO


def coco(root: Path, split: str, folder: str, numbers: range) -> Path:
    """Images with two cells, one of them in two parts, a nucleus as compressed RLE, one as plain runs, and a crowd."""
    compressed = coco_mask.encode(np.asfortranarray(bitmap((30, 5, 7)).astype(np.uint8)))
    plain = bitmap((30, 20, 6)).T.ravel()
    edges = np.flatnonzero(np.diff(np.r_[0, plain.astype(int), 0]))
    counts = [int(n) for n in np.diff(np.r_[0, edges, plain.size])]
    images, objects = [], []
    for number in numbers:
        save(root / folder / f"cellule é {number}.jpg", number)
        images.append(
            {"id": number, "file_name": f"cellule é {number}.jpg", "height": HEIGHT, "width": WIDTH}
        )
        for kind, shape, crowd in (
            (1, [flat(square(2.3, 3.1, 9.4))], 0),
            (3, {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}, 0),
            (1, [flat(square(2, 20, 5)), flat(square(12, 20, 5))], 0),
            (3, {"size": [HEIGHT, WIDTH], "counts": counts}, 0),
            (1, {"size": [HEIGHT, WIDTH], "counts": counts}, 1),
        ):
            objects.append(
                {"id": len(objects) + 1, "image_id": number, "category_id": kind, "segmentation": shape,
                 "iscrowd": crowd, "bbox": [0, 0, 1, 1], "area": 1}
            )  # fmt: skip
    categories = [{"id": 1, "name": "cell"}, {"id": 3, "name": "nucleus"}]
    told = {"images": images, "annotations": objects, "categories": categories}
    return write_json(root / "annotations" / f"instances_{split}2017.json", told)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    root = tmp_path / "cells"
    coco(root, "train", "train2017", range(4))
    coco(root, "val", "val2017", range(4, 6))
    return root


def test_coco_has_the_pixels_of_pycocotools(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_dataset(cells)
    assert dataset.reader.name == "coco"
    assert [(s.id, s.split) for s in dataset.samples][3:5] == [
        ("train2017/cellule é 3", "train"),
        ("val2017/cellule é 4", "val"),
    ]
    assert dataset.mask_mode == "instances"
    assert dataset.class_names == {1: "cell", 3: "nucleus"}
    assert dataset.notes[1] == "classes 1 cell, 3 nucleus"
    api = COCO(str(cells / "annotations" / "instances_train2017.json"))
    theirs = [
        (a["category_id"], api.annToMask(a)) for a in api.loadAnns(api.getAnnIds([2])) if not a["iscrowd"]
    ]
    ours = list(read_masks(dataset, dataset.samples[2], SIZE))
    wanted = sorted(theirs, key=lambda pair: pair[0])
    assert [(m.class_id, m.instance) for m in ours] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert all(np.array_equal(m.bitmap, w.astype(bool)) for m, (_, w) in zip(ours, wanted, strict=True))


def test_coco_in_every_mask_mode(cells: Path) -> None:
    areas = {
        mode: drawn(read_dataset(cells, DatasetOptions(masks=mode)), 0)
        for mode in ("binary", "classes", "components")
    }
    first, second = drawn(read_dataset(cells), 0)[0][2], 50
    crowd = 36
    assert areas["classes"] == [(1, 1, first + second + crowd), (3, 1, 49 + 36)]
    assert areas["binary"] == [(1, 1, first + second + crowd + 49)]
    assert [(c, i) for c, i, _ in areas["components"]] == [(1, 1), (1, 2), (1, 3), (1, 4), (3, 1), (3, 2)]


def test_coco_reports_what_it_leaves_out(cells: Path) -> None:
    file = cells / "annotations" / "instances_train2017.json"
    told = json.loads(file.read_text())
    told["annotations"][0]["segmentation"] = []
    told["annotations"][2]["segmentation"] = [[1, 2, 3]]
    told["annotations"][6]["category_id"] = 9
    told["images"].append({"id": 77, "file_name": "gone.jpg", "height": 1, "width": 1})
    told["images"][3]["height"] = 99
    write_json(file, told)
    save(cells / "train2017" / "unlisted.jpg")
    text = "\n".join(map(str, read_dataset(cells).problems))
    for part in (
        "object 1 of cellule é 0.jpg: a box without a mask, left out",
        "object 3 of cellule é 0.jpg: a damaged polygon, left out",
        "object 7 of cellule é 1.jpg: its category 9 is not listed",
        "there is no image 'gone.jpg'",
        "1 images are in no annotation file, for example train2017/unlisted.jpg",
        "annotated at 56 x 99 pixels, but it has 56 x 40",
        "crowds (iscrowd is 1",
    ):
        assert part in text, part
    file.write_text('{"images": [{"file_name": 1}], "annotations": [')
    with pytest.raises(DatasetError, match="damaged COCO annotations"):
        read_dataset(cells)


def test_coco_files_that_may_be_the_same_are_refused(cells: Path) -> None:
    (cells / "annotations" / "captions_val2017.json").write_text(
        '{"images": [], "file_name": "", "annotations": []}'
    )
    assert len(read_dataset(cells).samples) == 6
    (cells / "annotations" / "instances_val2017.json").rename(cells / "annotations" / "more.json")
    with pytest.raises(
        DatasetError, match=r"two readings: annotations/instances_train2017\.json and annotations/more"
    ):
        read_dataset(cells)


def test_roboflow_has_a_file_a_split(tmp_path: Path) -> None:
    for split, numbers in (("train", range(3)), ("valid", range(3, 4)), ("test", range(4, 6))):
        file = coco(tmp_path, split, split, numbers)
        told = json.loads(file.read_text())
        told["categories"] = [
            {"id": 0, "name": "things"},
            {"id": 1, "name": "cell"},
            {"id": 3, "name": "nucleus"},
        ]
        write_json(tmp_path / split / "_annotations.coco.json", told)
        file.unlink()
    dataset = read_dataset(tmp_path)
    assert [s.split for s in dataset.samples] == ["test"] * 2 + ["train"] * 3 + ["val"]
    assert dataset.class_names == {1: "things", 2: "cell", 3: "nucleus"}
    assert dataset.split_source == "the annotation files"


# YOLO


def share(kind: int, points: list[list[float]]) -> str:
    return " ".join(map(str, [kind, *(number for x, y in points for number in (x / WIDTH, y / HEIGHT))]))


def yolo(root: Path) -> Path:
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for number in range(count):
            name = f"{split} é {number}"
            save(root / "images" / split / f"{name}.jpg", number)
            lines = [share(1, square(4, 6, 8)), share(0, square(20, 6, 5))]
            file = root / "labels" / split / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines[: number % 3]) + "\n")
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: polyp\n  1: tool\n"
    )
    return root


def test_yolo_draws_shares_of_the_image(tmp_path: Path) -> None:
    dataset = read_dataset(yolo(tmp_path))
    assert dataset.reader.name == "yolo"
    assert [(s.id, s.split) for s in dataset.samples][:3] == [
        ("test/test é 0", "test"),
        ("test/test é 1", "test"),
        ("train/train é 0", "train"),
    ]
    assert (dataset.mask_mode, dataset.class_names, dataset.problems) == (
        "classes",
        {1: "polyp", 2: "tool"},
        (),
    )
    assert [drawn(dataset, number) for number in (2, 3, 4)] == [[], [(2, 1, 64)], [(1, 1, 25), (2, 1, 64)]]
    (mask,) = read_masks(dataset, dataset.samples[3], SIZE)
    assert np.array_equal(mask.bitmap, bitmap((4, 6, 8)))


def test_yolo_of_boxes_is_refused_and_bad_lines_are_reported(tmp_path: Path) -> None:
    yolo(tmp_path)
    labels = tmp_path / "labels" / "train" / "train é 2.txt"
    labels.write_text(labels.read_text() + "0 0.5 0.5 0.1 0.1\nx 1\n0 3 4 5 6 7 8\n")
    (tmp_path / "labels" / "val" / "val é 0.txt").unlink()
    (tmp_path / "labels" / "val" / "lost.txt").write_text("")
    text = "\n".join(map(str, read_dataset(tmp_path).problems))
    for part in (
        "train é 2.txt: line 3: a box, no polygon, left out",
        "line 4: no class and numbers",
        "line 5: no class with corners between 0 and 1, left out",
        "no labels/val/val é 0.txt (an empty file says that there is no object, or use --unlabelled)",
        "labels/val/lost.txt: labels without an image",
    ):
        assert part in text, part
    for file in (tmp_path / "labels").rglob("*.txt"):
        file.write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DatasetError, match="hold boxes, as for detection"):
        read_dataset(tmp_path)


# LabelMe


def labelme(root: Path) -> Path:
    mask = io.BytesIO()
    Image.fromarray(bitmap((0, 0, 4))[:6, :6]).save(mask, "PNG")
    for number in range(4):
        save(root / f"œil {number}.png", number)
        shapes = [
            {"label": "vessel", "points": square(2, 2, 6), "shape_type": "polygon", "group_id": 1},
            {"label": "disc", "points": [[30, 20], [36, 30]], "shape_type": "rectangle", "group_id": None},
            {"label": "vessel", "points": square(12, 2, 6), "shape_type": "polygon", "group_id": 1},
            {"label": "vessel", "points": [[45, 10], [45, 15]], "shape_type": "circle"},
            {"label": "spot", "points": [[10, 30], [15, 35]], "shape_type": "mask",
             "mask": base64.b64encode(mask.getvalue()).decode()},
            {"label": "note", "points": [[1, 1]], "shape_type": "point"},
        ]  # fmt: skip
        shapes = shapes[: 6 if number else 3]
        told = {"version": "5.3.1", "shapes": shapes, "imagePath": f"œil {number}.png", "imageData": "A" * 9999,
                "imageHeight": HEIGHT, "imageWidth": WIDTH}  # fmt: skip
        write_json(root / f"œil {number}.json", told)
    return root


def test_labelme_draws_every_area(tmp_path: Path) -> None:
    dataset = read_dataset(labelme(tmp_path))
    assert dataset.reader.name == "labelme"
    assert dataset.class_names == {1: "disc", 2: "spot", 3: "vessel"}
    assert drawn(dataset, 0) == [(1, 1, 60), (3, 1, 72)]
    found = drawn(dataset, 1)
    assert found[:3] == [(1, 1, 60), (2, 1, 16), (3, 1, 72)]
    assert found[3][2] == pytest.approx(math.pi * 25, abs=4)
    assert [str(problem) for problem in dataset.problems] == [
        f"œil {number}.json: shape 6 ('note', point) has no area, left out (draw it as a polygon)"
        for number in (1, 2, 3)
    ]


def test_labelme_finds_images_elsewhere_and_reports_the_rest(tmp_path: Path) -> None:
    labelme(tmp_path / "json")
    for number in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "json" / f"œil {number}.png").rename(tmp_path / "images" / f"œil {number}.png")
    (tmp_path / "json" / "œil 3.png").unlink()
    save(tmp_path / "images" / "bare.png")
    (tmp_path / "json" / "broken.json").write_text('{"shapes": [')
    for number in range(2):
        file = tmp_path / "json" / f"œil {number}.json"
        file.write_text(file.read_text().replace('"imagePath": "', '"imagePath": "..\\\\images\\\\'))
    dataset = read_dataset(tmp_path)
    assert [s.id for s in dataset.samples] == ["œil 0", "œil 1", "œil 2"]
    text = "\n".join(map(str, dataset.problems))
    for part in (
        "there is no image 'œil 3.png'",
        "broken.json: damaged JSON",
        "images/bare.png: no annotation",
    ):
        assert part in text, part


# Label Studio


def encode_brush(values: np.ndarray) -> list[int]:
    """thi-ng's run-length code, as label-studio-converter writes it: literals and runs of 3, 4, 8 or 16 bits."""
    lengths = [3, 4, 8, 16]
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{length - 1:04b}" for length in lengths)
    place = 0
    while place < len(values):
        end = place + 1
        while end < len(values) and values[end] == values[place] and end - place < 1 << 16:
            end += 1
        count, run = end - place, 1
        if count == 1 and place % 2 == 0:
            run, count = 0, min(3, len(values) - place)
        kind = next(kind for kind, length in enumerate(lengths) if count - 1 < 1 << length)
        bits += f"{run}{kind:02b}{count - 1:0{lengths[kind]}b}"
        bits += "".join(f"{value:08b}" for value in values[place : place + (1 if run else count)])
        place += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


@given(st.lists(st.sampled_from([0, 7, 255]), max_size=80), st.integers(0, 300))
def test_brush_codes_are_decoded(values: list[int], more: int) -> None:
    array = np.array(values + [9] * more, np.uint8)
    assert np.array_equal(decode_brush(bytes(encode_brush(array))), array)


def studio(root: Path) -> Path:
    def region(kind: str, label: str, value: dict[str, Any]) -> dict[str, Any]:
        return {"id": f"{kind}{label}", "type": kind, "original_width": WIDTH, "original_height": HEIGHT,
                "image_rotation": 0, "value": {**value, kind: [label]}}  # fmt: skip

    tasks = []
    for number in range(4):
        save(root / "images" / f"poumon {number}.png", number)
        points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in square(4, 6, 8)]
        rgba = np.repeat(bitmap((30, 10, 9))[..., None], 4, 2).astype(np.uint8) * 255
        box = {"x": 0, "y": 50, "width": 25, "height": 25, "rotation": 0}
        result = [
            region("polygonlabels", "lung", {"points": points}),
            region("brushlabels", "tumour", {"format": "rle", "rle": encode_brush(rgba.ravel())}),
            region("rectanglelabels", "lung", box),
            region("keypointlabels", "note", {"x": 1, "y": 1, "width": 1}),
            {"id": "c", "type": "choices", "value": {"choices": ["ok"]}},
        ]
        image = (
            f"/data/upload/1/1a2b3c4d-poumon%20{number}.png"
            if number % 2
            else f"/data/local-files/?d=images/poumon {number}.png"
        )
        tasks.append({"id": 10 + number, "data": {"image": image}, "annotations": [
            {"id": 1, "was_cancelled": True, "result": []},
            {"id": 2, "was_cancelled": False, "result": result},
        ], "predictions": []})  # fmt: skip
    write_json(root / "project-1.json", tasks)
    return root


def test_label_studio_draws_polygons_and_strokes(tmp_path: Path) -> None:
    dataset = read_dataset(studio(tmp_path))
    assert dataset.reader.name == "label-studio"
    assert [s.id for s in dataset.samples] == [f"poumon {number}" for number in range(4)]
    assert dataset.class_names == {1: "lung", 2: "tumour"}
    assert drawn(dataset, 1) == [(1, 1, 64), (1, 2, 140), (2, 1, 81)]
    *_, stroke = read_masks(dataset, dataset.samples[1], SIZE)
    assert np.array_equal(stroke.bitmap, bitmap((30, 10, 9)))
    assert {problem.message for problem in dataset.problems} == {
        "region keypointlabelsnote (keypointlabels) has no area, left out"
    }


def test_label_studio_reports_what_may_be_meant(tmp_path: Path) -> None:
    file = studio(tmp_path) / "project-1.json"
    tasks = json.loads(file.read_text())
    tasks[0]["annotations"][0]["was_cancelled"] = False
    tasks[1]["annotations"] = []
    tasks[2]["data"]["image"] = "s3://bucket/gone.png"
    rle = tasks[3]["annotations"][1]["result"][1]["value"]["rle"]
    tasks[3]["annotations"][1]["result"][1]["value"]["rle"] = rle[:20]
    write_json(file, tasks)
    dataset = read_dataset(tmp_path)
    text = "\n".join(map(str, dataset.problems))
    for part in (
        "2 annotations of images/poumon 0.png: any of them",
        "no annotation in task 11",
        "no image 'gone.png'",
    ):
        assert part in text, part
    with pytest.raises(ImageError, match=r"project-1\.json: a brush region is damaged: it breaks off"):
        list(read_masks(dataset, dataset.samples[0], SIZE))
    tasks[0]["annotations"][1]["ground_truth"] = True
    write_json(file, tasks)
    assert len(read_dataset(tmp_path).samples) == 2


# All of them


def write_cells(root: Path) -> Path:
    coco(root, "train", "train2017", range(4))
    coco(root, "test", "test2017", range(4, 6))
    return root


@pytest.mark.parametrize(("write", "objects"), [(write_cells, 24), (yolo, 4), (labelme, 14), (studio, 12)])
def test_they_are_recognised_said_and_encoded(
    write: Write, objects: int, tmp_path: Path, casam: Casam, tiny_checkpoint: Path
) -> None:
    root = write(tmp_path / "un jeu")
    found = find_reader(root)
    assert found is not None
    report = casam.json("encode", root, *TINY, tiny_checkpoint)["tasks"][0]
    assert casam.code == 0, casam.err
    assert (report["failed"], report["masks"]) == (0, objects)
    dataset = read_dataset(root)
    assert f"un jeu: {dataset.notes[0]}" in casam.err
    assert all(name in dataset.notes[0] for name in (dataset.samples[0].source,) if dataset.samples[0].masks)
    assert casam.json("encode", root, *TINY, tiny_checkpoint)["tasks"][0]["encoded"] == 0


class TestYolo(ReaderContract):
    reader = "yolo"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{name}.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
        return save(folder / "images" / f"{name}.png", seed)


class TestLabelMe(ReaderContract):
    reader = "labelme"

    def write(self, folder: Path, name: str, seed: int) -> Path:
        shapes = [{"label": "a", "points": square(1, 1, 5)}]
        write_json(folder / f"{name}.json", {"shapes": shapes, "imagePath": f"{name}.png", "imageData": None})
        return save(folder / f"{name}.png", seed)
