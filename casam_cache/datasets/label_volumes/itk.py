"""Label maps as MetaImage and NRRD by SimpleITK."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from casam_cache.datasets.extras import extra
from casam_cache.datasets.volumes import Volume
from casam_cache.datasets.volumes.orientation import LPS_TO_RAS


def itk_files(volume: Volume, labels: np.ndarray, out: Path) -> list[tuple[Path, bytes]]:
    """The files that SimpleITK writes for `out`: one, or two of a .mhd.

    Args:
        volume: the source, whose origin, spacing and directions they get.
        labels: (I, J, K) as its voxels.
        out: the file to write.

    Raises:
        ImageError: SimpleITK is not installed.
    """
    sitk = extra("SimpleITK", volume.path, "MetaImage and NRRD")
    image = sitk.GetImageFromArray(np.ascontiguousarray(labels.transpose(2, 1, 0)))
    lps = LPS_TO_RAS @ volume.affine
    spacing = np.array(volume.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    # SimpleITK writes to files alone, and a .mhd names its .raw: so under the same name elsewhere.
    with TemporaryDirectory() as folder:
        sitk.WriteImage(
            image, str(Path(folder) / out.name), useCompression=not out.name.lower().endswith(".mhd")
        )
        return [(out.with_name(path.name), path.read_bytes()) for path in sorted(Path(folder).iterdir())]
