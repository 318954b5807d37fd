"""`casam predict` of volumes: slice by slice what images give, written onto the voxels it came from."""

from __future__ import annotations

import json
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
import tifffile
from conftest import Casam
from PIL import Image
from volume_files import dicom_slice, oblique, phantom, write_nifti, write_series

from casam_cache.bench.objects import Objects
from casam_cache.bench.predict import Predictor
from casam_cache.bench.prompt_file import read_prompts
from casam_cache.datasets.images import to_rgb
from casam_cache.datasets.volumes import layout_of, read_volume
from casam_cache.datasets.volumes.layout import picture
from casam_cache.datasets.volumes.windows import volume_window
from casam_cache.errors import OptionError


@pytest.fixture
def ct(casam: Casam) -> Path:
    """An oblique NIfTI volume of 20 x 16 x 7 voxels whose first axis runs backwards."""
    return write_nifti(casam.folder / "ct.nii.gz", phantom()[0], oblique(flip="i"))


@pytest.fixture
def model(tiny_checkpoint: Path) -> tuple[object, ...]:
    return ("--model", "small", "--checkpoint", tiny_checkpoint)


def by_hand(path: Path, checkpoint: Path, axis: str, boxes: dict[int, tuple[int, ...]]) -> np.ndarray:
    """Bool (I, J, K): the mask of a box a slice, each slice given to a predictor as an array."""
    volume = read_volume(path)
    layout = layout_of(volume, axis)
    predictor = Predictor(model="small", checkpoint=checkpoint)
    voxels = np.zeros(volume.shape, bool)
    for index, box in boxes.items():
        image = to_rgb(picture(volume, layout, index), path, volume_window(volume, "auto"))
        layout.place(voxels, index, predictor.set_image(image).predict(boxes=box).mask)
    return voxels


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_a_box_in_three_dimensions(casam: Casam, ct: Path, model, tiny_checkpoint: Path, axis: str) -> None:
    report = casam.json("predict", ct, "--box", "2,1,1,6,5,4", "--axis", axis, *model)
    expected = by_hand(ct, tiny_checkpoint, axis, dict.fromkeys(range(1, 5), (2, 1, 6, 5)))
    assert expected.any()
    source, found = nibabel.load(ct), nibabel.load(casam.folder / "mask.nii.gz")
    assert np.array_equal(np.asarray(found.dataobj), expected)
    assert np.array_equal(found.affine, source.affine)
    assert found.get_data_dtype() == np.uint8
    assert (report["plane"], report["slices"], report["voxels"]) == (axis, [1, 2, 3, 4], expected.sum())
    [entry] = report["objects"]
    assert entry["ml"] == pytest.approx(expected.sum() * 0.8 * 0.9 * 2.5 / 1000)
    assert json.loads((casam.folder / "mask.json").read_text()) == report
    with Image.open(casam.folder / "mask_overlay.png") as overlay:
        assert overlay.width > 100
    casam("predict", ct, "--box", "2,1,6,5", "--slices", "1-4", "--axis", axis, "--out", "same.nii", *model)
    assert np.array_equal(np.asarray(nibabel.load(casam.folder / "same.nii").dataobj), expected)
    assert "4 of" in casam.err


def test_a_window_is_of_the_frozen_sam_or_of_the_run(casam: Casam, ct: Path, model) -> None:
    report = casam.json("predict", ct, "--box", "2,1,9,8", "--window=-50,250", *model)
    assert report["window"] == [-50, 250]
    casam("predict", ct, "--box", "2,1,9,8", "--window=-50,250", "--run", "somewhere")
    assert "--window beside a run" in casam.err


def test_a_box_for_all_slices(casam: Casam, ct: Path, model, tiny_checkpoint: Path) -> None:
    casam("predict", ct, "--box", "2,1,9,8", *model)
    expected = by_hand(ct, tiny_checkpoint, "axial", dict.fromkeys(range(7), (2, 1, 9, 8)))
    assert np.array_equal(np.asarray(nibabel.load(casam.folder / "mask.nii.gz").dataobj), expected)


def test_a_box_a_slice_is_one_object(casam: Casam, ct: Path, model, tiny_checkpoint: Path) -> None:
    boxes = {2: (2, 1, 9, 8), 3: (3, 2, 10, 9), 5: (1, 1, 6, 6)}
    lines = [f"{slice_},{','.join(map(str, box))}" for slice_, box in boxes.items()]
    (casam.folder / "p.csv").write_text("\n".join(["slice,x0,y0,x1,y1", *lines]) + "\n")
    report = casam.json("predict", ct, "--prompts", "p.csv", *model)
    expected = by_hand(ct, tiny_checkpoint, "axial", boxes)
    assert np.array_equal(np.asarray(nibabel.load(casam.folder / "mask.nii.gz").dataobj), expected)
    assert [(entry["object"], entry["slices"]) for entry in report["objects"]] == [(1, 3)]


def test_objects_share_a_label_map_and_the_higher_score_has_what_both_want(
    casam: Casam, ct: Path, model, tiny_checkpoint: Path
) -> None:
    asked = [
        {"image": "ct", "object": 7, "box": [2, 1, 2, 9, 8, 4]},
        {"image": "ct", "object": 300, "slice": [3, 5], "box": [2, 1, 10, 9]},
        {"image": "ct", "object": 300, "slice": 4, "points": [[6, 6, 0]]},
    ]
    (casam.folder / "p.json").write_text(json.dumps(asked))
    report = casam.json("predict", ct, "--prompts", "p.json", *model)
    labels = np.asarray(nibabel.load(casam.folder / "mask.nii.gz").dataobj)
    assert labels.dtype == np.uint16
    volume, predictor = read_volume(ct), Predictor(model="small", checkpoint=tiny_checkpoint)
    layout, window = layout_of(volume, "axial"), volume_window(volume, "auto")
    predictor.set_image(to_rgb(picture(volume, layout, 3), ct, window))
    seven = predictor.predict(boxes=(2, 1, 9, 8))
    other = predictor.predict(boxes=(2, 1, 10, 9))
    first, last = (seven, other) if seven.predicted_iou > other.predicted_iou else (other, seven)
    numbers = (7, 300) if first is seven else (300, 7)
    assert (first.mask & last.mask).any(), "nothing overlaps"
    expected = np.where(first.mask, numbers[0], np.where(last.mask, numbers[1], 0))
    assert np.array_equal(layout.picture(labels[:, :, 3]), expected)
    assert [entry["slices"] for entry in report["objects"]] == [3, 3]

    casam("predict", ct, "--prompts", "p.json", "--each", "--out", "own.nii.gz", *model)
    whole = layout.picture(np.asarray(nibabel.load(casam.folder / "own_7.nii.gz").dataobj)[:, :, 3])
    assert np.array_equal(whole, seven.mask), "what lies under another object is its own too"
    assert (casam.folder / "own_300.nii.gz").exists()
    assert not (casam.folder / "own.nii.gz").exists()


def test_a_dicom_series_gets_a_dicom_seg(casam: Casam, model, tiny_checkpoint: Path) -> None:
    voxels = np.abs(phantom()[0])
    write_series(casam.folder / "series", voxels, oblique(flip="k"))
    casam("predict", "series", "--box", "2,1,1,9,8,4", *model)
    assert casam.code == 0, casam.err
    seg = highdicom.seg.segread(casam.folder / "mask.dcm")
    volume = read_volume(casam.folder / "series")
    expected = by_hand(
        casam.folder / "series", tiny_checkpoint, "axial", dict.fromkeys(range(1, 5), (2, 1, 9, 8))
    )
    uids = [plane.uid for plane in volume.planes]
    frames = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(frames.transpose(2, 1, 0), expected)
    (casam.folder / "series" / "photo.png").write_bytes(b"")
    casam("predict", "series", "--box", "2,1,1,9,8,4", *model)
    assert casam.code == 1
    assert "a series, or a folder of images" in casam.err


def test_what_cannot_be_a_dicom_seg_is_said_first_or_left_out(casam: Casam, model) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 20, 16), dtype=np.uint8)
    dicom_slice(casam.folder / "us.dcm", pixels, SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1")
    casam("predict", "us.dcm", "--box", "2,1,1,9,8,3", *model)
    assert casam.code == 1
    assert "no DICOM-SEG can be made" in casam.err
    assert "predict us.dcm" not in casam.err, "nothing was computed"
    casam("predict", "us.dcm", "--box", "2,1,1,9,8,3", "--out", "us.nii.gz", *model)
    assert casam.code == 0, casam.err
    assert nibabel.load(casam.folder / "us.nii.gz").shape == (16, 20, 4)


def test_nothing_found_in_a_series_is_said(casam: Casam, model, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(casam.folder / "series", phantom()[0])
    nothing = Objects(np.zeros((16, 20), np.uint16), (0.1,), (0,), "identity", "", None)
    monkeypatch.setattr("casam_cache.report.volume_predictions.segment", lambda *_: nothing)
    report = casam.json("predict", "series", "--box", "2,1,1,9,8,1", "--out", "none.dcm", *model)
    assert report["voxels"] == 0
    assert report["mask"] is None
    assert "no voxel was predicted" in report["notes"][0]
    assert not (casam.folder / "none.dcm").exists()


def test_a_stack_of_pages_gets_a_stack_of_labels(casam: Casam, model) -> None:
    pages = np.random.default_rng(3).integers(0, 255, (4, 30, 22), dtype=np.uint8)
    tifffile.imwrite(casam.folder / "stack.tif", pages, photometric="minisblack")
    casam("predict", "stack.tif", "--box", "3,4,1,15,20,2", *model)
    assert casam.code == 0, casam.err
    labels = tifffile.imread(casam.folder / "mask.tif")
    assert labels.shape == pages.shape
    for page in range(4):
        Image.fromarray(pages[page]).save(casam.folder / "page.png")
        casam("predict", "page.png", "--box", "3,4,15,20", "--overwrite", *model)
        alone = np.asarray(Image.open(casam.folder / "mask.png")) > 0
        assert np.array_equal(labels[page], alone if page in (1, 2) else np.zeros_like(alone))
    casam("predict", "stack.tif", "--box", "3,4,15,20", "--axis", "axial", "--out", "b.tif", *model)
    assert casam.code == 1
    assert "does not say how it lies" in casam.err


def test_an_array_is_an_image_or_a_stack_of_them(casam: Casam, model) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (4, 30, 22), dtype=np.uint8)
    np.save(casam.folder / "stack.npy", pixels)
    np.save(casam.folder / "flat.npy", pixels[2])
    casam("predict", "stack.npy", "--box", "3,4,2,15,20,2", *model)
    assert casam.code == 0, casam.err
    casam("predict", "flat.npy", "--box", "3,4,15,20", "--overwrite", *model)
    assert casam.code == 0, casam.err
    labels = np.load(casam.folder / "mask.npy")
    assert np.array_equal(labels[2] > 0, np.asarray(Image.open(casam.folder / "mask.png")) > 0)
    assert not labels[[0, 1, 3]].any()


WRONG = [
    (("--box", "2,1,5,9,8,7"), ("slices 5 to 7", "7 axial slices, 0 to 6")),
    (("--box", "2,1,5,9,8,2"), ("5 to 2", "first not above the last")),
    (("--box", "2,1,0.5,9,8,2"), ("0.5 to 2",)),
    (("--box", "2,1,90,8"), ("2,1,90,8", "20 x 16")),
    (("--box", "2,1,9,8", "--slices", "3-9"), ("--slices 3-9", "0 to 6")),
    (("--box", "2,1,9,8", "--slices", "x"), ("--slices", "no slice")),
    (("--box", "2,1,9,8", "--axis", "up"), ("unknown axis 'up'",)),
    (("--box", "2,1,9,8", "--channels", "3"), ("no channel 3",)),
    (("--box", "2,1,9,8", "--out", "mask.png"), ("mask.png", ".nii.gz")),
    (("--box", "2,1,9,8", "--out", "mask.dcm"), ("mask.dcm", ".nii.gz")),
    (("--box", "2,1,9,8", "--out", "nowhere/mask.nii"), ("nowhere",)),
    (("--point", "5,5"), ("--point says no slice", "--slices")),
    ((), ("no prompt",)),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_what_is_wrong_is_said_before_anything_is_computed(
    casam: Casam, ct: Path, model, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    casam("predict", ct, *options, *model)
    assert casam.code == 1
    for word in words:
        assert word in casam.err
    assert "Traceback" not in casam.err
    assert [path.name for path in casam.folder.iterdir()] == ["ct.nii.gz"]


def test_slices_are_of_volumes_and_files_stay(casam: Casam, ct: Path, discs: Path, model) -> None:
    image = discs / "images" / "p004.png"
    casam("predict", image, "--box", "2,1,1,9,8,4", *model)
    assert "is about slices" in casam.err
    casam("predict", image, "--box", "2,1,9,8", "--slices", "3", *model)
    assert "--slices: " in casam.err
    (casam.folder / "p.csv").write_text(f"image,slice,x0,y0,x1,y1\n{image.name},1,2,1,9,8\n")
    casam("predict", image, "--prompts", "p.csv", *model)
    assert "p.csv, line 2" in casam.err
    (casam.folder / "mask.nii.gz").write_bytes(b"precious")
    casam("predict", ct, "--box", "2,1,9,8", *model)
    assert casam.code == 1
    assert "mask.nii.gz exists" in casam.err
    assert (casam.folder / "mask.nii.gz").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slice,x0,y0,x1,y1\n1,1,2,3,4\n1,5,6,7,8\n", ("line 2", "line 3", "same slice", "object")),
        ("slice,x0,y0,x1,y1\n1-4,1,2,3,4\n3,5,6,7,8\n", ("same slice",)),
        ("slice,x0,y0,x1,y1\n,1,2,3,4\n3,5,6,7,8\n", ("same slice",)),
        ("slice,x0,y0,x1,y1,object\n1,1,2,3,4,1\n3,5,6,7,8,\n", ("line 3", "names no object")),
        ("slice,x0,y0,x1,y1\n4-1,1,2,3,4\n", ("4-1 is no slice",)),
        ("slice,x0,y0,z0,x1,y1,z1\n2,1,2,0,3,4,5\n", ("twice",)),
        ("x0,y0,z0,x1,y1,z1\n1,2,,3,4,5\n", ("without the rest",)),
    ],
)
def test_a_table_of_slices_that_says_too_little(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(OptionError) as error:
        read_prompts(tmp_path / "p.csv")
    for word in words:
        assert word in str(error.value)


def test_a_folder_of_volumes_is_predicted_one_by_one(casam: Casam, model) -> None:
    for name in ("a", "b"):
        write_nifti(casam.folder / "cts" / f"{name}.nii.gz", phantom()[0])
    (casam.folder / "p.csv").write_text("image,slice,x0,y0,x1,y1\na,2,1,2,9,8\nb.nii.gz,3,1,2,9,8\n")
    casam("predict", "cts", "--prompts", "p.csv", *model)
    assert casam.code == 1
    assert "cts holds volumes" in casam.err
    assert "casam predict cts/a.nii.gz" in casam.err
    for name, index in (("a", 2), ("b", 3)):
        report = casam.json(
            "predict", f"cts/{name}.nii.gz", "--prompts", "p.csv", "--out", f"{name}.nii", *model
        )
        assert report["slices"] == [index]


def test_two_boxes_of_one_object_on_a_slice_are_refused(casam: Casam, ct: Path, model) -> None:
    (casam.folder / "p.csv").write_text("slice,x0,y0,x1,y1,object\n1-4,1,2,3,4,1\n3,5,6,7,8,1\n")
    casam("predict", ct, "--prompts", "p.csv", *model)
    assert casam.code == 1
    assert "second box of object 1" in casam.err
