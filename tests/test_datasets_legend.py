"""Legends: files that name classes by colours or values, and masks read by them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_cache.datasets import Dataset, DatasetOptions, check_dataset, read_dataset, read_masks
from casam_cache.datasets.legend import read_legend
from casam_cache.errors import OptionError

COLOURS = {"sky": (128, 128, 128), "road": (128, 64, 128), "car": (64, 0, 128)}
WANTED = (("sky", "#808080"), ("road", "#804080"), ("car", "#400080"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "name,r,g,b\nsky,128,128,128\nroad,128,64,128\ncar,64,0,128\n"),
        ("b.csv", "sky,#808080\nroad,#804080\n\ncar,#400080"),
        ("c.txt", "128 128 128\tsky\n128 64 128\troad\n64 0 128\tcar\n".replace("\t", " ")),
        ("d.txt", "# a comment\n#808080 sky\n#804080 road\n#400080 car\n"),
        ("e.json", '{"sky": "#808080", "road": [128, 64, 128], "car": "#400080"}'),
        (
            "f.json",
            '[{"name": "sky", "color": "#808080"}, ["road", "#804080"], {"label": "car", "rgb": [64, 0, 128]}]',
        ),
    ],
)
def test_ways_to_write_a_legend(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_legend(tmp_path / name) == WANTED


def test_names_of_several_words_and_values(tmp_path: Path) -> None:
    path = tmp_path / "legend.txt"
    path.write_text("0 0 0 Void\n192 128 128 Sign Symbol\n")
    assert read_legend(path) == (("Void", "#000000"), ("Sign Symbol", "#c08080"))
    path.write_text("id,name\n1,liver\n2,left kidney\n")
    assert read_legend(path) == (("liver", "1"), ("left kidney", "2"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sky,#808080\nroad\n", "line 2: 'road' says no class"),
        ("sky,#808080\nroad,#808080\n", "'road' and 'sky'"),
        ("sky,#808080\nroad,7\n", "mixed"),
        ("", "lists no class"),
        ("{", "no JSON"),
        ('{"sky": null}', "says no class"),
    ],
)
def test_wrong_legends(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "legend").write_text(text)
    with pytest.raises(OptionError, match=match):
        DatasetOptions(legend=str(tmp_path / "legend"))
    with pytest.raises(OptionError, match="cannot be read"):
        DatasetOptions(legend=str(tmp_path / "nowhere"))


def paint(*names: str) -> np.ndarray:
    found = np.zeros((24, 24, 3), np.uint8)
    for number, name in enumerate(names):
        found[4 * number : 4 * number + 4] = COLOURS.get(name, (9, 8, 7))
    return found


def write(root: Path, *masks: Image.Image) -> Path:
    for number, mask in enumerate(masks):
        image = np.random.default_rng(number).integers(0, 256, (24, 24), dtype=np.uint8)
        for kind, one in (("images", Image.fromarray(image)), ("masks", mask)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            one.save(root / kind / f"{number}.png")
    return root


def read(root: Path, text: str, **options: str) -> Dataset:
    path = root / "legend.csv"
    path.write_text(text)
    return read_dataset(root, DatasetOptions(legend=str(path), **options))


TEXT = "car,#400080\nsky,#808080\nroad,#804080\n"


def test_classes_are_numbered_by_the_legend(tmp_path: Path) -> None:
    pictures = [Image.fromarray(paint(*names)) for names in (("sky", "car"), ("sky",), ("road", "fence"))]
    index = Image.fromarray(np.repeat(np.uint8([[0], [5]]), 12, 0).repeat(24, 1)).convert("P")
    index.putpalette([0, 0, 0] * 5 + [64, 0, 128])
    index.putdata(np.repeat(np.uint8([0, 5]), 12 * 24).tolist())
    dataset = read(write(tmp_path / "set", *pictures, index), TEXT)
    numbers = [[mask.class_id for mask in read_masks(dataset, dataset.samples[n])] for n in (0, 1, 3)]
    assert numbers == [[1, 2], [2], [1]]
    (line,) = dataset.problems
    assert (line.severity, line.path) == ("error", "masks/2.png")
    assert "#090807 not in the legend" in line.message
    assert dataset.values.class_names == {1: "car", 2: "sky", 3: "road"}
    assert {entry.class_id: entry.name for entry in check_dataset(dataset).classes} == {1: "car", 2: "sky"}
    kept = DatasetOptions(test_fraction=0.2).over(dataset.options.to_json())
    assert kept.legend == dataset.options.legend


def test_the_background_of_a_legend_takes_no_number(tmp_path: Path) -> None:
    root = write(tmp_path / "set", Image.fromarray(paint("sky", "road", "car")))
    black = read(root, "car,#400080\nVoid,#000000\nsky,#808080\nroad,#804080\n")
    assert black.values.class_names == {1: "car", 2: "sky", 3: "road"}
    named = read(root, "Background,#808080\ncar,#400080\nroad,#804080\nVoid,#000000\n")
    assert named.values.class_names == {1: "car", 2: "road", 3: "Void"}
    found = {mask.class_id: mask.bitmap for mask in read_masks(named, named.samples[0])}
    np.testing.assert_array_equal(found[3], (paint("sky", "road", "car") == 0).all(-1))
    ignoring = read(root, TEXT, ignore="#804080")
    assert [mask.class_id for mask in read_masks(ignoring, ignoring.samples[0])] == [1, 2]


def test_a_legend_of_values_keeps_them(tmp_path: Path) -> None:
    labels = np.repeat(np.uint8([0, 3, 7]), 8)[:, None].repeat(24, 1)
    dataset = read(write(tmp_path / "set", Image.fromarray(labels)), "spleen,7\nliver,3\n")
    assert dataset.values.class_names == {7: "spleen", 3: "liver"}
    assert [mask.class_id for mask in read_masks(dataset, dataset.samples[0])] == [3, 7]
    assert "7 not in the legend" in " ".join(map(str, read(tmp_path / "set", "liver,3\n").problems))
