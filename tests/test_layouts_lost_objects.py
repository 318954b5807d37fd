"""Objects in text files that hold no pixel of their image, or were drawn for another image: never lost in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from casam_cache.datasets import DatasetOptions, read_dataset, read_masks
from casam_cache.datasets.check import check
from casam_cache.errors import DatasetError

HEIGHT, WIDTH = 40, 56
INSIDE = [[4, 4], [20, 4], [20, 20], [4, 20]]
OUTSIDE = [[60, 50], [70, 50], [70, 60]]


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def shares(points: list[list[float]]) -> str:
    return "0 " + " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points)


def coco(root: Path, objects: list[dict[str, Any]], images: int = 3, **stated: int) -> Path:
    listed = []
    for number in range(images):
        save(root / "images" / f"{number}.png", number)
        listed.append(
            {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH, **stated}
        )
    told = {"images": listed, "annotations": objects, "categories": [{"id": 1, "name": "cell"}]}
    (root / "annotations.json").write_text(json.dumps(told))
    return root


def polygon(id: int, image: int, points: list[list[float]], **more: Any) -> dict[str, Any]:
    corners = [number for point in points for number in point]
    return {"id": id, "image_id": image, "category_id": 1, "segmentation": [corners], "iscrowd": 0, **more}


def test_coco_objects_without_a_pixel_or_an_image_are_said(tmp_path: Path) -> None:
    thin = [[4.1, 4.1], [4.2, 4.1], [4.2, 4.2]]
    reaching_in = [[-9, -9], [9, -9], [9, 9], [-9, 9]]
    objects = [polygon(n, image, points) for n, (image, points) in enumerate(
        [(0, INSIDE), (0, OUTSIDE), (1, reaching_in), (1, thin), (44, INSIDE), (44, INSIDE)]
    )]  # fmt: skip
    dataset = read_dataset(coco(tmp_path / "set", objects))
    told = [str(problem) for problem in dataset.problems]
    assert len(told) == 3, told
    assert "object 1 of 0.png: it lies outside its image, left out" in told[0]
    assert "object 3 of 1.png: its outline holds no pixel, left out" in told[1]
    assert "2 objects are of images that are not listed, for example of the id 44" in told[2]
    assert [len(list(read_masks(dataset, sample))) for sample in dataset.samples] == [1, 1, 0]


def test_crowds_of_many_images_are_one_line(tmp_path: Path) -> None:
    objects = [polygon(n, n, INSIDE, iscrowd=1) for n in range(3)]
    (told,) = read_dataset(coco(tmp_path / "set", objects)).problems
    assert "3 images hold crowds" in told.message


def test_images_of_another_size_than_was_annotated_get_no_masks(tmp_path: Path) -> None:
    objects = [polygon(n, n, INSIDE) for n in range(3)]
    root = coco(tmp_path / "set", objects)
    told = json.loads((root / "annotations.json").read_text())
    told["images"][1]["width"] = 2 * WIDTH
    (root / "annotations.json").write_text(json.dumps(told))
    dataset = read_dataset(root, DatasetOptions(test_fraction=0))
    assert [sample.source for sample in dataset.samples] == ["images/0.png", "images/2.png"]
    (problem,) = dataset.problems
    assert problem.path == "images/1.png"
    assert problem.severity == "error"
    with pytest.raises(
        DatasetError, match=r"example images/0\.png: annotated at 112 x 80 pixels, but it has 56 x 40"
    ):
        read_dataset(coco(tmp_path / "all", objects, height=2 * HEIGHT, width=2 * WIDTH))


def test_yolo_polygons_outside_are_said_and_case_does_not_matter(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for number in range(3):
        save(root / "Images" / f"{number}.png", number)
        (root / "Labels").mkdir(exist_ok=True)
        lines = [shares(INSIDE), *([shares([[x, y - 20.5] for x, y in INSIDE])] if number == 1 else [])]
        (root / "Labels" / f"{number}.txt").write_text("\r\n".join(lines))
    dataset = read_dataset(root)
    assert [sample.masks for sample in dataset.samples] == [(f"Labels/{n}.txt",) for n in range(3)]
    (problem,) = dataset.problems
    assert problem.path == "Labels/1.txt"
    assert "line 2: it lies outside the image" in problem.message
    assert [len(list(read_masks(dataset, sample))) for sample in dataset.samples] == [1, 1, 1]


def test_shapes_of_labelme_and_label_studio_outside_are_said(tmp_path: Path) -> None:
    root, studio = tmp_path / "labelme", tmp_path / "studio"
    save(root / "a.png")
    shapes = [{"label": "cell", "shape_type": "polygon", "points": points} for points in (INSIDE, OUTSIDE)]
    told = {"imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes}
    (root / "a.json").write_text(json.dumps(told))
    save(studio / "a.png")
    results = [
        {
            "id": name, "type": "polygonlabels", "original_width": WIDTH, "original_height": HEIGHT,
            "value": {"points": [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in points], "polygonlabels": ["cell"]},
        }
        for name, points in (("in", INSIDE), ("out", OUTSIDE))
    ]  # fmt: skip
    task = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}
    (studio / "export.json").write_text(json.dumps([task]))
    for folder, named in ((root, "shape 2 ('cell')"), (studio, "region out")):
        dataset = read_dataset(folder, DatasetOptions(test_fraction=0))
        (problem,) = dataset.problems
        assert f"{named} lies outside the image, left out" in problem.message
        assert len(list(read_masks(dataset, dataset.samples[0]))) == 1


def test_masks_that_cannot_be_used_are_not_called_empty(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for number in range(4):
        save(root / "images" / f"{number}.png", number)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.eye(HEIGHT // 2, WIDTH // 2, dtype=np.uint8)).save(
            root / "masks" / f"{number}.png"
        )
    (report,) = check(root).tasks
    assert len(report.problems) == 4
    assert all("the mask has 28 x 20 pixels" in problem.message for problem in report.problems)
