"""What the exported graphs compute: from a prompt to masks at the image's size, and from pixels to an embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from casam_cache.backbones.base import EMBEDDING, Backbone
from casam_cache.backbones.decoder import SamDecoding
from casam_cache.backbones.prompt_graph import PromptGraph
from casam_cache.heads.base import Head, backbone_for

DECODER_INPUTS = (
    "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size",
)  # fmt: skip
DECODER_OUTPUTS = ("masks", "iou_predictions", "low_res_masks")
ENCODER_INPUTS = ("pixels", "input_size")
ENCODER_OUTPUTS = ("image_embeddings",)


class DecoderGraph(nn.Module):
    """Head, prompt encoder, mask decoder and the way back to the image: the inputs of `segment_anything`'s export.

    Args:
        backbone: with SAM's decoder.
        head: one that is a map of embeddings, with or without a mask decoder of its own.
        resize: of `casam_cache.geometry.RESIZE_MODES`, how the run's images were put into the input.
        single: choose one mask; else all that the decoder has, the single one first.
    """

    enlarged: Tensor

    def __init__(self, backbone: SamDecoding, head: Head, resize: str, *, single: bool) -> None:
        super().__init__()
        own = backbone_for(head, backbone)
        assert isinstance(own, SamDecoding)
        self.head, self.decoder = head, PromptGraph(own)
        self._side, self._stretched, self._single = backbone.image_size, resize == "stretch", single
        low = torch.tensor(backbone.low_res)
        self.register_buffer("enlarged", bilinear(low, torch.tensor(self._side), backbone.low_res))

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (1, m, H, W), estimates of IoU (1, m), and low-res logits (1, m, 4g, 4g).

        Args:
            image_embeddings: float32 (1, C, g, g), of the frozen encoder: the head is in here.
            point_coords: float32 (1, n, 2), x, y in pixels of the input.
            point_labels: float32 (1, n); see `PromptGraph`.
            mask_input: float32 (1, 1, 4g, 4g).
            has_mask_input: float32 (1,).
            orig_im_size: float32 (2,), H and W of the image.
        """
        aligned = self.head.align({EMBEDDING: image_embeddings})
        low_res, iou = self.decoder(aligned, point_coords, point_labels, mask_input, has_mask_input)
        if self._single:
            low_res, iou = _chosen(low_res, iou, point_labels)
        return self.at_size(low_res, orig_im_size), iou, low_res

    def at_size(self, low_res: Tensor, orig_im_size: Tensor) -> Tensor:
        """Sam.postprocess_masks: enlarge to S x S, cut the padding off, resize to H x W.

        The three steps are linear, in rows and in columns: together two small matrices, whatever the sizes are.
        """
        size = orig_im_size.double()
        valid = torch.full_like(size, self._side)
        if not self._stretched:  # the rounding of Geometry.fit, in its float64
            valid = torch.floor(size * (self._side / size.max()) + 0.5).clamp(min=1)
        valid, size = valid.long(), size.long()
        rows, columns = (bilinear(valid[i], size[i], self._side) @ self.enlarged for i in (0, 1))
        return rows @ low_res @ columns.T


def bilinear(valid: Tensor, size: Tensor, cells: int) -> Tensor:
    """What bilinear interpolation (align_corners=False) multiplies by along one side.

    Args:
        valid: int64 (), how many of the cells are resized.
        size: int64 (), to how many.
        cells: there are; those from `valid` on get no weight.

    Returns:
        float32 (size, cells), each row sums to 1.
    """
    scale = valid.float() / size.float()
    targets = torch.arange(size)  # type: ignore[call-overload]  # a tensor, so that a tracer sees it
    place = (scale * (targets + 0.5) - 0.5).clamp(min=0).minimum((valid - 1).float())
    return (1 - (place[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def _chosen(low_res: Tensor, iou: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The single mask, or for one point and no box, which is ambiguous, the best of the others."""
    points = ((labels == 0) | (labels == 1)).sum()
    corners = ((labels == 2) | (labels == 3)).sum()
    ambiguous = (points == 1) & (corners == 0)
    best = 1 + iou[:, 1:].argmax(dim=1)
    place = torch.where(ambiguous, best, torch.zeros_like(best))
    return low_res[:, place[0], None].reshape(1, 1, *low_res.shape[2:]), iou[:, place]


class EncoderGraph(nn.Module):
    """The frozen encoder with its normalisation: pixels in, the embedding that `DecoderGraph` takes out.

    Args:
        backbone: with its encoder.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.encoder = backbone.encoder
        self._backbone = backbone
        self._encode = backbone.plain_encoding()

    def forward(self, pixels: Tensor, input_size: Tensor) -> Tensor:
        """float32 (1, C, g, g).

        Args:
            pixels: uint8 (1, 3, S, S), the resized image in the top left corner, zero elsewhere.
            input_size: int64 (2,), height and width of the resized image.
        """
        images = self._backbone.normalise(pixels, input_size[None])
        return self._encode(images, (EMBEDDING,))[EMBEDDING]
