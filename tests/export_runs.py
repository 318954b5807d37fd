"""Fitted runs to export, and what this package itself predicts with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_sets import one_thread
from conftest import draw_dataset
from torch import Tensor
from upstream_sam import declare_torchvision_operators

from casam_cache.backbones.decoder import SamDecoding
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.bench.fit import fit_task
from casam_cache.bench.opened_run import OpenedRun, open_run
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head, run_head

FITS = {
    "alignment": ("blocks=1", "init=random", "epochs=1"),  # random, so that the layer does something
    "decoder": ("epochs=2", "learning_rate=0.01"),
}
HEIGHT, WIDTH = 61, 83


@pytest.fixture(scope="session")
def exported_fits(bench_stores: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind of head on `amber`, and the frozen SAM's among them as None would be."""
    runs = tmp_path_factory.mktemp("export") / "runs"
    with one_thread():
        return {
            method: Path(
                fit_task("amber", bench_stores, runs, method=method, options=options, model="tiny").run
            )
            for method, options in FITS.items()
        }


@pytest.fixture(scope="session")
def stretched_run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A run on a store whose images were stretched to a square."""
    folder = tmp_path_factory.mktemp("stretched")
    data = draw_dataset(folder / "data" / "discs", images=6)
    chosen = {
        "model": "small",
        "checkpoint": tiny_checkpoint,
        "name": "tiny",
        "resize": "stretch",
        "workers": 0,
    }
    with one_thread():
        encode_dataset(data, folder / "stores", EncodeOptions.model_validate({**chosen, "device": "cpu"}))
        report = fit_task("discs", folder / "stores", folder / "runs", options=FITS["alignment"])
    return Path(report.run)


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (5 + 9 * k)) * np.cos(columns / (7 + 5 * k)) for k in range(3)], axis=-1)
    return np.clip(128 + 80 * waves + rng.normal(0, 30, waves.shape), 0, 255).astype(np.uint8)


def forms(low_res: int) -> dict[str, dict[str, Any]]:
    """Prompts in the input's pixels: points with their labels as SAM's list of tokens, and a mask."""
    rng = np.random.default_rng(1)
    mask = torch.from_numpy(rng.normal(0, 5, (1, 1, low_res, low_res)).astype(np.float32))
    return {
        "box": {"points": [[7, 5], [40, 31]], "labels": [2, 3]},
        "point": {"points": [[20, 30], [0, 0]], "labels": [1, -1]},
        "points": {"points": [[20, 30], [11, 6], [50, 40], [0, 0]], "labels": [1, 0, 1, -1]},
        "box, point and mask": {"points": [[20, 30], [7, 5], [40, 31]], "labels": [0, 2, 3], "mask": mask},
    }


def geometry_of(backbone: SamDecoding, image: np.ndarray, resize: str = "longest") -> Geometry:
    return Geometry.fit(*image.shape[:2], backbone.image_size, backbone.patch_size, resize)


def embedded(backbone: SamDecoding, image: np.ndarray, geometry: Geometry) -> Tensor:
    """The frozen encoder's embedding, not rounded."""
    batch, sizes = stack_inputs([resize_for_encoder(image, geometry)], backbone.image_size)
    images = backbone.normalise(torch.from_numpy(batch), torch.from_numpy(sizes))
    with torch.no_grad():
        return backbone.encode(images, ("embedding",))["embedding"]


def own_forward(
    backbone: SamDecoding,
    head: Head,
    image: np.ndarray,
    form: dict[str, Any],
    multimask: bool,
    resize: str = "longest",
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at the image's size (m, H, W), scores (m,) and low-res logits, as evaluation computes them."""
    geometry = geometry_of(backbone, image, resize)
    prompts = Prompts(
        points=torch.tensor([form["points"]], dtype=torch.float32), labels=torch.tensor([form["labels"]]),
        masks=form.get("mask"), packed=True,
    )  # fmt: skip
    with torch.no_grad():
        features = {"embedding": embedded(backbone, image, geometry)}
        _, low_res, iou = run_head(
            head, backbone, features, None, *backbone.embed_prompts(prompts), multimask
        )
    return upscale(low_res[0], geometry), iou[0], low_res[0]


def as_predictor_takes(form: dict[str, Any]) -> dict[str, Any]:
    """The same prompt as `SamPredictor.predict_torch` takes it."""
    points, labels = torch.tensor([form["points"]], dtype=torch.float32), torch.tensor([form["labels"]])
    corner, real = labels[0] >= 2, (labels[0] == 0) | (labels[0] == 1)
    return {
        "point_coords": points[:, real] if real.any() else None,
        "point_labels": labels[:, real] if real.any() else None,
        "boxes": points[:, corner].reshape(1, 4) if corner.any() else None,
        "mask_input": form.get("mask"),
    }


def opened(run: Path | None, tiny_checkpoint: Path) -> OpenedRun:
    return open_run(
        run, model=None if run else "small", checkpoint=None if run else tiny_checkpoint, device="cpu"
    )


def non_maximum_suppression(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """What torchvision's compiled operator computes, slowly."""
    corners, left = boxes.double(), scores.argsort(descending=True).tolist()
    kept = []
    while left:
        first = left.pop(0)
        kept.append(first)
        low = torch.maximum(corners[first, :2], corners[left, :2])
        shared = (torch.minimum(corners[first, 2:], corners[left, 2:]) - low).clamp(min=0).prod(1)
        area = (corners[:, 2:] - corners[:, :2]).prod(1)
        overlap = (shared / (area[first] + area[left] - shared)).tolist()
        left = [index for index, share in zip(left, overlap, strict=True) if not share > threshold]
    return torch.tensor(kept, dtype=torch.int64)


@pytest.fixture
def suppression(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torchvision's nms, where its compiled operators do not fit the installed torch."""
    declared = declare_torchvision_operators()
    if declared is None:
        yield
        return
    library = torch.library.Library("torchvision", "IMPL", "CPU")
    library.impl("nms", non_maximum_suppression)
    import torchvision.extension

    monkeypatch.setattr(torchvision.extension, "_has_ops", lambda: True)
    yield
    library._destroy()
