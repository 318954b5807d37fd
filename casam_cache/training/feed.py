"""The tensors of each step of an epoch: embeddings, prompt embeddings, targets and weights, on the device.

What does not depend on the trained weights is computed for a whole epoch at once (prompt embeddings) or for a
whole fit (targets), so that a step launches the head, the decoder and the loss and hardly anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from casam_cache.backbones.decoder import (
    BOX_FIRST,
    BOX_SECOND,
    FOREGROUND,
    NOT_A_POINT,
    Prompts,
    embed_prompts,
)
from casam_cache.backbones.sam import Backbone
from casam_cache.training.epochs import TrainingMasks, VisitBatch
from casam_cache.training.residency import Embeddings
from casam_cache.training.step import Pairs


class Feed:
    """Turns the batches of an epoch into tensors.

    Args:
        masks: of all items, prepared.
        features: of the items that have masks, by name, the embedding among them.
        backbone: whose prompt encoder embeds the prompts, on the device of training.
    """

    def __init__(self, masks: TrainingMasks, features: Mapping[str, Embeddings], backbone: Backbone) -> None:
        self._masks, self._features, self._backbone = masks, features, backbone
        device = backbone.device
        self._targets = torch.from_numpy(masks.targets).to(device)
        self._row_cover = torch.from_numpy(masks.row_cover).to(device)
        self._column_cover = torch.from_numpy(masks.column_cover).to(device)
        self._bits = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)

    def epoch(self, batches: Sequence[VisitBatch]) -> Iterator[Pairs]:
        """The steps of an epoch, in order."""
        device = self._backbone.device
        is_box = torch.from_numpy(np.concatenate([batch.is_box for batch in batches]))
        corners = torch.from_numpy(np.concatenate([batch.coordinates for batch in batches]))
        with torch.no_grad():
            sparse, dense = embed_prompts(self._backbone, pack_prompts(is_box, corners).to(device))
        sizes = [len(batch.masks) for batch in batches]
        joined = [
            np.concatenate([batch.masks for batch in batches]),
            np.concatenate([batch.image for batch in batches]),
            np.concatenate([np.array(batch.items, dtype=np.int64)[batch.image] for batch in batches]),
        ]
        rows, images, owners = (torch.from_numpy(one).to(device).split(sizes) for one in joined)
        images_of = [batch.items for batch in batches]
        features = zip(*(feature.batches(images_of) for feature in self._features.values()), strict=True)
        steps = zip(
            batches, features, sparse.split(sizes), dense.split(sizes), rows, images, owners, strict=True
        )
        for batch, found, own_sparse, own_dense, own_rows, image, owner in steps:
            yield Pairs(
                items=tuple(self._masks.items[index] for index in batch.items),
                features=dict(zip(self._features, found, strict=True)),
                image_index=None if len(batch.masks) == len(batch.items) else image,
                sparse=own_sparse,
                dense=own_dense,
                target=self._unpack(self._targets.index_select(0, own_rows)),
                weight=self._weight(owner),
                is_box=batch.is_box,
                coordinates=batch.coordinates,
            )

    def _unpack(self, packed: torch.Tensor) -> torch.Tensor:
        side = self._masks.row_cover.shape[1]
        return ((packed[:, :, None] >> self._bits) & 1).view(-1, side, side).bool()

    def _weight(self, owner: torch.Tensor) -> torch.Tensor:
        rows, columns = self._row_cover.index_select(0, owner), self._column_cover.index_select(0, owner)
        return rows[:, :, None] * columns[:, None, :]


def pack_prompts(is_box: torch.Tensor, coordinates: torch.Tensor) -> Prompts:
    """Boxes and single points in one batch: both are two tokens to SAM, which pads a lone point.

    Args:
        is_box: bool (P,).
        coordinates: float32 (P, 4), input pixels: x0, y0, x1, y1, or a point's x, y in the first two.
    """
    tokens = coordinates.reshape(-1, 2, 2).clone()
    tokens[~is_box, 1] = 0
    box, point = torch.tensor([BOX_FIRST, BOX_SECOND]), torch.tensor([FOREGROUND, NOT_A_POINT])
    labels = torch.where(is_box[:, None], box, point)
    return Prompts(points=tokens, labels=labels, packed=True)
