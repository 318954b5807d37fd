"""Options of the heads. No torch here: the command line checks them before anything heavy loads."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AlignmentOptions(BaseModel):
    """The Alignment Layer (section 4.1.2). Only `blocks` is certain in the paper; see `heads/alignment.py`.

    Attributes:
        blocks: CAResBlocks in a row; the paper's 3.54 M parameters are three at C = 256.
        relu: `pre` is Cutie's ReLU before each convolution, `post` the one after each convolution.
        norm: LayerNorm2d after the residual (`post`), on the branch (`branch`), or nowhere (`none`).
        init: `matched` starts each branch silent (its last convolution at zero) and each LayerNorm2d after a
            residual at the backbone's own scale, so that the layer starts close to the identity; `zero` does
            only the first, with LayerNorm2d at 1 and 0; `random` is torch's default everywhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: int = Field(default=3, ge=1, le=64)
    relu: Literal["pre", "post"] = "pre"
    norm: Literal["post", "branch", "none"] = "post"
    init: Literal["matched", "zero", "random"] = "matched"


class IdentityOptions(BaseModel):
    """The frozen SAM has no options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DecoderOptions(BaseModel):
    """Decoder tuning starts from the frozen decoder and trains all of it: no options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HQOptions(BaseModel):
    """HQ-SAM's decoder; see `heads/hq.py`.

    Attributes:
        train_decoder: whether SAM's decoder trains too, as the paper's parameter count says; HQ-SAM freezes it.
        init: the added mask is `random` and small at first, as in HQ-SAM, or `zero`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_decoder: bool = True
    init: Literal["random", "zero"] = "random"


OPTIONS: dict[str, type[BaseModel]] = {
    "alignment": AlignmentOptions,
    "decoder": DecoderOptions,
    "hq-sam": HQOptions,
    "identity": IdentityOptions,
}
