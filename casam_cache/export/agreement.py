"""Whether a written graph computes what this package computes: onnxruntime against the path that evaluation takes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casam_cache.backbones.base import EMBEDDING, Backbone
from casam_cache.backbones.decoder import SamDecoding
from casam_cache.backbones.prompts import Prompts, upscale
from casam_cache.errors import CasamError
from casam_cache.export.graphs import DECODER_INPUTS, ENCODER_INPUTS
from casam_cache.fingerprint import generator
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head, run_head

TOLERANCE = 1e-4  # of the largest value
# Labels of a prompt's points, whether a mask counts, and the image's H and W as shares of S.
_CASES: tuple[tuple[tuple[int, ...], bool, float, float], ...] = (
    ((2, 3), False, 0.7, 1.0),
    ((1, -1), False, 1.0, 0.53),
    ((1, 0, 1, -1), True, 1.6, 1.2),
    ((1, 0, 2, 3), True, 0.4, 0.4),
)


def check_runtime() -> None:
    """Whether what writes and checks graphs is installed.

    Raises:
        CasamError: it is not.
    """
    for name in ("onnx", "onnxruntime"):
        _module(name)


def decoder_difference(path: Path, backbone: SamDecoding, head: Head, resize: str, *, single: bool) -> float:
    """The largest difference over prompts of all kinds, each output's as a share of its largest value.

    Args:
        path: of the graph.
        backbone: on a CPU.
        head: what `one_head` gave.
        resize: of `casam_cache.geometry.RESIZE_MODES`.
        single: as in `DecoderGraph`.
    """
    graph = _Graph(path)
    worst = 0.0
    for inputs in decoder_inputs(backbone):
        expected = _as_evaluated(backbone, head, resize, inputs, single=single)
        found = graph(inputs)
        worst = max(worst, *(_difference(*pair) for pair in zip(found, expected, strict=True)))
    return worst


def encoder_difference(path: Path, backbone: Backbone) -> float:
    """The largest difference on an image of noise, as a share of the largest value."""
    inputs = encoder_inputs(backbone, 0.62, 1.0)
    with torch.no_grad():
        images = backbone.normalise(inputs["pixels"], inputs["input_size"][None])
        expected = backbone.encode(images, (EMBEDDING,))[EMBEDDING]
    return _difference(_Graph(path)(inputs)[0], expected)


def decoder_inputs(backbone: SamDecoding) -> Iterator[dict[str, Tensor]]:
    """Inputs of the decoder's graph: boxes, points and mask inputs, on images of several shapes."""
    side, low = backbone.image_size, backbone.low_res
    mean, deviation = backbone.neck
    for index, (labels, masked, high, wide) in enumerate(_CASES):
        drawn = generator("export", index)
        embedding = mean + deviation * drawn.standard_normal((1, backbone.channels, *2 * (backbone.grid,)))
        points = drawn.uniform(0, min(1, high, wide) * side, (1, len(labels), 2))
        mask = 5 * drawn.standard_normal((1, 1, low, low))
        size = (high * side // 1, wide * side // 1)
        given = (embedding, points, [labels], mask if masked else 0 * mask, [float(masked)], size)
        named = zip(DECODER_INPUTS, given, strict=True)
        yield {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in named}


def encoder_inputs(backbone: Backbone, high: float, wide: float) -> dict[str, Tensor]:
    """Inputs of the encoder's graph: an image of noise of that share of the input's sides."""
    side = backbone.image_size
    height, width = int(high * side), int(wide * side)
    pixels = np.zeros((1, 3, side, side), dtype=np.uint8)
    pixels[:, :, :height, :width] = generator("export", "image").integers(3, 240, (3, height, width))
    given = (torch.from_numpy(pixels), torch.tensor([height, width]))
    return dict(zip(ENCODER_INPUTS, given, strict=True))


@torch.no_grad()
def _as_evaluated(
    backbone: SamDecoding, head: Head, resize: str, inputs: Mapping[str, Tensor], *, single: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What the decoder's graph has to give, by the code that fits are scored with."""
    labels = inputs["point_labels"].long()
    masks = inputs["mask_input"] if inputs["has_mask_input"].item() else None
    prompts = Prompts(points=inputs["point_coords"], labels=labels, masks=masks, packed=True)
    height, width = (int(side) for side in inputs["orig_im_size"].tolist())
    geometry = Geometry.fit(height, width, backbone.image_size, backbone.patch_size, resize)
    sparse, dense = backbone.embed_prompts(prompts)
    features = {EMBEDDING: inputs["image_embeddings"]}
    found = [
        run_head(head, backbone, features, None, sparse, dense, multimask)[1:] for multimask in (False, True)
    ]
    if single:
        ambiguous = torch.isin(labels, torch.tensor([0, 1])).sum() == 1 and labels.max() < 2
        low_res, iou = found[int(ambiguous)]
        best = int(iou.argmax())
        low_res, iou = low_res[:, best : best + 1], iou[:, best : best + 1]
    else:
        low_res, iou = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return upscale(low_res[0], geometry)[None], iou, low_res


def _difference(found: np.ndarray, expected: Tensor) -> float:
    reference = expected.numpy()
    if found.shape != reference.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - reference).max() / max(1.0, float(np.abs(reference).max())))


class _Graph:
    """A written graph as onnxruntime runs it on a CPU."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: Any = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
        runtime = _module("onnxruntime")
        try:
            if self._session is None:
                self._session = runtime.InferenceSession(str(self._path), providers=["CPUExecutionProvider"])
            found: list[np.ndarray] = self._session.run(
                None, {name: each.numpy() for name, each in inputs.items()}
            )
        except Exception as error:  # onnxruntime's own classes differ between its releases
            raise CasamError(
                f"{self._path.name} was not left: onnxruntime cannot run it: {(str(error).splitlines() or [''])[0]}",
                "try another --opset, or another release of onnxruntime",
            ) from error
        return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CasamError(
            f"ONNX files need the package {name}: {error}", "pip install 'casam-cache[onnx]'"
        ) from None
