"""Which attention form is fastest on a device: every one of them timed on a batch of the real size.

Run once on a GPU, before the first item of a store; the winner is written into the store's identity and used again
whenever it is resumed or repaired, so that all its items are computed in one form. On a CPU nothing is raced: `bias` is
the fastest there, and another form on a busy day would only give other last bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from casam_cache.backbones.attention import AUTO, FORMS, choose_form
from casam_cache.backbones.base import Backbone
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.errors import CasamError

REPEAT = 3
MOST_IMAGES = 16  # a forward pass; more gain nothing at 1024 x 1024
REFERENCE = "materialised"
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}  # of the largest value; a form beyond it computes something else
Clock = Callable[[Callable[[], object], torch.device], float]
"""(what to run, its device) -> seconds it took."""


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """The time of one call, waiting for the device before and after."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def race(
    backbone: Backbone, precision: str, batch_size: int, *, repeat: int = REPEAT, clock: Clock = seconds
) -> dict[str, float]:
    """Seconds a batch of every form that the device can run, the best of `repeat` after one that warms up.

    A form takes part only if its kernels exist here and its embeddings are those of upstream's chain (or of the first
    form, where that does not fit).

    Args:
        backbone: with its encoder, on its device.
        precision: of the encoder.
        batch_size: images in a batch.
        repeat: timed runs of each form.
        clock: times one run.

    Raises:
        CasamError: where a batch of that size fits in no form.
    """
    side = backbone.image_size
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, 3, side, side), dtype=torch.uint8, generator=drawn)
    sizes = torch.full((batch_size, 2), side)
    found: dict[str, float] = {}
    refused: list[str] = []
    exact: torch.Tensor | None = None
    for form in (REFERENCE, *(name for name in FORMS if name != REFERENCE)):
        encoder = FrozenEncoder(backbone, precision, attention=form)

        def run(encoder: FrozenEncoder = encoder) -> torch.Tensor:
            return encoder(pixels, sizes)["embedding"]

        try:
            seen = run()
            exact = seen if exact is None else exact
            if float((seen - exact).abs().max() / exact.abs().max()) <= TOLERANCE[precision]:
                found[form] = min(clock(run, backbone.device) for _ in range(repeat))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
        except (RuntimeError, ImportError, TypeError, ValueError, AttributeError) as error:
            refused.append(
                f"{form}: {error}".splitlines()[0]
            )  # no kernel for this device, head or torch build
            _wait(backbone.device)  # a device that has failed says so here
    if not found and refused:
        raise CasamError(
            f"the encoder runs in no form on {backbone.device}: {'; '.join(refused)}",
            "casam doctor shows what there is",
        )
    if not found:
        raise CasamError(
            f"a batch of {batch_size} images does not fit into the memory of {backbone.device}",
            "give a smaller --batch-size",
        )
    return found


def fitting_batch(
    encoder: FrozenEncoder, features: Sequence[str] = ("embedding",), most: int = MOST_IMAGES
) -> int:
    """The most images a forward pass, `most` or a half, a quarter ... of it, that the device's memory holds.

    Raises:
        CasamError: where not even one image fits.
    """
    side = encoder.backbone.image_size
    size = most
    while size:
        try:
            encoder(
                torch.zeros((size, 3, side, side), dtype=torch.uint8), torch.full((size, 2), side), features
            )
            return size
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            size //= 2
    raise CasamError(
        f"not even one image fits into the memory of {encoder.device}",
        "free memory there, choose another --device, or a smaller --model",
    )


def attention_for(backbone: Backbone, precision: str, batch_size: int, *, clock: Clock = seconds) -> str:
    """The form that a new store is encoded with: the winner of the race on CUDA, else the device's own."""
    if backbone.device.type != "cuda":
        return choose_form(AUTO, backbone.device)
    found = race(backbone, precision, batch_size, clock=clock)
    return min(found, key=lambda form: found[form])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
