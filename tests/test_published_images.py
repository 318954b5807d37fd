"""Published datasets of image files, as they are distributed: KPIs, EBHI-SEG, CAMO, ISIC, STS-2D, BUSI, NuInsSeg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import Casam
from PIL import Image

from casam_cache.datasets import Dataset, DatasetOptions, find_reader, find_tasks, read_dataset, read_masks
from casam_cache.datasets.registry import READERS
from casam_cache.datasets.testing import ReaderContract
from casam_cache.errors import DatasetError

Write = Callable[[Path], Path]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (36, 44)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)


def square(path: Path, at: int = 8, size: tuple[int, int] = (36, 44), mode: str = "L") -> None:
    """A mask with one square of 8 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[at : at + 8, at : at + 8] = 255
    Image.fromarray(mask).convert(mode).save(path)


def kpis(root: Path, slides: dict[str, int], kind: str = "56Nx") -> Path:
    for slide, patches in slides.items():
        for n in range(patches):
            stem = f"{kind}_{slide}_{n}_{1024 * n}_0"
            picture(root / kind / slide / "img" / f"{stem}_img.jpg", n)
            square(root / kind / slide / "mask" / f"{stem}_mask.jpg")
    return root / kind


def ebhi(root: Path) -> Path:
    for place, (kind, biopsies) in enumerate({"Adenocarcinoma": 3, "High-grade IN": 2, "Normal": 2}.items()):
        for biopsy in range(biopsies):
            for n in (1, 2):
                name = f"GT20{place}{biopsy:04d}-1-400-00{n}.png"
                picture(root / kind / "image" / name, n)
                square(root / kind / "label" / name)
    return root


def camo(root: Path) -> Path:
    for n in range(1, 7):
        part = "Test" if n > 4 else "Train"
        picture(root / "Images" / part / f"camourflage_{n:05d}.jpg", n)
        square(root / "GT" / f"camourflage_{n:05d}.png")
    return root


def isic(root: Path) -> Path:
    for split, numbers in {"Training": (0, 1, 3), "Validation": (12,), "Test": (22, 23)}.items():
        images, masks = f"ISIC2018_Task1-2_{split}_Input", f"ISIC2018_Task1_{split}_GroundTruth"
        for n in numbers:
            picture(root / images / f"ISIC_{n:07d}.jpg", n)
            square(root / masks / f"ISIC_{n:07d}_segmentation.png")
        square(root / f"ISIC2018_Task2_{split}_GroundTruth_v3" / f"ISIC_{n:07d}_attribute_globules.png")
    return root


def sts(root: Path) -> Path:
    for part, letter in (("A-PXI", "A"), ("C-PXI", "C")):
        for n in range(1, 4):
            picture(root / part / "Labeled" / "Image" / f"{letter}_L_{n:03d}.png", n)
            square(root / part / "Labeled" / "Mask" / f"{letter}_L_{n:03d}.png", mode="1")
        picture(root / part / "Unlabeled" / "Image" / f"{letter}_U_001.png")
    return root


def busi(root: Path) -> Path:
    for kind in ("benign", "malignant", "normal"):
        for n in range(1, 5):
            picture(root / kind / f"{kind} ({n}).png", n)
            square(root / kind / f"{kind} ({n})_mask.png", 8)
        square(root / kind / f"{kind} (4)_mask_1.png", 24)
    return root


def nuinsseg(root: Path) -> Path:
    """Label maps of 32 bits, and the folders beside them that are not read."""
    for organ in ("human bladder", "mouse liver"):
        for n in (1, 2):
            name = f"{organ.replace(' ', '_')}_{n:02d}"
            picture(root / organ / "tissue images" / f"{name}.png", n)
            square(root / organ / "mask binary" / f"{name}.png")
            square(root / organ / "overlay" / f"{name}.png")
            labels = np.zeros((36, 44), np.int32)
            for nucleus in range(70):
                y, x = divmod(nucleus, 10)
                labels[4 * y + 1 : 4 * y + 4, 4 * x + 1 : 4 * x + 4] = nucleus + 1
            folder = root / organ / "label masks modify"
            folder.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / f"{name}.tif", labels)
    return root


def splits(dataset: Dataset) -> dict[str, str]:
    return {sample.id: sample.split for sample in dataset.samples}


def errors(dataset: Dataset) -> list[str]:
    return [str(problem) for problem in dataset.problems if problem.severity == "error"]


class PairContract(ReaderContract):
    """Images and masks by the paths that a set gives them."""

    image: str
    mask: str

    def write(self, folder: Path, name: str, seed: int) -> Path:
        # The folder of a class is known by two of them.
        for image, mask in ((self.image, self.mask), *self.beside):
            picture(folder / image.format(name), seed)
            square(folder / mask.format(name), 4 + seed % 8)
        return folder / self.image.format(name)

    beside: tuple[tuple[str, str], ...] = ()


class TestKpis(PairContract):
    reader = "kpis"
    image = "12_11{0}/img/56Nx_12_11{0}_4_4096_0_img.png"
    mask = "12_11{0}/mask/56Nx_12_11{0}_4_4096_0_mask.png"


class TestEbhi(PairContract):
    reader = "ebhi-seg"
    image, mask = "Polyp/image/GT{0}1-1.png", "Polyp/label/GT{0}1-1.png"
    beside = (("Low-grade IN/image/GT{0}2-1.png", "Low-grade IN/label/GT{0}2-1.png"),)


class TestCamo(PairContract):
    reader = "camo"
    image, mask = "Images/Train/a{0}.png", "GT/a{0}.png"
    beside = (("Images/Test/b{0}.png", "GT/b{0}.png"),)


class TestIsic(PairContract):
    reader = "isic"
    image = "ISIC2018_Task1-2_Training_Input/ISIC_{0}.png"
    mask = "ISIC2018_Task1_Training_GroundTruth/ISIC_{0}_segmentation.png"


class TestSts(PairContract):
    reader = "sts-2d"
    image, mask = "A-PXI/Labeled/Image/A_L_{0}.png", "A-PXI/Labeled/Mask/A_L_{0}.png"


class TestNuInsSeg(PairContract):
    reader = "nuinsseg"
    image, mask = "human liver/tissue images/h_{0}.png", "human liver/label masks modify/h_{0}.png"


@pytest.mark.parametrize(
    ("write", "reader", "images", "said"),
    [
        (lambda root: kpis(root, {"12_116": 2, "12_117": 1, "12_118": 2}), "kpis", 5, "56Nx"),
        (ebhi, "ebhi-seg", 14, "EBHI-SEG"),
        (camo, "camo", 6, "CAMO"),
        (isic, "isic", 6, "ISIC"),
        (sts, "sts-2d", 6, "STS-2D"),
        (nuinsseg, "nuinsseg", 4, "NuInsSeg"),
    ],
)
def test_it_is_recognised_by_its_layout(
    tmp_path: Path, write: Write, reader: str, images: int, said: str
) -> None:
    """Each by its own reader alone, every image with its mask, and in other processes as well."""
    root = write(tmp_path / "set")
    found = find_reader(root)
    assert found is not None
    assert found.name == reader
    published = [cls() for cls in READERS.all().values() if cls.precedence == 2]
    assert [other.name for other in published if other.recognises(root)] == [reader]
    dataset = read_dataset(root)
    assert len(dataset.samples) == images
    assert errors(dataset) == []
    assert dataset.notes[0].startswith(f"laid out as {said} is distributed")
    for sample in dataset.samples:
        assert list(read_masks(dataset, sample, (36, 44))), sample.id


def test_kpis_keeps_slides_together(tmp_path: Path) -> None:
    root = kpis(tmp_path, {f"12_{n}": 2 for n in range(6)})
    dataset = read_dataset(root)
    assert {sample.group for sample in dataset.samples} == {f"12_{n}" for n in range(6)}
    assert {sample.split for sample in dataset.samples} == {"train", "test"}
    assert dataset.mask_mode == "binary"


def test_kpis_takes_the_official_split_of_a_class(tmp_path: Path) -> None:
    """Training, validation and testing data as the archives unpack, beside each other."""
    for place, (archive, part) in enumerate(
        {"KPIs24 Training Data": "data", "KPIs24 Validation Data": "validation", "KPIs24 Testing Data": "test"}.items()
    ):  # fmt: skip
        for kind in ("56Nx", "DN"):
            kpis(tmp_path / "kpis" / archive / "Task1_patch_level" / part, {f"1{place}-299": 2}, kind)
        (tmp_path / "kpis" / archive / "Task2_WSI_level" / "DN").mkdir(parents=True)
    root = tmp_path / "kpis"
    options = DatasetOptions(dataset="DN")
    assert find_tasks(root, dataset="DN") == [root]
    dataset = read_dataset(root, options)
    assert dataset.task == "DN"
    assert dataset.split_source == "folders train/ and test/"
    assert len(dataset.samples) == 6
    assert all("DN" in sample.source for sample in dataset.samples)
    assert {sample.group: sample.split for sample in dataset.samples} == {
        "10-299": "train", "11-299": "val", "12-299": "test",
    }  # fmt: skip
    assert any("train / test images: 4 / 2; the paper has 724 / 391" in note for note in dataset.notes)
    with pytest.raises(DatasetError, match="holds the classes 56Nx, DN") as caught:
        read_dataset(root)
    assert "--dataset 56Nx" in caught.value.hint


def test_kpis_without_its_test_images_says_that_a_split_is_drawn(tmp_path: Path) -> None:
    for place, part in enumerate(("train", "validation")):
        kpis(tmp_path / "kpis" / "Task1_patch_level" / part, {f"1{place}-{n}": 2 for n in range(3)}, "DN")
    said = "its folders hold train and val images and none for test: a split is drawn over all"
    dataset = read_dataset(tmp_path / "kpis", DatasetOptions(dataset="DN"))
    assert [problem.message for problem in dataset.problems].count(said) == 1
    assert {sample.split for sample in dataset.samples} == {"train", "test"}
    whole = read_dataset(tmp_path / "kpis", DatasetOptions(dataset="DN", test_fraction=1))
    assert said not in [problem.message for problem in whole.problems]


def test_kpis_of_one_archive_is_a_task_a_class(tmp_path: Path) -> None:
    for kind in ("56Nx", "DN", "normal"):
        kpis(tmp_path / "data", {"12_116": 1, "12_117": 1}, kind)
    assert [folder.name for folder in find_tasks(tmp_path / "data")] == ["56Nx", "DN", "normal"]
    assert find_tasks(tmp_path / "data", dataset="DN") == [tmp_path / "data" / "DN"]


def test_slides_of_others_are_not_kpis(tmp_path: Path) -> None:
    """Folders of `img/` and `mask/` beside each other may be anybody's tasks."""
    for task in ("one", "two"):
        picture(tmp_path / "mine" / task / "img" / "a.png")
        square(tmp_path / "mine" / task / "mask" / "a.png")
    assert [folder.name for folder in find_tasks(tmp_path / "mine")] == ["one", "two"]
    for task in ("normal", "polyp"):
        picture(tmp_path / "other" / task / "image" / "a.png")
        square(tmp_path / "other" / task / "label" / "a.png")
    assert [folder.name for folder in find_tasks(tmp_path / "other")] == ["normal", "polyp"], "nor EBHI-SEG"


def test_ebhi_keeps_biopsies_together(tmp_path: Path) -> None:
    dataset = read_dataset(ebhi(tmp_path / "EBHI-SEG"))
    first = dataset.samples[0]
    assert (first.id, first.group) == ("Adenocarcinoma/GT2000000-1-400-001", "GT2000000")
    assert len({sample.group for sample in dataset.samples}) == 7
    assert any("the paper has 1,701 / 487" in note for note in dataset.notes), "the folder has the set's name"


def test_a_folder_that_goes_by_another_of_its_names_is_the_set(tmp_path: Path) -> None:
    assert read_dataset(isic(tmp_path / "ISIC2018")).notes[0] == "laid out as ISIC is distributed"
    assert "--dataset ISIC names it so" in read_dataset(isic(tmp_path / "skin")).notes[0]


def test_camo_has_its_split_and_masks_of_both_folders(tmp_path: Path) -> None:
    root = camo(tmp_path / "CAMO-V.1.0-CVIU2019")
    square(root / "GT" / "camourflage_99999.png")
    dataset = read_dataset(root)
    assert dataset.split_source == "folders train/ and test/"
    assert splits(dataset)["Test/camourflage_00006"] == "test"
    assert splits(dataset)["Train/camourflage_00004"] == "train"
    assert {problem.path for problem in dataset.problems} == {"GT/camourflage_99999.png"}
    whole = read_dataset(root, DatasetOptions(test_fraction=1))
    assert set(splits(whole).values()) == {"test"}


def test_isic_has_its_three_splits_and_the_first_task_only(tmp_path: Path) -> None:
    dataset = read_dataset(isic(tmp_path / "ISIC2018"))
    assert splits(dataset) == {
        "test/ISIC_0000022": "test", "test/ISIC_0000023": "test", "train/ISIC_0000000": "train",
        "train/ISIC_0000001": "train", "train/ISIC_0000003": "train", "val/ISIC_0000012": "val",
    }  # fmt: skip
    assert dataset.problems == ()


def test_isic_2017_has_superpixels_that_are_no_images(tmp_path: Path) -> None:
    for n in range(4):
        picture(tmp_path / "ISIC-2017_Training_Data" / f"ISIC_{n:07d}.jpg", n)
        picture(tmp_path / "ISIC-2017_Training_Data" / f"ISIC_{n:07d}_superpixels.png", n)
        square(tmp_path / "ISIC-2017_Training_Part1_GroundTruth" / f"ISIC_{n:07d}_segmentation.png")
    dataset = read_dataset(tmp_path, reader="isic")
    assert len(dataset.samples) == 4
    assert dataset.problems == ()
    assert dataset.split_source.startswith("seeded")
    picture(tmp_path / "ISIC2018_Task1-2_Training_Input" / "ISIC_0000009.jpg")
    with pytest.raises(
        DatasetError, match=r"both ISIC-2017_Training_Data and ISIC2018_Task1-2_Training_Input"
    ):
        read_dataset(tmp_path, reader="isic")


def test_sts_reads_images_without_masks_when_asked(tmp_path: Path) -> None:
    root = sts(tmp_path / "SD-Tooth" / "STS-2D-Tooth").parent
    options = DatasetOptions(dataset="STS-2D")
    (folder,) = find_tasks(root, dataset="STS-2D")
    dataset = read_dataset(folder, options)
    assert dataset.notes[-1] == "2 images in Unlabeled/ are not read; --unlabelled reads them too"
    assert dataset.mask_mode == "binary"
    assert "A-PXI/A_L_001" in splits(dataset)
    whole = read_dataset(folder, DatasetOptions(dataset="STS-2D", unlabelled=True))
    assert [sample.id for sample in whole.samples if not sample.labelled] == [
        "A-PXI/Unlabeled/Image/A_U_001", "C-PXI/Unlabeled/Image/C_U_001",
    ]  # fmt: skip
    assert any("train / test images:" in note and "1,700 / 70" in note for note in dataset.notes)


def test_busi_is_three_tasks_with_an_object_a_file(tmp_path: Path) -> None:
    root = busi(tmp_path / "Dataset_BUSI_with_GT")
    assert [folder.name for folder in find_tasks(root)] == ["benign", "malignant", "normal"]
    (folder,) = find_tasks(root, dataset="BUSI_malignant")
    with pytest.raises(DatasetError, match="the folder of BUSI_malignant, not of BUSI_benign"):
        find_tasks(folder, dataset="BUSI_benign")
    dataset = read_dataset(folder, DatasetOptions(dataset="BUSI_malignant"))
    assert dataset.task == "BUSI_malignant"
    masks = {sample.id: len(list(read_masks(dataset, sample, (36, 44)))) for sample in dataset.samples}
    assert masks == {f"malignant ({n})": 2 if n == 4 else 1 for n in range(1, 5)}


def test_nuinsseg_has_a_number_a_nucleus(tmp_path: Path) -> None:
    dataset = read_dataset(nuinsseg(tmp_path / "NuInsSeg"))
    assert (dataset.mask_mode, dataset.mask_reason) == ("instances", "as this data set has them")
    masks = list(read_masks(dataset, dataset.samples[0], (36, 44)))
    assert [(mask.class_id, mask.instance) for mask in masks] == [(1, n) for n in range(1, 71)]
    assert dataset.problems == ()


def test_a_table_of_ones_own_counts(tmp_path: Path) -> None:
    """A split.csv beside a published set is the split, and a pattern finds other groups."""
    root = ebhi(tmp_path / "EBHI-SEG")
    ids = [sample.id for sample in read_dataset(root).samples]
    (root / "split.csv").write_text("id,split\n" + "".join(f"{id},test\n" for id in ids))
    assert set(splits(read_dataset(root)).values()) == {"test"}
    grouped = read_dataset(root, DatasetOptions(group_regex="^([^/]+)/", split_by="drawn"))
    assert {sample.group for sample in grouped.samples} == {"Adenocarcinoma", "High-grade IN", "Normal"}


def test_they_encode_by_name(tmp_path: Path, casam: Casam, tiny_checkpoint: Path) -> None:
    camo(tmp_path / "download" / "CAMO-V.1.0-CVIU2019")
    model = ("--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")
    (report,) = casam.json("encode", tmp_path / "download", *model, "--dataset", "camo")["tasks"]
    assert (report["task"], report["encoded"], report["masks"]) == ("CAMO", 6, 6)
    assert "CAMO: CAMO, in the layout in which it is distributed" in casam.err
    (again,) = casam.json("encode", tmp_path / "download", *model, "--dataset", "camo")["tasks"]
    assert again["skipped"] == 6
