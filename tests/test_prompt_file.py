"""Prompts in files: what each form means, and one line that names what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam, draw_dataset
from PIL import Image

from casam_cache.bench.objects import logits_of_mask
from casam_cache.bench.prompt_file import ObjectPrompt, from_options, read_prompts
from casam_cache.errors import OptionError
from casam_cache.geometry import Geometry


def asked(prompt: ObjectPrompt) -> tuple[Any, ...]:
    mask = None if prompt.mask is None else prompt.mask.name
    return prompt.number, prompt.box, prompt.points, prompt.labels, mask


def test_a_table_of_boxes_and_points(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(
        "image, x0,y0,x1,y1,x,y,label,object,mask\n"
        "a.png,1,2,3,4,,,,7,\n"
        "a.png,,,,,2,3,0,7,m.png\n"
        "a.png,,,,,5.5,6,,2,\n"
        "b/c.png,1,2,3,4,2,3,1,1,\n"
    )
    found = read_prompts(tmp_path / "p.csv")
    assert {name: [asked(prompt) for prompt in own] for name, own in found.items()} == {
        "a.png": [
            (7, (1, 2, 3, 4), ((2, 3),), (0,), "m.png"),
            (2, None, ((5.5, 6),), (1,), None),
        ],
        "b/c.png": [(1, (1, 2, 3, 4), ((2, 3),), (1,), None)],
    }
    assert found["a.png"][0].mask == tmp_path / "m.png"
    assert found["a.png"][0].name == "p.csv, line 2"


def test_rows_without_an_object_are_one_each(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("﻿id,x0,y0,x1,y1\nx,1,2,3,4\ny,1,2,3,4\nx,5,6,7,8\n", encoding="utf-8")
    found = read_prompts(tmp_path / "p.csv")
    assert [asked(prompt)[:2] for prompt in found["x"]] == [(1, (1, 2, 3, 4)), (2, (5, 6, 7, 8))]
    assert [prompt.number for prompt in found["y"]] == [1]


def test_json_says_the_same(tmp_path: Path) -> None:
    entries = [
        {"image": "a.png", "box": [1, 2, 3, 4], "points": [[2, 3], [4, 5, 0]]},
        {"image": "a.png", "mask": "m.npy"},
        {"points": [[1, 1]]},
    ]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    found = read_prompts(tmp_path / "p.json")
    assert [asked(prompt) for prompt in found["a.png"]] == [
        (1, (1, 2, 3, 4), ((2, 3), (4, 5)), (1, 0), None),
        (2, None, (), (), "m.npy"),
    ]
    assert [asked(prompt) for prompt in found[""]] == [(1, None, ((1, 1),), (1,), None)]


def test_each_box_is_an_object_and_all_points_are_one() -> None:
    two = from_options(["1,2,3,4", "5,6,7,8"], [], None)
    assert [asked(prompt)[:2] for prompt in two] == [(1, (1, 2, 3, 4)), (2, (5, 6, 7, 8))]
    (one,) = from_options(["1,2,3,4"], ["1,2", "3,4,0"], Path("m.png"))
    assert asked(one) == (1, (1, 2, 3, 4), ((1, 2), (3, 4)), (1, 0), "m.png")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.txt", "x,y\n1,2\n", "neither in .csv nor in .json"),
        ("p.csv", "", "is empty"),
        ("p.csv", "image,x,y\n", "holds no prompt"),
        ("p.csv", "image,x,y,z\na,1,2,3\n", "unknown or repeated column"),
        ("p.csv", "image,x,y,x\na,1,2,3\n", "unknown or repeated column"),
        ("p.csv", "image,x,y\na,1,2,3\n", "line 2 has not 3 values"),
        ("p.csv", "image,x,y\na,1\n", "line 2 has not 3 values"),
        ("p.csv", "image,x,y\na,1,2\na,b,2\n", "line 3, point: expected"),
        ("p.csv", "image,x,y\na,1,\n", "line 2: x without the rest"),
        ("p.csv", "image,x,y\na,,\n", "line 2 asks for nothing"),
        ("p.csv", "image,x,y,label\na,1,2,3\n", "line 2, point: the label 3"),
        ("p.csv", "image,x0,y0,x1,y1,label\na,1,2,3,4,1\n", "line 2: a label without x,y"),
        ("p.csv", "image,x,y,object\na,1,2,0\n", "line 2: the object 0"),
        ("p.csv", "image,x,y,object\na,1,2,1.5\n", "line 2: the object 1.5"),
        ("p.csv", "image,x,y,object\na,1,2,1\na,1,2,\n", "line 3 names no object"),
        (
            "p.csv",
            "image,x0,y0,x1,y1,object\na,1,2,3,4,1\na,1,2,3,4,1\n",
            "line 3 is a second box of object 1",
        ),
        ("p.csv", "image,id,x,y\na,b,1,2\n", "names an image and an id"),
        ("p.json", "[", "is not JSON"),
        ("p.json", "{}", "no list"),
        ("p.json", "[3]", "object 1 has other fields"),
        ("p.json", '[{"boxes": [1, 2, 3, 4]}]', "object 1 has other fields"),
        ("p.json", '[{"box": [1, 2, 3]}]', "object 1, box: expected 4"),
        ("p.json", '[{"points": [1, 2]}]', "object 1, point: expected"),
        ("p.json", '[{"points": [[1, 2]], "object": true}]', "the object True"),
        ("p.json", '[{"image": 3, "points": [[1, 2]]}]', "are text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError) as caught:
        read_prompts(tmp_path / name)
    assert words in caught.value.message
    assert name in caught.value.message


def test_a_mask_as_logits() -> None:
    """Certain inside and outside, even at the edge; the padding below is outside."""
    geometry = Geometry.fit(32, 64, 64, 8)
    bitmap = np.zeros((32, 64), bool)
    bitmap[:, :31] = True
    logits = logits_of_mask(bitmap, geometry, 32)
    assert (logits.shape, logits.dtype) == ((32, 32), np.float32)
    assert np.allclose(logits[:16, :15], np.log(999), atol=1e-3)
    assert np.allclose(logits[:16, 15], 0, atol=1e-6)
    assert np.allclose(logits[:16, 16:], -np.log(999), atol=1e-3)
    assert np.allclose(logits[16:], -np.log(999), atol=1e-3)


@pytest.fixture
def frozen(tiny_checkpoint: Path) -> tuple[object, ...]:
    return ("--checkpoint", tiny_checkpoint, "--model", "small")


def labels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_several_boxes_make_a_label_map(casam: Casam, discs: Path, frozen: tuple[object, ...]) -> None:
    image, boxes = discs / "images" / "p004.png", ("2,2,18,20", "20,25,38,46")
    alone = []
    for number, box in enumerate(boxes):
        casam("predict", image, "--box", box, *frozen, "--out", f"{number}.png")
        alone.append(labels(casam.folder / f"{number}.png") > 0)
    report = casam.json("predict", image, "--box", boxes[0], "--box", boxes[1], *frozen)
    assert casam.code == 0, casam.err
    found = labels(casam.folder / "mask.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found > 0, alone[0] | alone[1])
    winner = int(report["objects"][1]["score"] > report["objects"][0]["score"])
    np.testing.assert_array_equal(found == winner + 1, alone[winner])
    assert [one["area"] for one in report["objects"]] == [int(mask.sum()) for mask in alone]
    assert [one["box"] for one in report["objects"]] == [[2, 2, 18, 20], [20, 25, 38, 46]]
    assert json.loads((casam.folder / "mask.json").read_text()) == report
    casam("predict", image, "--box", boxes[0], "--box", boxes[1], *frozen, "--each", "--out", "e.png")
    for number in (1, 2):
        np.testing.assert_array_equal(labels(casam.folder / f"e_{number}.png") > 0, alone[number - 1])
    assert not (casam.folder / "e.png").exists()


def test_many_objects_need_sixteen_bits(casam: Casam, discs: Path, frozen: tuple[object, ...]) -> None:
    (casam.folder / "p.csv").write_text("x0,y0,x1,y1,object\n2,2,18,20,300\n20,25,38,46,1\n")
    casam("predict", discs / "images" / "p004.png", "--prompts", "p.csv", *frozen)
    assert casam.code == 0, casam.err
    assert set(np.unique(labels(casam.folder / "mask.png"))) <= {0, 1, 300}
    assert 300 in labels(casam.folder / "mask.png")


def test_a_point_that_is_not_the_object_decides_something(
    casam: Casam, discs: Path, frozen: tuple[object, ...]
) -> None:
    image, found = discs / "images" / "p004.png", []
    for number, last in enumerate(("30,40", "30,40,0", "30,40,1")):
        casam("predict", image, "--point", "9,9", "--point", last, *frozen, "--out", f"{number}.png")
        found.append((casam.folder / f"{number}.json").read_text().split('"predicted_iou"')[1].split(",")[0])
    assert found[0] == found[2] != found[1]


def test_a_folder_with_a_bad_image(casam: Casam, discs: Path, frozen: tuple[object, ...]) -> None:
    images = discs / "images"
    (images / "p007.png").write_text("not an image")
    (casam.folder / "p.csv").write_text(
        "image,x0,y0,x1,y1\np004.png,5,5,20,20\np007.png,5,5,20,20\np005,5,5,20,20\n"
        "p005,8,8,30,30\ngone.png,5,5,20,20\np006.png,5,5,500,20\n"
    )
    report = casam.json("predict", images, "--prompts", "p.csv", *frozen, "--out", "found")
    assert casam.code == 1
    assert [one["image"] for one in report["images"]] == ["p004.png", "p005.png"]
    assert sorted(one["image"] for one in report["failed"]) == ["gone.png", "p006.png", "p007.png"]
    for part in ("p007.png", "p.csv, line 7, box (5,5,500,20) is not inside", "no such image", "6 images of"):
        assert part in casam.err
    written = sorted(path.name for path in (casam.folder / "found").iterdir())
    assert written == sorted(f"p00{n}{end}" for n in (4, 5) for end in (".png", ".json", "_overlay.png"))
    assert set(np.unique(labels(casam.folder / "found" / "p005.png"))) <= {0, 1, 2}
    casam("predict", images, "--prompts", "p.csv", *frozen, "--out", "found")
    assert "exists" in casam.err
    casam("predict", images, "--box", "5,5,20,20", *frozen)
    assert "--prompts FILE" in casam.err


def test_one_image_of_a_file_of_many(casam: Casam, discs: Path, frozen: tuple[object, ...]) -> None:
    (casam.folder / "p.csv").write_text("image,x,y\np004.png,9,9\np005.png,9,9\n")
    casam("predict", discs / "images" / "p004.png", "--prompts", "p.csv", *frozen)
    assert casam.code == 0
    assert "1 other images are left out" in casam.err
    casam("predict", discs / "images" / "p003.png", "--prompts", "p.csv", *frozen, "--out", "b.png")
    assert casam.code == 1
    assert "no prompt is about p003.png" in casam.err


def test_two_images_of_one_name_are_not_written_over(
    casam: Casam, discs: Path, frozen: tuple[object, ...]
) -> None:
    Image.open(discs / "images" / "p004.png").save(discs / "images" / "p004.bmp")
    (casam.folder / "p.csv").write_text("image,x,y\np004.png,9,9\np004.bmp,9,9\n")
    casam("predict", discs / "images", "--prompts", "p.csv", *frozen)
    assert casam.code == 1
    assert "would both be written" in casam.err
    (casam.folder / "p.csv").write_text("image,x,y\np004,9,9\n")
    casam("predict", discs / "images", "--prompts", "p.csv", *frozen)
    assert "may be any of p004.bmp, p004.png" in casam.err


def test_mask_prompts(casam: Casam, discs: Path, frozen: tuple[object, ...]) -> None:
    image, mask = discs / "images" / "p004.png", discs / "masks" / "p004.png"
    first = casam.json("predict", image, "--mask", mask, *frozen)
    assert casam.code == 0, casam.err
    assert first["objects"][0]["mask_prompt"] == str(mask)
    bitmap = labels(mask) > 0
    geometry = Geometry.fit(*bitmap.shape, 64, 8)
    np.save(casam.folder / "m.npy", logits_of_mask(bitmap, geometry, 32)[None])
    second = casam.json("predict", image, "--mask", "m.npy", *frozen, "--out", "b.png")
    assert second["predicted_iou"] == first["predicted_iou"]
    np.testing.assert_array_equal(labels(casam.folder / "mask.png"), labels(casam.folder / "b.png"))
    casam("predict", image, "--mask", image, *frozen, "--out", "c.png")
    assert "is one object" in casam.err
    Image.new("L", (7, 7), 1).save(casam.folder / "small.png")
    casam("predict", image, "--mask", "small.png", *frozen, "--out", "c.png")
    assert "7 x 7 pixels, the image 40 x 48" in casam.err
    np.save(casam.folder / "m.npy", np.zeros((3, 3)))
    casam("predict", image, "--mask", "m.npy", *frozen, "--out", "c.png")
    assert "3 x 3, not 32 x 32" in casam.err


def test_items_of_a_store(casam: Casam, encode: Any, discs: Path) -> None:
    encode(discs)
    report = casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")
    image, run = discs / "images" / "p004.png", ("--run", report["run"])
    casam("predict", image, "--box", "5,5,30,30", *run)
    stored = ("--store", "casam_store", "--id", "p004", "--box", "5,5,30,30")
    found = casam.json("predict", *stored, *run, "--out", "s.png")
    assert casam.code == 0, casam.err
    assert (found["overlay"], found["image"], found["head"]) == (None, "p004", "alignment")
    assert "no overlay" in casam.err
    np.testing.assert_array_equal(labels(casam.folder / "s.png"), labels(casam.folder / "mask.png"))
    casam("predict", image, *stored, *run, "--out", "t.png")
    assert casam.code == 0, casam.err
    assert labels(casam.folder / "t_overlay.png").shape == (48, 40, 3)
    (casam.folder / "p.csv").write_text("id,x0,y0,x1,y1\np004,5,5,30,30\np999,1,1,5,5\n")
    zarr = casam.folder / "casam_store" / "discs" / "tiny.zarr"
    many = casam.json("predict", "--store", zarr, "--prompts", "p.csv", *run, "--out", "many")
    assert casam.code == 1
    assert [one["image"] for one in many["failed"]] == ["p999"]
    np.testing.assert_array_equal(
        labels(casam.folder / "many" / "p004.png") > 0, labels(casam.folder / "s.png") > 0
    )
    frozen = casam.json("predict", *stored, "--out", "f.png")
    assert (casam.code, frozen["head"]) == (0, "identity")


def test_a_folder_of_stores_of_several_tasks(casam: Casam, encode: Any, discs: Path, tmp_path: Path) -> None:
    encode(discs)
    encode(draw_dataset(tmp_path / "data" / "more", seed=1))
    stored = ("--store", "casam_store", "--id", "p004", "--box", "5,5,30,30")
    casam("predict", *stored)
    assert "choose one with --task: discs, more" in casam.err
    casam("predict", *stored, "--task", "more")
    assert casam.code == 0, casam.err
    casam("predict", "--id", "p004", "--box", "5,5,30,30")
    assert "nothing to segment" in casam.err


PAGE = (Path(__file__).parents[1] / "docs" / "predict.md").read_text()


def block(language: str) -> str:
    return PAGE.split(f"```{language}\n")[1].split("```")[0]


def test_the_pages_files_say_the_same(tmp_path: Path) -> None:
    found = []
    for name in ("csv", "json"):
        (tmp_path / f"p.{name}").write_text(block(name))
        read = read_prompts(tmp_path / f"p.{name}")
        found.append({image: [asked(prompt) for prompt in own] for image, own in read.items()})
    assert found[0] == found[1]
    assert found[0]["a.png"] == [(1, (10, 10, 60, 60), ((30, 30),), (0,), None)]


def test_the_pages_python_runs(casam: Casam, encode: Any, tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data" / "polyps", size=(96, 140))
    encode(root)
    report = casam.json("fit", "--task", "polyps", "--epochs", 1, "--set", "blocks=1")
    renamed = {
        "casam_runs/fit/KEY": report["run"],
        "new.png": str(root / "images" / "p004.png"),
        "small.zarr": "tiny.zarr",
        "case-017": "p004",
    }
    snippet = block("python")
    for said, here in renamed.items():
        assert said in snippet
        snippet = snippet.replace(said, here)
    names: dict[str, Any] = {}
    exec(compile(snippet, "predict.md", "exec"), names)
    assert names["first"].masks.shape == (1, 3, 96, 140)
    assert names["several"].objects.shape == (2, 96, 140)
