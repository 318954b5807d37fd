"""What each phantom shows: structures of no interest first, then its target with the labels of its mask."""

from __future__ import annotations

import math

import numpy as np

from casam_cache.datasets.phantoms.canvas import Canvas, Kind, Shape
from casam_cache.datasets.phantoms.fields import fractal
from casam_cache.datasets.phantoms.looks import Look


class Slide:
    """One phantom image under construction.

    Attributes:
        canvas: what has been painted.
        labels: uint8 (H, W), what the mask will hold.
        seen: float32 (H, W), zero where nothing is seen, or None when everything is.
        empty: no target is to be drawn.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int, look: Look, empty: bool) -> None:
        self.canvas = Canvas(rng, height, width, look)
        self.rng, self.empty, self.side = rng, empty, max(height, width)
        self.labels = np.zeros((height, width), np.uint8)
        self.seen: np.ndarray | None = None

    def kind(self, value: float, *hue: float, grain: tuple[float, float, float] = (0.02, 0.0, 0.0)) -> Kind:
        """A kind of tissue by its latent value, its hue where the look has colour, and its textures."""
        mean = np.zeros(self.canvas.look.axes.shape[0], np.float32)
        mean[: 1 + len(hue)] = (value, *hue)
        return Kind(mean, np.array(grain, np.float32))

    def target(self, shape: Shape, kind: Kind, label: int) -> None:
        self.canvas.paint(shape, kind)
        self.labels[shape.rows, shape.columns][shape.inside] = label

    def place(self, low: float = 0.25, high: float = 0.75) -> tuple[float, float]:
        """A random x, y in a central part of the image."""
        return (
            float(self.rng.uniform(low, high) * self.canvas.width),
            float(self.rng.uniform(low, high) * self.canvas.height),
        )

    def body(self, kind: Kind, share: float = 0.46) -> None:
        """Paint a body whose outside is not seen."""
        canvas = self.canvas
        shape = canvas.blob(
            canvas.width / 2, canvas.height / 2, canvas.width * share, canvas.height * share, 0, 0.1, 2.6
        )
        canvas.paint(shape, kind)
        self.seen = np.zeros_like(self.labels, np.float32)
        self.seen[shape.rows, shape.columns] = shape.cover

    def scatter(self, kind: Kind, count: int, size: float) -> None:
        """Other structures, of no interest, anywhere."""
        for _ in range(count):
            radius = size * self.side * float(self.rng.uniform(0.5, 1.5))
            shape = self.canvas.blob(
                *self.place(0, 1), radius, radius * self.rng.uniform(0.3, 1), self.rng.uniform(0, 3)
            )
            self.canvas.paint(shape, self.canvas.vary(kind, 0.4))


def draw_cardiac(slide: Slide) -> None:
    """1 right ventricle (a bright crescent), 2 myocardium (a dark wall), 3 left ventricle."""
    rng, canvas = slide.rng, slide.canvas
    slide.body(slide.kind(-0.05))
    slide.scatter(slide.kind(0.12), 7, 0.08)
    slide.scatter(slide.kind(-0.2), 4, 0.1)
    if slide.empty:
        return
    x, y = slide.place(0.42, 0.58)
    radius, turn = slide.side * rng.uniform(0.09, 0.14), rng.uniform(2.4, 3.8)
    blood, wall = slide.kind(rng.uniform(0.22, 0.34)), slide.kind(rng.uniform(-0.2, -0.12))
    beside = x + radius * math.cos(turn), y + radius * math.sin(turn)
    slide.target(canvas.blob(*beside, radius * 1.1, radius * 0.8, turn + 1.5, 0.2), blood, 1)
    slide.target(canvas.blob(x, y, radius, radius * rng.uniform(0.88, 1), turn, 0.08), wall, 2)
    share = rng.uniform(0.55, 0.72)
    slide.target(canvas.blob(x, y, radius * share, radius * share * 0.95, turn, 0.12), blood, 3)
    canvas.paint(canvas.blob(x + radius * 0.25, y, radius * 0.12, radius * 0.1), wall)


def draw_glands(slide: Slide) -> None:
    """Whole glands: a border of dark nuclei around pale cells and an empty lumen."""
    rng, canvas = slide.rng, slide.canvas
    slide.scatter(slide.kind(-0.25, 0.0), 40, 0.008)
    pale, border, lumen = (
        slide.kind(-0.1, 0.1),
        slide.kind(-0.42, -0.25, grain=(0.1, 0.0, 0.0)),
        slide.kind(0.2, 0.0),
    )
    for _ in range(0 if slide.empty else rng.integers(2, 6)):
        x, y = slide.place(0.05, 0.95)
        rx, ry = slide.side * rng.uniform(0.09, 0.19, 2)
        angle = rng.uniform(0, math.pi)
        slide.target(canvas.blob(x, y, rx, ry, angle, 0.15), border, 255)
        canvas.paint(canvas.blob(x, y, rx * 0.72, ry * 0.72, angle, 0.15), pale)
        canvas.paint(canvas.blob(x, y, rx * 0.3, ry * 0.3, angle, 0.5), lumen)


def draw_glomeruli(slide: Slide) -> None:
    """Glomeruli with their clear capsule, among tubules of the same stain."""
    rng, canvas = slide.rng, slide.canvas
    tubule, lumen = slide.kind(-0.15, 0.05, grain=(0.0, 0.04, 0.0)), slide.kind(0.22, -0.02)
    for _ in range(26):
        x, y = slide.place(0, 1)
        radius = slide.side * rng.uniform(0.03, 0.06)
        canvas.paint(canvas.blob(x, y, radius, radius * 0.7, rng.uniform(0, 3), 0.2), tubule)
        canvas.paint(canvas.blob(x, y, radius * 0.4, radius * 0.25, rng.uniform(0, 3), 0.2), lumen)
    for _ in range(0 if slide.empty else rng.integers(1, 4)):
        x, y = slide.place(0.1, 0.9)
        radius = slide.side * rng.uniform(0.08, 0.15)
        slide.target(canvas.blob(x, y, radius, radius * 0.9, 0, 0.1), lumen, 255)
        tuft = canvas.blob(x, y, radius * 0.84, radius * 0.76, 0, 0.15)
        canvas.paint(tuft, slide.kind(-0.2, 0.12, grain=(0.12, 0.0, 0.0)))
        canvas.clutter(canvas.full(tuft), slide.kind(-0.2, 0.12), 12, radius * 0.12)


def draw_polyp(slide: Slide) -> None:
    """A polyp: a rise lit from one side on mucosa with folds of the same colour."""
    rng, canvas = slide.rng, slide.canvas
    for _ in range(3):
        path = canvas.curve(1.6, 0.05)
        canvas.paint(
            canvas.drawn(path, np.full(len(path), slide.side * 0.05)),
            slide.kind(rng.uniform(-0.12, 0.1), 0.0),
        )
    if not slide.empty:
        x, y = slide.place(0.3, 0.7)
        rx, ry = slide.side * rng.uniform(0.1, 0.24, 2)
        shape = canvas.blob(x, y, rx, ry, rng.uniform(0, 3), 0.25)
        slide.target(shape, slide.kind(-0.06, 0.1, grain=(0.0, 0.03, 0.0)), 255)
        glow = canvas.blob(x - rx * 0.25, y - ry * 0.3, rx * 0.6, ry * 0.6, 0, 0.2)
        soft = Shape(glow.rows, glow.columns, glow.cover * np.float32(0.7))
        canvas.paint(soft, slide.kind(0.12, 0.06), canvas.full(shape))
    reach = slide.side * 0.53
    disk = canvas.blob(canvas.width / 2, canvas.height / 2, reach, reach * 0.92, 0, 0, 5.0)
    slide.seen = np.zeros_like(slide.labels, np.float32)
    slide.seen[disk.rows, disk.columns] = disk.cover
    slide.labels[slide.seen < 0.5] = 0


def draw_hippocampus(slide: Slide) -> None:
    """1 front and 2 back half of one curved structure: no edge in the image parts them."""
    rng, canvas = slide.rng, slide.canvas
    sheet = fractal(rng, canvas.height, canvas.width, slide.side * 0.2, 2)
    canvas.paint(canvas.level((sheet - 0.5) * 10), slide.kind(0.2))
    canvas.paint(canvas.level((-sheet - 0.9) * 10), slide.kind(-0.3))
    if slide.empty:
        return
    path = canvas.curve(rng.uniform(0.5, 0.7), 0.06, 30)
    path = path if path[0, 0] < path[-1, 0] else path[::-1]
    thick = slide.side * rng.uniform(0.13, 0.18) * np.linspace(1.2, 0.6, len(path))
    whole = canvas.drawn(path, thick)
    slide.target(whole, slide.kind(-0.02), 2)
    front = canvas.full(canvas.drawn(path[: int(len(path) * 0.42)], thick))
    slide.labels[front & (slide.labels == 2)] = 1


def draw_organs(slide: Slide) -> None:
    """1 kidneys (bright, without their dark pelvis), 2 liver, 3 pancreas (long, of little contrast)."""
    rng, canvas = slide.rng, slide.canvas
    slide.body(slide.kind(-0.16), 0.44)
    slide.scatter(slide.kind(-0.05), 8, 0.05)
    width, height = canvas.width, canvas.height
    canvas.paint(
        canvas.blob(width * 0.5, height * 0.72, slide.side * 0.06, slide.side * 0.05, 0, 0.2), slide.kind(0.4)
    )
    if not slide.empty:
        liver = canvas.blob(width * rng.uniform(0.28, 0.34), height * 0.4, slide.side * rng.uniform(0.13, 0.19),
                            slide.side * 0.16, rng.uniform(-0.4, 0.4), 0.3)  # fmt: skip
        slide.target(liver, slide.kind(0.08), 2)
        path = np.stack(
            [np.linspace(0.42, 0.68, 16) * width, (0.42 + 0.05 * np.sin(np.linspace(0, 3, 16))) * height], 1
        )
        slide.target(
            canvas.drawn(path, np.full(16, slide.side * rng.uniform(0.035, 0.05))), slide.kind(-0.04), 3
        )
    for x in () if slide.empty else (0.3, 0.7):
        radius = slide.side * rng.uniform(0.05, 0.07)
        place = width * (x + rng.uniform(-0.02, 0.02)), height * rng.uniform(0.62, 0.68)
        slide.target(
            canvas.blob(*place, radius * 0.75, radius, rng.uniform(-0.4, 0.4), 0.12), slide.kind(0.3), 1
        )
        inner = place[0] + (radius * 0.35 if x < 0.5 else -radius * 0.35)
        slide.target(canvas.blob(inner, place[1], radius * 0.3, radius * 0.4, 0, 0.2), slide.kind(-0.1), 0)


def draw_vertebrae(slide: Slide) -> None:
    """Vertebral bodies in a row; the discs between them and the cord beside them are not targets."""
    rng, canvas = slide.rng, slide.canvas
    slide.scatter(slide.kind(0.15), 6, 0.1)
    count = int(rng.integers(5, 8))
    rows = np.linspace(0.06, 0.94, count) * canvas.height
    x = canvas.width * (rng.uniform(0.4, 0.55) + 0.06 * np.sin(np.linspace(0, 3, count) + rng.uniform(0, 6)))
    step = rows[1] - rows[0]
    cord = np.stack([x + step * 0.95, rows], 1)
    canvas.paint(canvas.drawn(cord, np.full(count, step * 0.3)), slide.kind(0.35))
    tall = step * rng.uniform(0.36, 0.4)
    for place, (column, row) in enumerate(zip(x, rows, strict=True)):
        if place:
            canvas.paint(
                canvas.blob(column, row - step / 2, step * 0.55, step * 0.12, 0, 0.1), slide.kind(-0.35)
            )
        shape = canvas.blob(column, row, step * 0.52, tall, rng.uniform(-0.1, 0.1), 0.06, 5.0)
        if slide.empty:
            canvas.paint(shape, slide.kind(0.0))
        else:
            slide.target(shape, slide.kind(0.12, grain=(0.04, 0.0, 0.0)), 255)


def draw_caries(slide: Slide) -> None:
    """Small dark spots on bright teeth; gaps and pulp are dark too."""
    rng, canvas = slide.rng, slide.canvas
    count = int(rng.integers(5, 8))
    step = canvas.width / count
    teeth = []
    for row, turn in ((0.3, 1), (0.7, -1)):
        for place in range(count):
            x, y = (place + 0.5 + rng.uniform(-0.05, 0.05)) * step, row * canvas.height
            canvas.paint(canvas.blob(x, y, step * 0.45, canvas.height * 0.17, 0, 0.08, 3.5), slide.kind(0.16))
            pulp = canvas.blob(x, y - turn * canvas.height * 0.04, step * 0.08, canvas.height * 0.09, 0, 0.2)
            canvas.paint(pulp, slide.kind(0.0))
            teeth.append((x, y))
    for number in () if slide.empty else rng.permutation(len(teeth))[: rng.integers(1, 4)]:
        x, y = teeth[number]
        side = 1 if rng.random() < 0.5 else -1
        radius = step * rng.uniform(0.1, 0.18)
        spot = canvas.blob(
            x + side * step * 0.34, y + canvas.height * rng.uniform(-0.1, 0.1), radius, radius * 1.3, 0, 0.4
        )
        slide.target(spot, slide.kind(-0.05), 255)


def draw_nuclei(slide: Slide) -> None:
    """Bright nuclei, touching, on a dark ground with a faint halo of cytoplasm that is not theirs."""
    rng, canvas = slide.rng, slide.canvas
    places = [slide.place(0.03, 0.97) for _ in range(rng.integers(8, 20))]
    for x, y in places:
        radius = slide.side * rng.uniform(0.06, 0.1)
        canvas.paint(canvas.blob(x, y, radius, radius, 0, 0.4), slide.kind(0.15))
    for x, y in () if slide.empty else places:
        rx, ry = slide.side * rng.uniform(0.03, 0.055, 2)
        slide.target(
            canvas.blob(x, y, rx, ry, rng.uniform(0, 3), 0.15),
            slide.kind(rng.uniform(0.35, 0.6), grain=(0.0, 0.06, 0.0)),
            255,
        )


def draw_lesion(slide: Slide) -> None:
    """A dark lesion between bright layers in speckle, with a shadow below that is not part of it."""
    rng, canvas = slide.rng, slide.canvas
    rows = np.broadcast_to(np.arange(canvas.height, dtype=np.float32)[:, None], slide.labels.shape)
    for depth in rng.uniform(0.1, 0.9, 4):
        band = np.float32(slide.side * 0.03) - np.abs(
            rows - np.float32(depth * canvas.height) - 8 * fractal(rng, *slide.labels.shape, 60)
        )
        canvas.paint(canvas.level(band), slide.kind(0.2))
    if slide.empty:
        return
    x, y = slide.place(0.35, 0.65)
    rx, ry = slide.side * rng.uniform(0.1, 0.22), slide.side * rng.uniform(0.07, 0.13)
    canvas.paint(canvas.blob(x, y + ry * 1.6, rx * 0.6, ry * 1.6, 0, 0.1, 4.0), slide.kind(-0.16))
    slide.target(canvas.blob(x, y, rx, ry, rng.uniform(-0.3, 0.3), 0.35), slide.kind(-0.3), 255)


def draw_tumour(slide: Slide) -> None:
    """A bright tumour with a dark core (part of it) and a faint oedema (not part of it)."""
    rng, canvas = slide.rng, slide.canvas
    slide.body(slide.kind(0.0), 0.42)
    sheet = fractal(rng, *slide.labels.shape, slide.side * 0.08, 2)
    canvas.paint(canvas.level((sheet - 0.6) * 6), slide.kind(0.1))
    for x in (0.44, 0.56):
        canvas.paint(
            canvas.blob(canvas.width * x, canvas.height * 0.5, slide.side * 0.03, slide.side * 0.1, 0, 0.3),
            slide.kind(-0.3),
        )
    if slide.empty:
        return
    x, y = slide.place(0.32, 0.68)
    radius = slide.side * rng.uniform(0.06, 0.13)
    canvas.paint(canvas.blob(x, y, radius * 1.5, radius * 1.4, 0, 0.4), slide.kind(0.14))
    slide.target(canvas.blob(x, y, radius, radius * 0.85, rng.uniform(0, 3), 0.35), slide.kind(0.35), 255)
    canvas.paint(canvas.blob(x, y, radius * 0.45, radius * 0.4, 0, 0.4), slide.kind(-0.15))


def draw_things(slide: Slide) -> None:
    """Coloured boxes with windows and wheels on a street with a sky."""
    rng, canvas = slide.rng, slide.canvas
    rows = np.broadcast_to(np.arange(canvas.height, dtype=np.float32)[:, None], slide.labels.shape)
    horizon = np.float32(canvas.height * rng.uniform(0.35, 0.5))
    canvas.paint(canvas.level(rows - horizon), slide.kind(-0.2, 0.0, 0.0))
    for _ in range(5):
        tall = slide.side * rng.uniform(0.08, 0.25)
        shape = canvas.blob(
            rng.uniform(0, canvas.width), float(horizon) - tall / 2, tall * 0.6, tall, 0, 0, 8.0
        )
        canvas.paint(shape, slide.kind(rng.uniform(-0.3, 0.2), *rng.uniform(-0.2, 0.2, 2)))
    for _ in range(0 if slide.empty else rng.integers(1, 5)):
        x, y = slide.place(0.1, 0.9)[0], float(horizon) + slide.side * rng.uniform(0.03, 0.25)
        size = slide.side * rng.uniform(0.05, 0.12)
        canvas.paint(canvas.blob(x, y + size * 0.65, size * 1.4, size * 0.2), slide.kind(-0.4, 0.0, 0.0))
        paint = slide.kind(rng.uniform(-0.2, 0.3), *rng.uniform(-0.5, 0.5, 2))
        slide.target(canvas.blob(x, y - size * 0.45, size * 0.8, size * 0.4, 0, 0, 4.0), paint, 255)
        slide.target(canvas.blob(x, y, size * 1.4, size * 0.42, 0, 0, 5.0), paint, 255)
        canvas.paint(
            canvas.blob(x, y - size * 0.5, size * 0.6, size * 0.22, 0, 0, 5.0), slide.kind(-0.3, 0.1, 0.1)
        )
        for shift in (-0.8, 0.8):
            slide.target(
                canvas.blob(x + shift * size, y + size * 0.4, size * 0.25, size * 0.25, 0, 0),
                slide.kind(-0.45, 0.0, 0.0),
                255,
            )
