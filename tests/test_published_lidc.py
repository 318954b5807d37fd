"""LIDC-IDRI as it is distributed: DICOM series by pydicom, and the XML files of its readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from volume_files import phantom, write_series

from casam_cache.datasets import DatasetOptions, read_dataset, read_masks
from casam_cache.datasets.published.lidc import read_contours
from casam_cache.datasets.volumes import read_volume
from casam_cache.errors import ImageError

SHAPE = (24, 20, 5)  # columns, rows, slices


def edge(x0: int, y0: int, x1: int, y1: int) -> list[tuple[int, int]]:
    """The pixels of a rectangle's outline, one after another as in the files; the nodule is what is inside."""
    top, right = [(x, y0) for x in range(x0, x1)], [(x1, y) for y in range(y0, y1)]
    return [*top, *right, *((x, y1) for x in range(x1, x0, -1)), *((x0, y) for y in range(y1, y0, -1))]


def roi(uid: str, points: list[tuple[int, int]], inclusion: str = "TRUE") -> str:
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    return (
        f"<roi><imageZposition>-125.0 </imageZposition><imageSOP_UID>{uid}</imageSOP_UID>"
        f"<inclusion>{inclusion}</inclusion>{edges}</roi>"
    )


def message(readers: list[list[str]]) -> str:
    """A list of the ROIs of each reader's one nodule."""
    sessions = "".join(
        "<readingSession><annotationVersion>3.12</annotationVersion><servicingRadiologistID>anon</servicingRadiologistID>"
        + (
            f"<unblindedReadNodule><noduleID>1</noduleID>{''.join(rois)}</unblindedReadNodule>"
            if rois
            else ""
        )
        + "<nonNodule><nonNoduleID>7</nonNoduleID><locus><xCoord>1</xCoord><yCoord>1</yCoord></locus></nonNodule>"
        "</readingSession>"
        for rois in readers
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<LidcReadMessage uid="1.3.6.1.4.1.14519.5.2.1" '
        'xmlns="http://www.nih.gov"><ResponseHeader><TaskDescription>Second unblinded read</TaskDescription>'
        f"</ResponseHeader>{sessions}</LidcReadMessage>"
    )


def write_scan(folder: Path) -> list[str]:
    """A series; returns the UIDs of its pictures from the first slice to the last."""
    image, _ = phantom(0, SHAPE)
    paths = write_series(folder, image)
    found = {
        int(pydicom.dcmread(path).InstanceNumber): str(pydicom.dcmread(path).SOPInstanceUID) for path in paths
    }
    return [found[number] for number in sorted(found)]


@pytest.fixture
def lidc(tmp_path: Path) -> Path:
    """Two patients; four readers of the first agree in part, and one of them cut a hole; a chest radiograph beside."""
    root = tmp_path / "LIDC-IDRI"
    for number in (1, 2):
        folder = root / f"LIDC-IDRI-{number:04d}" / "01-01-2000-30178" / "3000566.000000-03192"
        uids = write_scan(folder)
        readers = [
            [roi(uids[2], edge(2, 3, 10, 9)), roi(uids[3], [(5, 5)])],
            [roi(uids[2], edge(4, 3, 12, 9)), roi(uids[2], edge(5, 4, 8, 7), "FALSE")],
            [roi(uids[1], edge(2, 2, 8, 8))],
            [],
        ]
        (folder / "069.xml").write_text(message(readers))
    radiograph = root / "LIDC-IDRI-0001" / "01-01-2000-35511" / "3000923.000000-62357"
    radiograph.mkdir(parents=True)
    (radiograph / "068.xml").write_text("<IdriReadMessage><CXRreadingSession/></IdriReadMessage>")
    return root


def test_a_nodule_is_what_half_of_the_readers_drew(lidc: Path) -> None:
    dataset = read_dataset(lidc)
    assert dataset.reader.name == "lidc"
    assert dataset.mask_mode == "binary"
    assert [sample.group for sample in dataset.samples] == ["LIDC-IDRI-0001", "LIDC-IDRI-0002"]
    (mask,) = read_masks(dataset, dataset.samples[0])
    expected = np.zeros((SHAPE[1], SHAPE[0]), bool)
    expected[4:9, 5:10] = True  # between the outlines of the first two
    expected[5:7, 6:8] = False  # the hole of the second
    np.testing.assert_array_equal(upright(lidc, mask.bitmap), expected)


def upright(root: Path, bitmap: np.ndarray) -> np.ndarray:
    """From how a radiologist looks at it to the pixels of the files."""
    from casam_cache.datasets.volumes import layout_of

    volume = read_volume(root / "LIDC-IDRI-0001" / "01-01-2000-30178" / "3000566.000000-03192")
    return layout_of(volume).plane_of(bitmap).T


def test_all_slices_come_when_asked(lidc: Path) -> None:
    dataset = read_dataset(lidc, DatasetOptions(slices="all"))
    assert len(dataset.samples) == 2 * SHAPE[2]
    with_mask = [sample.id for sample in dataset.samples if list(read_masks(dataset, sample))]
    assert len(with_mask) == 2, "one reader of four, and the middle of a small nodule, are none"


def test_contours_of_another_series_are_refused(lidc: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "other")
    file = next(lidc.rglob("069.xml"))
    with pytest.raises(ImageError, match="of another series"):
        read_contours(file, read_volume(tmp_path / "other"))


def test_a_damaged_file_is_a_problem_of_its_case(lidc: Path) -> None:
    next((lidc / "LIDC-IDRI-0002").rglob("069.xml")).write_text("<LidcReadMessage><readingSession>")
    dataset = read_dataset(lidc)
    assert [sample.group for sample in dataset.samples] == ["LIDC-IDRI-0001"]
    assert any("069.xml" in str(problem) and "damaged" in str(problem) for problem in dataset.problems)
