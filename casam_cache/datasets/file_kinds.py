"""Files that are no images here, called by their name, with what to do about each kind."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from casam_cache.datasets.extras import INSTALL
from casam_cache.datasets.regular_files import check_regular
from casam_cache.errors import ImageError


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: for people, with its article.
        reader: the library that reads it as a volume; empty where none does.
    """

    name: str
    reader: str = ""

    @property
    def hint(self) -> str:
        if not self.reader:
            return "export it as PNG, TIFF or .npy"
        if find_spec(self.reader) is None:
            return f"reading it needs {self.reader}: {INSTALL}; volumes are read from a folder of their own"
        return "volumes are read from a folder of their own, beside their label volumes: casam encode on that folder"


_NIFTI, _DICOM = Kind("a NIfTI volume", "nibabel"), Kind("a DICOM file", "pydicom")
_META, _NRRD = Kind("a MetaImage volume", "SimpleITK"), Kind("an NRRD volume", "SimpleITK")
_SLIDE, _MICROSCOPE = Kind("a whole-slide image"), Kind("a microscope's own file")
_CAMERA, _HEIC = Kind("a camera's raw file"), Kind("an HEIC photograph")
_KINDS = {
    ".nii": _NIFTI, ".nii.gz": _NIFTI, ".dcm": _DICOM, ".dicom": _DICOM, ".ima": _DICOM,
    ".mha": _META, ".mhd": _META, ".nrrd": _NRRD, ".nhdr": _NRRD,
    ".svs": _SLIDE, ".ndpi": _SLIDE, ".mrxs": _SLIDE, ".scn": _SLIDE, ".vms": _SLIDE, ".bif": _SLIDE,
    ".czi": _MICROSCOPE, ".lif": _MICROSCOPE, ".nd2": _MICROSCOPE, ".oib": _MICROSCOPE, ".oif": _MICROSCOPE,
    ".vsi": _MICROSCOPE, ".lsm": _MICROSCOPE, ".zvi": _MICROSCOPE, ".ims": _MICROSCOPE,
    ".dng": _CAMERA, ".cr2": _CAMERA, ".cr3": _CAMERA, ".nef": _CAMERA, ".arw": _CAMERA,
    ".heic": _HEIC, ".heif": _HEIC,
    ".mat": Kind("a MATLAB file"), ".h5": Kind("an HDF5 file"), ".hdf5": Kind("an HDF5 file"),
    ".pt": Kind("a PyTorch file"), ".pth": Kind("a PyTorch file"), ".pkl": Kind("a pickled Python object"),
    ".svg": Kind("an SVG drawing"), ".pdf": Kind("a PDF document"), ".eps": Kind("an EPS drawing"),
}  # fmt: skip


def kind_of(path: Path) -> Kind | None:
    """What a file is that holds images, yet none that are read among image files; None where it is no such file.

    By its suffix; DICOM without one by its first bytes. Pipes and devices are not opened.
    """
    name = path.name.lower()
    found = next((kind for suffix, kind in _KINDS.items() if name.endswith(suffix)), None)
    if found is not None or not _bare(name):
        return found
    try:
        check_regular(path)
        with path.open("rb") as file:
            return _DICOM if file.read(132)[128:] == b"DICM" else None
    except (ImageError, OSError):
        return None


def _bare(name: str) -> bool:
    """Whether a name has no suffix, or one of digits as in 1.2.840.113619."""
    suffix = PurePosixPath(name).suffix
    return not suffix or suffix[1:].isdecimal()
