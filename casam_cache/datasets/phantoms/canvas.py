"""A canvas on which shapes of a kind of tissue are painted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from casam_cache.datasets.phantoms.fields import field, texture
from casam_cache.datasets.phantoms.looks import Look

TEXTURES = 3


@dataclass(frozen=True)
class Kind:
    """A kind of tissue or thing: mean latent value (L,), and how strongly it shows each texture (T,)."""

    mean: np.ndarray
    textures: np.ndarray


@dataclass(frozen=True)
class Shape:
    """Coverage in [0, 1], float32, on the crop rows x columns of the canvas; half and more is inside."""

    rows: slice
    columns: slice
    cover: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        return self.cover >= 0.5


class Canvas:
    """Latent channels painted so far.

    Args:
        rng: where this scene's numbers come from.
        height: rows, pixels.
        width: columns, pixels.
        look: decides softness of boundaries, contrast and textures.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int, look: Look) -> None:
        self.rng, self.look = rng, look
        self.height, self.width, self.side = height, width, max(height, width)
        self.soft = max(1.0, look.softness * self.side)
        unit = max(1.2, look.unit * self.side)
        self.textures = [
            texture(rng, height, width, unit * float(rng.uniform(0.7, 2.0))) for _ in range(TEXTURES)
        ]
        self.ground = Kind(np.zeros(look.axes.shape[0], np.float32), self._textures())
        self.latent = np.zeros((height, width, look.axes.shape[0]), np.float32)
        self.paint(self.everything(), self.ground)

    def _textures(self) -> np.ndarray:
        weights = np.zeros(TEXTURES, np.float32)
        weights[self.rng.integers(TEXTURES)] = self.look.grain * self.rng.uniform(0.3, 1.3)
        return weights

    def kind(self, beside: Kind, contrast: float = 1.0) -> Kind:
        """A kind that differs from `beside` by about the look's contrast, in mean, in texture or in both."""
        rng = self.rng
        direction = rng.normal(0, 0.35, beside.mean.shape)
        direction[0] = 1 if rng.random() < 0.5 else -1
        step = self.look.contrast * contrast * rng.uniform(0.5, 1.6)
        textures = beside.textures if rng.random() < 0.5 else self._textures()
        if rng.random() < 0.1:  # only the texture tells
            step, textures = step * 0.1, self._textures() * np.float32(2)
        mean = beside.mean + np.float32(step) * direction.astype(np.float32)
        if abs(mean[0]) > 0.45:
            mean = beside.mean - np.float32(step) * direction.astype(np.float32)
        return Kind(mean, textures)

    def vary(self, kind: Kind, amount: float = 0.3) -> Kind:
        """The same kind of thing a second time: its mean moved by a fraction of the look's contrast."""
        shift = self.rng.normal(0, self.look.contrast * amount, kind.mean.shape).astype(np.float32)
        return Kind(kind.mean + shift, kind.textures)

    def everything(self) -> Shape:
        cover = np.ones((self.height, self.width), np.float32)
        return Shape(slice(0, self.height), slice(0, self.width), cover)

    def blob(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        angle: float = 0.0,
        wobble: float = 0.25,
        corners: float = 2.0,
    ) -> Shape:
        """A deformed ellipse (or, with more `corners`, rounded box) of radii rx, ry pixels about (x, y)."""
        reach = max(rx, ry) * (1.15 + wobble) + self.soft + 2
        rows = slice(max(0, int(y - reach)), max(1, min(self.height, int(y + reach) + 1)))
        columns = slice(max(0, int(x - reach)), max(1, min(self.width, int(x + reach) + 1)))
        h, w = max(0, rows.stop - rows.start), max(0, columns.stop - columns.start)
        if h == 0 or w == 0:
            return Shape(slice(0, 1), slice(0, 1), np.zeros((1, 1), np.float32))
        down = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(y)
        across = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(x)
        if wobble:
            radius = math.sqrt(rx * ry)
            cell = max(2.0, radius * float(self.rng.uniform(0.6, 1.6)))
            bend = np.float32(wobble * 0.6 * min(rx, ry))
            down = down + bend * field(self.rng, h, w, cell)
            across = across + bend * field(self.rng, h, w, cell)
        cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        u = np.abs((across * cosine + down * sine) / np.float32(rx))
        v = np.abs((down * cosine - across * sine) / np.float32(ry))
        if corners > 2:
            power = np.float32(corners)
            distance = (u**power + v**power) ** np.float32(1 / corners)
        else:
            distance = np.sqrt(u * u + v * v)
        level = (1 - distance) * np.float32(min(rx, ry))
        soft = np.float32(min(self.soft, min(rx, ry)))
        return Shape(rows, columns, np.clip(level / soft + np.float32(0.5), 0, 1))

    def level(self, values: np.ndarray) -> Shape:
        """Where `values` (H, W), in pixels from the boundary, is positive."""
        cover = np.clip(values / np.float32(self.soft) + np.float32(0.5), 0, 1)
        return Shape(slice(0, self.height), slice(0, self.width), cover.astype(np.float32, copy=False))

    def drawn(self, points: np.ndarray, thickness: np.ndarray | None) -> Shape:
        """A polygon through `points` (N, 2) x, y; or, with `thickness` (N,) pixels, a tube along them."""
        picture = Image.new("L", (self.width, self.height))
        pen = ImageDraw.Draw(picture)
        corners = [(float(x), float(y)) for x, y in points]
        if thickness is None:
            pen.polygon(corners, fill=255)
        else:
            for (x0, y0), (x1, y1), wide in zip(corners[:-1], corners[1:], thickness, strict=False):
                pen.line((x0, y0, x1, y1), fill=255, width=max(1, round(float(wide))))
                r = float(wide) / 2
                pen.ellipse((x1 - r, y1 - r, x1 + r, y1 + r), fill=255)
        if self.soft > 1.5:
            picture = picture.filter(ImageFilter.GaussianBlur(self.soft * 0.35))
        cover = np.asarray(picture, dtype=np.float32) / np.float32(255)
        return Shape(slice(0, self.height), slice(0, self.width), cover)

    def curve(self, length: float, bend: float, steps: int = 24) -> np.ndarray:
        """A smooth random walk (steps, 2) of x, y from a random start; `length` in long sides."""
        rng = self.rng
        heading = rng.uniform(0, 2 * math.pi) + np.cumsum(np.cumsum(rng.normal(0, bend, steps)) * 0.3)
        stride = length * self.side / steps
        path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * stride, axis=0)
        middle = np.array([self.width, self.height]) * rng.uniform(0.25, 0.75, 2)
        return path - path.mean(0) + middle

    def paint(self, shape: Shape, kind: Kind, clip: np.ndarray | None = None) -> None:
        """Lay `kind` over the shape, only inside `clip` (bool (H, W)) when given; no mask changes."""
        crop = (shape.rows, shape.columns)
        cover = shape.cover if clip is None else shape.cover * clip[crop]
        value: np.ndarray = np.broadcast_to(kind.mean, (*cover.shape, kind.mean.size)).copy()
        for weight, sheet in zip(kind.textures, self.textures, strict=True):
            if weight:
                value[..., 0] += weight * sheet[crop]
        self.latent[crop] += (value - self.latent[crop]) * cover[..., None]

    def full(self, shape: Shape) -> np.ndarray:
        """The shape as a bool mask (H, W)."""
        mask = np.zeros((self.height, self.width), bool)
        mask[shape.rows, shape.columns] = shape.inside
        return mask

    def clutter(
        self, inside: np.ndarray, around: Kind, count: int, size: float, strength: float = 1.0
    ) -> None:
        """Small things inside a mask that belong to it: internal edges that are not its boundary."""
        rows, columns = np.nonzero(inside[::4, ::4])
        if rows.size == 0:
            return
        for _ in range(count):
            pick = self.rng.integers(rows.size)
            rx, ry = size * self.rng.uniform(0.4, 1.4, 2)
            shape = self.blob(
                columns[pick] * 4.0, rows[pick] * 4.0, max(1.5, rx), max(1.5, ry), self.rng.uniform(0, 3.2)
            )
            self.paint(shape, self.kind(around, strength), inside)
