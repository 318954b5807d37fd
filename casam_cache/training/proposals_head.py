"""Proposals as a head, so that benches compare them with prompted ones, and routers choose between them.

It is taught where all objects of an image are (`training/proposals.py`), in the loop of all heads, and finds them
without a prompt. A prompt only says which of them is meant: the answer to it is the found object of its mask's class
whose box has the greatest IoU with the prompt's, and nothing where none overlaps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.backbones.prompts import Prompts
from casam_cache.errors import CasamError
from casam_cache.geometry import Geometry
from casam_cache.heads.base import Head
from casam_cache.heads.class_maps import corners_and_classes
from casam_cache.segmenters.instances import Answered, answer_boxes
from casam_cache.segmenters.options import FinderOptions, ProposalHeadOptions, ProposalOptions
from casam_cache.segmenters.proposals import Proposals, box_iou, propose
from casam_cache.training.items import Item, Items
from casam_cache.training.proposals import Objects, proposal_loss, targets_of
from casam_cache.training.step import Pairs

NOTHING = -16.0  # the logit of every cell where no object was found


class ProposalsHead(Head):
    """Centres and boxes of objects, whose masks SAM's frozen decoder gives, `segmenters/proposals.py`.

    In training mode a pass ends at what the loss reads: centres and boxes, since the decoder has no part in it.

    Args:
        options: of the network, and how many classes it tells apart.
        backbone: whose embeddings it reads.
        seed: of the initial weights.
    """

    name = "proposals"
    Options = ProposalHeadOptions
    needs = ("embedding", "valid")
    replaces_sam = True

    def __init__(self, options: ProposalHeadOptions, backbone: Backbone, seed: int) -> None:
        super().__init__(options)
        self._of = options
        own = {name: getattr(options, name) for name in FinderOptions.model_fields}
        self.finder = Proposals(
            ProposalOptions(**own, threshold=options.least_score),
            backbone,
            range(1, options.classes + 1),
            seed,
        )

    def embed_prompts(
        self, backbone: Backbone, prompts: Prompts, classes: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 (P, 5), the corners of a box and a class; and (P, 0): nothing.

        Raises:
            CasamError: a class beyond those that it tells apart, or none where it tells several apart.
        """
        most = 1 if classes is None or not len(classes) else int(classes.max())
        self._check(most, "there is a mask")
        asked = corners_and_classes(backbone, prompts, classes, True, self._of.classes)
        return asked, asked[:, :0]

    def lesson(self, items: Items, backbone: Backbone) -> Callable[[Pairs], torch.Tensor]:
        """See `Head.lesson`: all objects of a step's images.

        Raises:
            CasamError: a mask is of a class beyond those that it tells apart.
        """
        for index, item in enumerate(items):
            if item.masks:
                self._check(
                    max(int(mask.class_id) for mask in items.masks(index)),
                    f"{item.task}/{item.id} has a mask",
                )
        return _Lesson(self.finder, backbone, items, self._of.box_weight)

    def _check(self, class_id: int, where: str) -> None:
        """Whether it tells a class apart."""
        known = self._of.classes
        if class_id > known:
            raise CasamError(
                f"{where} of class {class_id}, and the head finds objects of "
                f"{known} {'class' if known == 1 else 'classes'}",
                f"give it as many: --set classes={class_id}, or choose a method that answers prompts",
            )

    def align(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings (B, C, g, g), as they are: it changes none."""
        return features["embedding"]

    def decode(
        self,
        backbone: Backbone,
        features: Mapping[str, torch.Tensor],
        aligned: torch.Tensor,
        image_index: torch.Tensor | None,
        sparse: torch.Tensor,
        dense: torch.Tensor,
        multimask: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (P, 1, 4g, 4g) of the object that each prompt means, and its score (P, 1).

        One mask, whatever `multimask` says. In training mode the logits (P, 1, s, s) of centres, and means of boxes.
        """
        rows = torch.arange(len(sparse), device=aligned.device) if image_index is None else image_index
        place = sparse[:, 4].long() - 1
        if self.training:
            centres, boxes = self.finder.maps(backbone, aligned)
            return centres[rows, place][:, None].float(), boxes[rows, place].mean(dim=(1, 2, 3))[:, None]
        logits = sparse.new_full((len(sparse), 1, backbone.low_res, backbone.low_res), NOTHING)
        scores = sparse.new_zeros((len(sparse), 1))
        found = {image: self._find(backbone, features, image) for image in sorted(set(rows.tolist()))}
        for row, image in enumerate(rows.tolist()):
            objects = found[image]
            own = (objects.classes == place[row]).nonzero()[:, 0]
            overlaps = box_iou(sparse[row : row + 1, :4], objects.boxes[own])[0]
            if len(own) and float(overlaps.max()) > 0:
                meant = own[overlaps.argmax()]
                logits[row, 0], scores[row, 0] = objects.logits[meant], objects.scores[meant]
        return logits, scores

    def _find(self, backbone: Backbone, features: Mapping[str, torch.Tensor], image: int) -> Answered:
        """The objects of one image that are sure enough."""
        embedding, valid = features["embedding"][image], features["valid"][image] > 0
        cell = backbone.image_size // backbone.grid
        height, width = (int(valid.any(dim=axis).sum()) * cell for axis in (1, 0))
        shown = Geometry.fit(height, width, backbone.image_size, cell)
        (proposed,) = propose(self.finder, backbone, embedding[None], [shown])
        return answer_boxes(self.finder, backbone, embedding, proposed, float(self.finder.threshold))


@dataclass
class _Lesson:
    """The loss of proposals on the images of a step, in fp32."""

    finder: Proposals
    backbone: Backbone
    items: Items
    box_weight: float

    def __post_init__(self) -> None:
        self._objects = Objects.prepare(self.items, self.finder.classes, self.finder.side(self.backbone))
        self._place = {_whose(item): index for index, item in enumerate(self.items)}

    def __call__(self, pairs: Pairs) -> torch.Tensor:
        places = [self._place[_whose(item)] for item in pairs.items]
        said = self.finder.maps(self.backbone, pairs.features["embedding"])
        targets = targets_of(self._objects, places, len(self.finder.classes), self.backbone.image_size)
        return proposal_loss(*said, targets.to(self.backbone.device), self.box_weight)


def _whose(item: Item) -> tuple[str, str, str]:
    return item.task, item.id, item.view
