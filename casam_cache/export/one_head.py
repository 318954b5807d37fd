"""Which head of a run goes elsewhere, and whether it can: a Sam knows an embedding and SAM's own prompts alone."""

from __future__ import annotations

from torch import Tensor, nn

from casam_cache.backbones.base import EMBEDDING
from casam_cache.backbones.decoder import SamDecoding
from casam_cache.bench.opened_run import OpenedRun
from casam_cache.errors import CasamError, OptionError, unknown_name
from casam_cache.heads.base import Head, backbone_for
from casam_cache.heads.decoder_parts import folded


def one_head(opened: OpenedRun, task: str | None) -> tuple[Head, str]:
    """The head that stands for a run, and its task.

    Args:
        opened: the run.
        task: of a routed model, which has a head a task; None where there is nothing to choose.

    Raises:
        OptionError: a routed model without a task, or a task that the run does not have.
        CasamError: the head reads or does more than a map of embeddings and a mask decoder.
    """
    if opened.routed is None:
        if task is not None and task != opened.task:
            raise OptionError(
                f"this run has no task '{task}' to choose: it was fitted to {opened.task or 'no single task'}",
                "leave the task away",
            )
        head, chosen = opened.head, opened.task
    elif task is None:
        raise OptionError(
            f"{opened.routed.name} is routed: it chooses among its tasks by the image, which a Sam cannot",
            f"choose one of {', '.join(opened.routed.tasks)} with --task, in Python task=",
        )
    else:
        if task not in opened.routed.tasks:
            raise unknown_name("task of this run", task, list(opened.routed.tasks))
        head, chosen = opened.routed.head(task), task
    _check(opened, head)
    return head, chosen


def sam_decoding(opened: OpenedRun, head: Head) -> SamDecoding:
    """The backbone with the mask decoder that the head decodes with, its weights plain; for a head of `one_head`."""
    own = backbone_for(head, opened.backbone)
    assert isinstance(own, SamDecoding)
    plain = folded(own.mask_decoder)
    if plain is not own.mask_decoder:
        own = own.with_decoder(plain)
        assert isinstance(own, SamDecoding)
    return own


class Aligning(nn.Module):
    """What a head does to embeddings, as a module of tensors.

    Args:
        head: that needs the embedding alone; its own mask decoder is taken out, since it stands elsewhere.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        head.mask_decoder = None
        self.head = head

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, C, g, g) -> (B, C, g, g)."""
        return self.head.align({EMBEDDING: embedding})


def _check(opened: OpenedRun, head: Head) -> None:
    if not isinstance(opened.backbone, SamDecoding):
        raise CasamError(
            f"the backbone {opened.backbone.name} has not SAM's prompt encoder and mask decoder, so it is no Sam",
            "use it through casam predict, or casam_cache.Predictor",
        )
    more = [name for name in head.needs if name != EMBEDDING]
    reason = ""
    if more:
        reason = f"reads '{more[0]}' of an image beside the embedding"
    elif type(head).prompt_tokens is not Head.prompt_tokens:
        reason = "adds tokens to the prompts"
    elif type(head).decode is not Head.decode:
        reason = "decodes in a way of its own"
    if reason:
        raise CasamError(
            f"the head {head.name} {reason}, which a Sam has no place for",
            "use it through casam predict, or casam_cache.Predictor; a map of embeddings or a tuned mask decoder could "
            "go elsewhere",
        )
