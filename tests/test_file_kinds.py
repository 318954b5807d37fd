"""Files among images that are none are called by their name, with what to do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_cache.datasets import read_dataset
from casam_cache.datasets.file_kinds import kind_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in ("a", "b"):
            Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / kind / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [("v.nii.gz", "a NIfTI volume"), ("v.NII", "a NIfTI volume"), ("i.dcm", "a DICOM file"),
     ("v.mhd", "a MetaImage volume"), ("v.nrrd", "an NRRD volume"), ("s.svs", "a whole-slide image"),
     ("c.czi", "a microscope's own file"),
     ("p.HEIC", "an HEIC photograph"), ("m.mat", "a MATLAB file"), ("IM0001", "a DICOM file"),
     ("1.2.840", "a DICOM file")],
)  # fmt: skip
def test_a_kind_is_named(root: Path, name: str, said: str) -> None:
    (root / "images" / name).write_bytes(bytes(128) + b"DICM" + bytes(40))
    dataset = read_dataset(root)
    (problem,) = dataset.problems
    assert (problem.path, problem.severity) == (f"images/{name}", "error")
    assert problem.message == f"{said}, not read among image files"
    volume = said.split()[1] in ("NIfTI", "DICOM", "MetaImage", "NRRD")
    assert ("casam encode" in problem.hint) == volume
    assert len(dataset.samples) == 2


def test_other_files_are_ignored_as_before(root: Path) -> None:
    for name in ("README", "notes.txt", "a.xml", "x.1"):
        (root / "images" / name).write_text("text")
    assert {(p.message, p.severity) for p in read_dataset(root).problems} == {
        ("not an image by its suffix, ignored", "warning")
    }


def test_a_missing_library_gets_its_install_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casam_cache.datasets.file_kinds.find_spec", lambda name: None)
    (root / "images" / "v.nii.gz").write_bytes(b"x")
    (problem,) = read_dataset(root).problems
    assert "needs nibabel: pip install 'casam-cache[medical]'" in problem.hint


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "IM0001")
    assert kind_of(tmp_path / "IM0001") is None
    assert kind_of(tmp_path / "gone") is None
