"""Options of the heads. No torch here: the command line checks them before anything heavy loads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

BLOCKS = 3  # the paper's


class AlignmentOptions(BaseModel):
    """The Alignment Layer (section 4.1.2). Only `blocks` is certain in the paper; see `heads/alignment.py`.

    Attributes:
        kind: of the layer: `full` is the paper's, `depthwise` and `bottleneck` have lighter convolutions in its blocks,
            `affine` is one scale and shift a channel and has no blocks.
        blocks: CAResBlocks in a row; the paper's 3.54 M parameters are three at C = 256.
        relu: `pre` is Cutie's ReLU before each convolution, `post` the one after each convolution.
        norm: LayerNorm2d after the residual (`post`), on the branch (`branch`), or nowhere (`none`).
        init: `matched` starts each branch silent (its last convolution at zero) and each LayerNorm2d after a
            residual at the backbone's own scale, so that the layer starts close to the identity; `zero` does
            only the first, with LayerNorm2d at 1 and 0; `random` is torch's default everywhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["full", "depthwise", "bottleneck", "affine"] = "full"
    blocks: int = Field(default=BLOCKS, ge=1, le=64)
    relu: Literal["pre", "post"] = "pre"
    norm: Literal["post", "branch", "none"] = "post"
    init: Literal["matched", "zero", "random"] = "matched"

    @model_validator(mode="after")
    def _blocks_are_there(self) -> AlignmentOptions:
        if self.kind == "affine" and self.blocks != BLOCKS:
            raise ValueError(f"kind=affine is one scale and shift a channel: leave blocks={self.blocks} out")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the kind where it is the paper's: what was named by the hash of its options keeps its name."""
        data: dict[str, Any] = serialise(self)
        return {key: value for key, value in data.items() if (key, value) != ("kind", "full")}


class IdentityOptions(BaseModel):
    """The frozen SAM has no options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DecoderOptions(BaseModel):
    """Decoder tuning starts from the frozen decoder; see `heads/decoder_parts.py` for what of it can be trained.

    Attributes:
        train: `all` of its numbers (the paper's Tuning Decoder), its `bias`es alone, the weights and biases of its
            layer `norm`s alone, a scale and a shift after each of its layers (`ssf`), or matrices of low rank beside
            those of its attention (`lora`).
        rank: of `lora`.
        targets: of `lora`: the query and value projections (`qv`), or every linear layer of the transformer (`linear`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Literal["all", "bias", "norm", "ssf", "lora"] = "all"
    rank: int = Field(default=4, ge=1, le=64)
    targets: Literal["qv", "linear"] = "qv"

    @model_serializer(mode="wrap")
    def _plain(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what does not matter: what was named by the hash of its options before keeps its name."""
        data: dict[str, Any] = serialise(self)
        if self.train == "all":
            del data["train"]
        if self.train != "lora":
            del data["rank"], data["targets"]
        return data


class PromptTuningOptions(BaseModel):
    """Learned prompt embeddings, the same for every image; see `heads/prompt_tuning.py`.

    Attributes:
        tokens: learned sparse prompt embeddings, which follow those of the user's prompt; 0 for none.
        dense: whether a learned dense prompt embedding is added: `none`, one number a `channel`, or one a channel and
            `cell` of the grid.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int = Field(default=4, ge=0, le=64)
    dense: Literal["none", "channel", "cell"] = "channel"

    @model_validator(mode="after")
    def _learns_something(self) -> PromptTuningOptions:
        if not self.tokens and self.dense == "none":
            raise ValueError("tokens=0 and dense=none leave nothing to learn")
        return self


class CombinedOptions(AlignmentOptions):
    """An Alignment Layer, a decoder trained in part, and learned prompts, in one head; see `heads/combined.py`.

    The layer's options (`kind`, `blocks`, ...) are its own.

    Attributes:
        train: of the decoder, as in `DecoderOptions`.
        rank, targets: of `train=lora`.
        tokens: learned sparse prompt embeddings; 0 for none.
    """

    train: Literal["all", "bias", "norm", "ssf", "lora"] = "lora"
    rank: int = Field(default=4, ge=1, le=64)
    targets: Literal["qv", "linear"] = "qv"
    tokens: int = Field(default=0, ge=0, le=64)


class ImageSamOptions(BaseModel):
    """A SAM trained through the image; see `heads/image_sam.py`.

    Attributes:
        encoder: which part of the encoder is trained beside the mask decoder: nothing of it, low-rank matrices beside
            the queries and values of its attention (`lora`), adapters in its blocks (`sam-med2d`, `msa`; see
            `heads/encoder_adapters.py`), or all.
        rank: of the matrices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: Literal["none", "lora", "sam-med2d", "msa", "all"] = "all"
    rank: int = Field(default=4, ge=1, le=64)


class LoraOptions(BaseModel):
    """LoRA on a SAM's encoder.

    Attributes:
        rank: of the matrices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=4, ge=1, le=64)


class BoxNetworkOptions(BaseModel):
    """A segmentation network that sees the prompt as a further channel of the image; see `heads/image_network.py`.

    Attributes:
        encoder: of the network, as segmentation_models_pytorch names it; its weights are random.
        augment: whether training changes images at random; see `training/augmentation.py`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str = ""
    augment: bool = True


class NetworkOptions(BoxNetworkOptions):
    """A segmentation network that sees the image alone.

    Attributes:
        classes: maps that it predicts, one a class of the masks; the one of a mask's class is scored against it.
        cut: what of a map counts as the answer to a prompt: all of it (`none`), or what lies in the box (`box`).
    """

    classes: int = Field(default=1, ge=1, le=255)
    cut: Literal["none", "box"] = "none"


class ImageNetworkOptions(NetworkOptions):
    """A segmentation network; see `heads/image_network.py`.

    Attributes:
        architecture: of the network.
        box: whether the prompt is a further channel of the image.
    """

    architecture: Literal["unet", "unetpp", "segformer"] = "unet"
    box: bool = False

    @model_validator(mode="after")
    def _one_map(self) -> ImageNetworkOptions:
        if self.box and (self.classes != 1 or self.cut != "none"):
            raise ValueError("classes and cut are of a network that sees no box")
        return self


class HQOptions(BaseModel):
    """HQ-SAM's decoder; see `heads/hq.py`.

    Attributes:
        train_decoder: whether SAM's decoder trains too, as the paper's parameter count says; HQ-SAM freezes it.
        init: the added mask is `random` and small at first, as in HQ-SAM, or `zero`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_decoder: bool = True
    init: Literal["random", "zero"] = "random"


class PromptPoolOptions(AlignmentOptions):
    """L2P's pool, with CoSAM's settings; see `heads/prompt_pool.py`. The layer's options count with `alignment=first`.

    Attributes:
        prompts: M, prompts in the pool.
        prompt_length: L, tokens of a prompt.
        top_k: k, prompts an image retrieves.
        pull_weight: of the key-match loss.
        slots: whether each task has prompts of its own while it is learnt.
        slot_size: how many.
        prompt_scale: prompts start uniform in [-prompt_scale, prompt_scale]; 0.01 is the size they start with in L2P's
            public code.
        prompt_learning_rate: of prompts and keys, whatever `learning_rate` is; 0.015 is what L2P's public code trains
            with (0.03 for 256 images a step, at its 128).
        alignment: what stands before the decoder: an Alignment Layer that learns with the `first` task and is frozen
            afterwards, or nothing (`identity`).
    """

    prompts: int = Field(default=40, ge=1)
    prompt_length: int = Field(default=5, ge=1)
    top_k: int = Field(default=5, ge=1)
    pull_weight: float = Field(default=1.0, ge=0)
    slots: bool = True
    slot_size: int = Field(default=5, ge=1)
    prompt_scale: float = Field(default=0.01, ge=0)
    prompt_learning_rate: float = Field(default=0.015, gt=0)
    alignment: Literal["identity", "first"] = "first"

    @model_validator(mode="after")
    def _can_retrieve(self) -> PromptPoolOptions:
        room = self.slot_size if self.slots else self.prompts
        if self.top_k > room or (self.slots and self.slot_size > self.prompts):
            where = "slot_size" if self.slots else "prompts"
            raise ValueError(
                f"top_k={self.top_k} needs {where} of as many at least, and slot_size <= prompts with slots"
            )
        return self
