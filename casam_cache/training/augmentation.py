"""Images changed at each visit by nnU-Net's rules of thumb, in two dimensions; masks and prompts follow.

    mirrored    each axis, every other time
    turned      up to 15 degrees either way, one time in five
    scaled      by 0.7 to 1.4, one time in five
    intensity   times 0.75 to 1.25; contrast, about the mean, 0.75 to 1.25: three times in twenty each;
                gamma 0.7 to 1.5, three times in ten

nnU-Net turns more where images have no upright, and adds noise, blur and lower resolutions. An image is changed within
the part of the input it lies in: what turns or grows out of it is lost, what comes in is black and weighs nothing. If
an object would not stay inside whole, the image is mirrored alone, so that every prompt keeps its object.

Choices belong to (seed, task, epoch, sample) like all others, with a generator of their own: with or without changes
the same images, masks and noise of boxes are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from casam_cache.geometry import Geometry

_TURN = 15.0  # degrees


@dataclass(frozen=True)
class Change:
    """What is done to an image at one visit.

    Attributes:
        matrix: M, float64 (2, 2): a pixel at p comes to c + M (p - c), c the middle of the image in the input.
        brightness, contrast, gamma: 1 leaves it as it is.
    """

    matrix: np.ndarray
    brightness: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Change:
        """A change; the same number of draws each time."""
        chance, share = rng.random(7), rng.random(5)
        mirror = np.diag(np.where(chance[:2] < 0.5, -1.0, 1.0))
        angle = np.deg2rad(_TURN * (2 * share[0] - 1)) if chance[2] < 0.2 else 0.0
        scale = 0.7 * 2 ** share[1] if chance[3] < 0.2 else 1.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        brightness, contrast = (0.75 + 0.5 * share[2 + k] if chance[4 + k] < 0.15 else 1.0 for k in range(2))
        gamma = 0.7 + 0.8 * share[4] if chance[6] < 0.3 else 1.0
        return cls(scale * turn @ mirror, float(brightness), float(contrast), float(gamma))

    def mirrored_alone(self) -> Change:
        """Without what turns or scales."""
        length = np.sqrt(abs(np.linalg.det(self.matrix)))
        return replace(self, matrix=np.round(self.matrix / length))

    def points(self, points: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Where points (..., 2), x and y in input pixels, come to: float64 (..., 2)."""
        middle = np.array([geometry.input_width - 1, geometry.input_height - 1]) / 2
        moved: np.ndarray = middle + (points - middle) @ self.matrix.T
        return moved

    def box(self, points: np.ndarray, geometry: Geometry) -> np.ndarray:
        """The tight box (4,) of points (N, 2) after the change, input pixels."""
        moved = self.points(points, geometry)
        return np.concatenate([moved.min(axis=0), moved.max(axis=0)])

    def keeps(self, points: np.ndarray, geometry: Geometry) -> bool:
        """Whether all of these points stay in the image."""
        x0, y0, x1, y1 = self.box(points, geometry)
        inside = x1 <= geometry.input_width - 0.5 and y1 <= geometry.input_height - 0.5
        return bool(min(x0, y0) >= -0.5 and inside)


def change_pixels(pixels: torch.Tensor, sizes: torch.Tensor, changes: Sequence[Change]) -> torch.Tensor:
    """Images as they are shown: float32 (B, 3, S, S), whole values from 0 to 255, zero beside the image.

    Args:
        pixels: float32 (B, 3, S, S), the values of uint8, as `training.pixels` reads them.
        sizes: (B, 2), height and width of the images in them.
        changes: one an image.
    """
    at = torch.arange(pixels.shape[-1], device=pixels.device)
    height, width = sizes[:, 0, None], sizes[:, 1, None]
    valid = ((at < height)[:, :, None] & (at < width)[:, None, :])[:, None]
    moved = _warp(pixels, _theta(changes, sizes, pixels.shape[-1])) * valid
    bright, contrast, gamma = (
        moved.new_tensor([getattr(change, name) for change in changes])[:, None, None, None]
        for name in ("brightness", "contrast", "gamma")
    )
    moved = (moved * bright).clamp(0, 255)
    mean = moved.sum((1, 2, 3), keepdim=True) / (3 * valid.sum((1, 2, 3), keepdim=True))
    moved = (mean + (moved - mean) * contrast).clamp(0, 255)
    return (255 * (moved / 255).pow(gamma)).round() * valid


def change_masks(
    target: torch.Tensor, weight: torch.Tensor, sizes: torch.Tensor, side: int, changes: Sequence[Change]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets, bool (P, L, L), and weights (P, L, L), as their images are shown.

    Args:
        target: of P masks.
        weight: of them.
        sizes: (P, 2), height and width in the input of the image of each.
        side: S of the input.
        changes: that of the image of each.
    """
    both = torch.stack([target.float(), weight], 1)
    moved = _warp(both, _theta(changes, sizes, side))
    return moved[:, 0] >= 0.5, moved[:, 1] * (weight > 0)


def _theta(changes: Sequence[Change], sizes: torch.Tensor, side: int) -> torch.Tensor:
    """Where what is shown is taken from, (N, 2, 3) in the coordinates of `affine_grid`, -1 to 1 over the input."""
    inverse = torch.from_numpy(np.stack([np.linalg.inv(change.matrix) for change in changes])).to(
        sizes.device
    )
    middle = sizes.flip(1).double() / side - 1
    return torch.cat([inverse, (middle[:, :, None] - inverse @ middle[:, :, None])], 2).float()


def _warp(images: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
