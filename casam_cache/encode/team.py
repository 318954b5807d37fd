"""Encoders on one or several devices that take batches in turn, without waiting for one another.

On CUDA a batch is only launched: its pixels travel from pinned memory, its features travel back into pinned memory, and
whoever wants them waits for that batch alone. So one thread keeps every GPU busy while others decode and write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import stack_inputs
from casam_cache.encode.decode import Decoded
from casam_cache.store import ItemResult
from casam_cache.store.schema import EMBEDDING
from casam_cache.views import view_of


@dataclass
class Pending:
    """A batch that is being encoded.

    Attributes:
        decoded: its images.
        features: array -> (B, ...) on the host, filled once `done` has happened.
        done: CUDA event; None where the features are there already.
        kept: what must not be freed before that.
    """

    decoded: Sequence[Decoded]
    features: dict[str, Tensor] = field(default_factory=dict)
    done: torch.cuda.Event | None = None
    kept: tuple[Tensor, ...] = ()

    def results(self) -> list[ItemResult]:
        """Wait, and give every image its features or its failure."""
        if self.done is not None:
            self.done.synchronize()
        arrays = {name: value.numpy() for name, value in self.features.items()}
        return [
            ItemResult(source_sha256=item.sha256, failure=item.failure)
            if item.failure
            else ItemResult({name: value[i] for name, value in arrays.items()}, item.geometry, item.sha256)
            for i, item in enumerate(self.decoded)
        ]


class EncoderTeam:
    """Encoders of the same weights and form, one a device; batch after batch goes to the next of them.

    Which device encodes a batch depends on which other batches there are to do. Its bits do not, as long as the devices
    are of one kind.
    """

    def __init__(self, encoders: Sequence[FrozenEncoder]) -> None:
        if not encoders:
            raise ValueError("a team needs an encoder")
        self._encoders = list(encoders)
        self._turn = 0
        self._copies: dict[torch.device, torch.cuda.Stream] = {}

    def start(self, decoded: Sequence[Decoded], arrays: Sequence[str], image_size: int) -> Pending:
        """Begin with a batch.

        A bad image takes its place as a black one, so that the others' bits do not change. The array of a view holds
        the embedding of what was decoded as that view.
        """
        pending = Pending(decoded)
        if all(item.failure for item in decoded):
            return pending
        encoder = self._encoders[self._turn % len(self._encoders)]
        self._turn += 1
        black = np.zeros((image_size, image_size, 3), dtype=np.uint8)
        stacked = stack_inputs([black if d.pixels is None else d.pixels for d in decoded], image_size)
        pixels, sizes = (torch.from_numpy(part) for part in stacked)
        wanted = {name: EMBEDDING if view_of(name) else name for name in arrays}
        features = list(dict.fromkeys(wanted.values()))
        if encoder.device.type != "cuda":
            found = {name: value.float().cpu() for name, value in encoder(pixels, sizes, features).items()}
            pending.features = {name: found[feature] for name, feature in wanted.items()}
            return pending
        home = {}
        with torch.cuda.device(encoder.device):
            pixels, sizes = pixels.pin_memory(), sizes.pin_memory()
            found = encoder(pixels, sizes, features)
            copies = self._copies.setdefault(encoder.device, torch.cuda.Stream(encoder.device))
            copies.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(copies):  # beside the next batch
                for name, value in found.items():
                    home[name] = torch.empty(value.shape, dtype=torch.float32, pin_memory=True)
                    home[name].copy_(value, non_blocking=True)
                    value.record_stream(copies)
                pending.done = torch.cuda.Event(blocking=True)
                pending.done.record(copies)
        pending.features = {name: home[feature] for name, feature in wanted.items()}
        pending.kept = (pixels, sizes)
        return pending
