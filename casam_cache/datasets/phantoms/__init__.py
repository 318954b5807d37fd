"""Phantoms: small procedural datasets in the layout of real ones, for the demo, the tests and first steps.

Nine tasks and three unseen domains of clearly different look, each with a target of its own: a wall between two
chambers, one half of a structure, a ball with the gap around it. Nothing in them comes from a patient; every name
starts with `phantom-`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from casam_cache.datasets.phantoms import drawings
from casam_cache.datasets.phantoms.looks import LOOKS, Look, render
from casam_cache.errors import DatasetError
from casam_cache.fingerprint import generator

__all__ = ["TASKS", "UNSEEN", "Phantom", "draw_phantom", "write_phantoms"]

EMPTY_SHARE, TEST_SHARE = 0.08, 0.35


@dataclass(frozen=True)
class Phantom:
    """One procedural task: what is drawn, how it looks, and the range of its sizes."""

    name: str
    draw: Callable[[drawings.Slide], None]
    look: Look
    sizes: tuple[tuple[int, int], ...]


def _look(
    name: str,
    base: tuple[float, ...] = (0.4, 0.4, 0.4),
    axes: tuple[tuple[float, ...], ...] = ((1.0, 1.0, 1.0),),
    **changed: float,
) -> Look:
    quiet: dict[str, float] = {
        "contrast": 0.15, "grain": 0.03, "unit": 0.012, "softness": 0.006, "blur": 0.002, "noise": 0.02, "speckle": 0.0,
        "shading": 0.15, "vignette": 0.0, "highlights": 0.0, "coarse": 1.0, "gamma": 1.0, "outside": 0.02,
    }  # fmt: skip
    return Look(
        kind=LOOKS.index(name), base=np.array(base, np.float32), axes=np.array(axes, np.float32), view=0,
        **{**quiet, **changed},
    )  # fmt: skip


_PURPLE = ((0.8, 0.72, 0.85), ((0.9, 1.2, 0.6), (0.6, -0.3, -0.2)))
_BROWN = ((0.78, 0.74, 0.66), ((0.9, 1.0, 1.1), (0.7, 0.0, -0.8)))
_RED = ((0.7, 0.36, 0.26), ((1.0, 0.8, 0.7), (0.3, -0.4, -0.3)))
_GREEN = ((0.02, 0.06, 0.03), ((0.3, 1.2, 0.4),))
_STREET = ((0.55, 0.6, 0.66), ((1.0, 1.0, 1.0), (0.8, -0.4, -0.4), (-0.2, 0.3, -0.6)))

TASKS: tuple[Phantom, ...] = (
    Phantom(
        "phantom-cardiac-mr",
        drawings.draw_cardiac,
        _look("mr", noise=0.03, shading=0.35),
        ((216, 256), (224, 192), (208, 208)),
    ),
    Phantom(
        "phantom-caries-xray",
        drawings.draw_caries,
        _look("xray", (0.42,) * 3, blur=0.008, shading=0.5, softness=0.02),
        ((192, 256), (176, 256)),
    ),
    Phantom(
        "phantom-glands-he",
        drawings.draw_glands,
        _look("stain-purple", *_PURPLE, noise=0.015),
        ((224, 224), (192, 256)),
    ),
    Phantom(
        "phantom-glomeruli-pas",
        drawings.draw_glomeruli,
        _look("stain-other", *_BROWN, noise=0.01),
        ((200, 256), (224, 224)),
    ),
    Phantom(
        "phantom-hippocampus-mr",
        drawings.draw_hippocampus,
        _look("mr", (0.5,) * 3, coarse=4.5, noise=0.06),
        ((160, 160), (176, 144)),
    ),
    Phantom(
        "phantom-nuclei-fluorescence",
        drawings.draw_nuclei,
        _look("fluorescence", *_GREEN, noise=0.03, blur=0.004),
        ((224, 224), (256, 192)),
    ),
    Phantom(
        "phantom-organs-ct",
        drawings.draw_organs,
        _look("ct", (0.3,) * 3, noise=0.025, shading=0.0),
        ((224, 256), (256, 256)),
    ),
    Phantom(
        "phantom-polyp-endoscopy",
        drawings.draw_polyp,
        _look("endoscopy", *_RED, shading=0.3, vignette=0.6, highlights=0.8, softness=0.02),
        ((208, 256), (216, 240)),
    ),
    Phantom(
        "phantom-vertebrae-mr",
        drawings.draw_vertebrae,
        _look("mr", (0.28,) * 3, blur=0.003, shading=0.5),
        ((256, 176), (256, 224)),
    ),
)
UNSEEN: tuple[Phantom, ...] = (
    Phantom(
        "phantom-lesion-ultrasound",
        drawings.draw_lesion,
        _look("ultrasound", speckle=0.6, softness=0.02, unit=0.02),
        ((192, 224), (208, 208)),
    ),
    Phantom(
        "phantom-things-photo",
        drawings.draw_things,
        _look("photo", *_STREET, noise=0.01),
        ((192, 256), (180, 240)),
    ),
    Phantom(
        "phantom-tumour-mr",
        drawings.draw_tumour,
        _look("mr", (0.35,) * 3, blur=0.005, noise=0.01),
        ((224, 224), (240, 208)),
    ),
)


def write_phantoms(
    root: Path,
    seed: int = 0,
    images_per_task: int = 24,
    scale: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write every phantom as a dataset folder under `root`/tasks and `root`/unseen.

    Each folder holds `images/`, `masks/` (PNG; 0 and 255, or classes 1 to K), and `split.csv` (id, split, group); the
    two or three images of a phantom patient share a group, and with it a split. A few masks are empty. The same seed
    writes the same bytes.

    Args:
        root: folder to make; it must not exist, or be empty.
        seed: of everything drawn.
        images_per_task: images in each dataset, at least 6.
        scale: multiplies the sizes of about 200 pixels a side.
        progress: called with the images written and their total.

    Returns:
        The dataset folders, tasks first.

    Raises:
        DatasetError: `root` holds files, or there are too few images for two splits.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DatasetError(
            f"{root} is not empty: phantoms are not written over anything", "give a new folder"
        )
    if images_per_task < 6:
        raise DatasetError(
            f"{images_per_task} images a task are too few for patients in two splits", "ask for 6 or more"
        )
    folders: list[Path] = []
    total = images_per_task * (len(TASKS) + len(UNSEEN))
    for part, phantoms in (("tasks", TASKS), ("unseen", UNSEEN)):
        for phantom in phantoms:
            folder = root / part / phantom.name
            hidden = folder.with_name(f".{phantom.name}.writing")
            done = len(folders) * images_per_task
            try:
                for index in _write(phantom, hidden, seed, images_per_task, scale):
                    if progress:
                        progress(done + index + 1, total)
                hidden.rename(folder)
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
            folders.append(folder)
    return folders


def draw_phantom(
    phantom: Phantom, index: int, patient: int, seed: int, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """One image uint8 (H, W, 3) and its labels uint8 (H, W); a patient's images share size and acquisition."""
    rng = generator("phantom-patient", seed, phantom.name, patient)
    height, width = (max(32, round(side * scale)) for side in phantom.sizes[rng.integers(len(phantom.sizes))])
    look = replace(
        phantom.look,
        gamma=phantom.look.gamma * float(np.exp(rng.normal(0, 0.08))),
        noise=phantom.look.noise * float(rng.uniform(0.7, 1.3)),
        shading=phantom.look.shading * float(rng.uniform(0.5, 1.5)),
        base=phantom.look.base * np.float32(rng.uniform(0.94, 1.06)),
        axes=phantom.look.axes * np.float32(rng.uniform(0.85, 1.15)),
    )
    rng = generator("phantom", seed, phantom.name, index)
    slide = drawings.Slide(rng, height, width, look, empty=bool(rng.random() < EMPTY_SHARE))
    phantom.draw(slide)
    return render(rng, slide.canvas.latent, look, slide.seen), slide.labels


def _write(phantom: Phantom, folder: Path, seed: int, count: int, scale: float) -> Iterator[int]:
    """Write one dataset folder, yielding the index of each image when it is there."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = generator("phantom-split", seed, phantom.name)
    patients: list[int] = []
    while len(patients) < count:
        patients += [patients[-1] + 1 if patients else 0] * int(rng.integers(2, 4))
    patients = patients[:count]
    several = patients[-1] + 1
    held = set(rng.permutation(several)[: max(1, round(several * TEST_SHARE))].tolist())
    rows = ["id,split,group"]
    for index, patient in enumerate(patients):
        image, labels = draw_phantom(phantom, index, patient, seed, scale)
        name = f"{phantom.name.removeprefix('phantom-')}-{index:03d}"
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels).save(folder / "masks" / f"{name}.png")
        rows.append(f"{name},{'test' if patient in held else 'train'},patient-{patient:02d}")
        yield index
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
