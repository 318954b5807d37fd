"""Options of segmenters. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_CLASSES = 254  # targets are kept as bytes, of which one is for what does not count


class FCNOptions(BaseModel):
    """A light convolutional decoder; see `segmenters/fcn.py`.

    Attributes:
        width: channels on the embedding's grid; half as many after each block, but 16 at least.
        blocks: times that the grid is doubled; the map is refined to 2^blocks g cells a side, then upscaled.
        depth: convolutions on the embedding's grid and in each block.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(default=64, ge=16, le=512, multiple_of=16)
    blocks: int = Field(default=2, ge=0, le=5)
    depth: int = Field(default=1, ge=1, le=8)


class ClassPromptsOptions(BaseModel):
    """Learned prompt embeddings of each class; see `segmenters/class_prompts.py`.

    Attributes:
        tokens: sparse prompt embeddings of a class.
        dense: what is learned of each class's dense prompt embedding: a number a `channel`, one a channel and `cell` of
            the grid, or `none`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int = Field(default=8, ge=1, le=64)
    dense: Literal["none", "channel", "cell"] = "channel"


class FinderOptions(BaseModel):
    """The network of proposals and what becomes of its boxes; see `segmenters/proposals.py`.

    Attributes:
        width: channels on the embedding's grid; half as many after each block, but 16 at least.
        blocks: times that the grid is doubled; two centres in one cell are one.
        depth: convolutions on the embedding's grid and in each block.
        most: objects of an image, the ones with the highest scores.
        overlap: of two masks of a class with a greater IoU the one with the lower score is left out.
        score: an object's: that of its `centre`, or that times SAM's estimate of its mask's IoU, `centre-iou`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(default=64, ge=16, le=512, multiple_of=16)
    blocks: int = Field(default=0, ge=0, le=3)
    depth: int = Field(default=2, ge=1, le=8)
    most: int = Field(default=100, ge=1, le=2000)
    overlap: float = Field(default=0.5, gt=0, le=1)
    score: Literal["centre", "centre-iou"] = "centre"


class ProposalOptions(FinderOptions):
    """Centres and boxes of objects, whose masks SAM's decoder gives.

    Attributes:
        threshold: the least score of an object that a prediction holds; None: what is best on the held-out groups, and
            0.3 where there are none.
    """

    threshold: float | None = Field(default=None, ge=0, le=1)


class MapOptions(BaseModel):
    """A segmenter as a head; see `segmenters/as_head.py`.

    Attributes:
        classes: maps that it predicts, one a class of the masks; the one of a mask's class is scored against it.
        cut: what of a map counts as the answer to a prompt: all of it (`none`), or what lies in the box (`box`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: int = Field(default=1, ge=1, le=MOST_CLASSES)
    cut: Literal["none", "box"] = "none"


class ProposalHeadOptions(FinderOptions):
    """Proposals as a head; see `training/proposals_head.py`.

    Attributes:
        least_score: of an object that is an answer.
        classes: that it tells apart, 1 to this; a mask of a greater one is refused.
        box_weight: of the boxes' term of the loss; that of the centres has 1.
    """

    least_score: float = Field(default=0.3, ge=0, le=1)
    classes: int = Field(default=1, ge=1, le=MOST_CLASSES)
    box_weight: float = Field(default=2.0, gt=0)


class FCNMapOptions(FCNOptions, MapOptions):
    """Those of the convolutional decoder and of its maps."""


class ClassPromptsMapOptions(ClassPromptsOptions, MapOptions):
    """Those of learned prompts and of their maps."""
