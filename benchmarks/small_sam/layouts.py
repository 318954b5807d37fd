"""Layouts: what is in a scene. Each paints one family of structures and registers its objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from scene_canvas import SceneCanvas

from casam_cache.datasets.phantoms.canvas import Kind, Shape
from casam_cache.datasets.phantoms.fields import field, fractal


def _place(canvas: SceneCanvas, margin: float = 0.1) -> tuple[float, float]:
    x, y = canvas.rng.uniform(margin, 1 - margin, 2)
    return float(x * canvas.width), float(y * canvas.height)


def backdrop(canvas: SceneCanvas, regions: int) -> None:
    """Paint a ground of several kinds with soft or sharp transitions; none of them is an object."""
    for _ in range(regions):
        sheet = fractal(
            canvas.rng, canvas.height, canvas.width, canvas.side * float(canvas.rng.uniform(0.1, 0.5)), 2
        )
        edge = np.float32(canvas.side * canvas.rng.uniform(0.02, 0.3))
        canvas.paint(
            canvas.level((sheet - np.float32(canvas.rng.uniform(-0.3, 0.9))) * edge),
            canvas.kind(canvas.ground, 0.8),
        )


def mottle(canvas: SceneCanvas, inside: np.ndarray, kind: Kind, size: float, strength: float) -> None:
    """Large smooth patches inside a mask that belong to it: a necrotic core, a part in shadow, a stained half."""
    sheet = fractal(canvas.rng, canvas.height, canvas.width, max(3.0, size), 2)
    edge = np.float32(max(2.0, size) * canvas.rng.uniform(0.1, 1.0))
    level = np.float32(canvas.rng.uniform(-0.4, 0.6))
    canvas.paint(canvas.level((sheet - level) * edge), canvas.kind(kind, strength), inside)


def organs(canvas: SceneCanvas) -> None:
    """Several large deformed ellipses, some of one kind, touching or apart, some with parts of their own."""
    rng = canvas.rng
    kinds = [canvas.kind(canvas.ground) for _ in range(rng.integers(1, 4))]
    apart = rng.random() < 0.6
    taken = np.zeros((canvas.height, canvas.width), bool)
    for _ in range(rng.integers(3, 12)):
        radius = canvas.side * math.exp(rng.uniform(math.log(0.03), math.log(0.28)))
        stretch = math.exp(rng.uniform(-0.6, 0.6))
        shape = canvas.blob(
            *_place(canvas),
            radius * stretch,
            radius / stretch,
            rng.uniform(0, math.pi),
            rng.uniform(0.0, 0.5),
        )
        if apart and (taken[shape.rows, shape.columns] & shape.inside).any():
            continue
        kind = canvas.vary(kinds[rng.integers(len(kinds))])
        mask = canvas.add(shape, kind)
        taken |= mask
        if rng.random() < 0.3:
            mottle(canvas, mask, kind, radius * rng.uniform(0.4, 1.2), rng.uniform(0.3, 1.0))
        if rng.random() < 0.35:
            canvas.clutter(
                mask, kind, int(rng.integers(1, 6)), radius * rng.uniform(0.1, 0.4), rng.uniform(0.4, 1.5)
            )


def nested(canvas: SceneCanvas) -> None:
    """A chamber in a wall (a ring) with neighbours that touch it: the inner part, the wall and the neighbour."""
    rng = canvas.rng
    for _ in range(rng.integers(1, 4)):
        x, y = _place(canvas, 0.2)
        radius = canvas.side * math.exp(rng.uniform(math.log(0.05), math.log(0.25)))
        stretch, angle, wobble = (
            math.exp(rng.uniform(-0.35, 0.35)),
            rng.uniform(0, math.pi),
            rng.uniform(0.05, 0.3),
        )
        wall, core = canvas.kind(canvas.ground), canvas.kind(canvas.ground, 1.3)
        if rng.random() < 0.6:  # a neighbour under the wall: what stays visible is a crescent
            turn, far = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.7, 1.5)
            beside = canvas.vary(core) if rng.random() < 0.6 else canvas.kind(canvas.ground)
            size = radius * rng.uniform(0.5, 1.2)
            canvas.add(
                canvas.blob(x + far * math.cos(turn), y + far * math.sin(turn), size, size * rng.uniform(0.5, 1.0),
                            turn + math.pi / 2, wobble), beside,
            )  # fmt: skip
        outer = canvas.add(canvas.blob(x, y, radius * stretch, radius / stretch, angle, wobble), wall)
        whole = outer.copy()
        share = rng.uniform(0.35, 0.85)
        shift = radius * (1 - share) * rng.uniform(-0.4, 0.4, 2)
        shape = canvas.blob(
            x + shift[0], y + shift[1], radius * stretch * share, radius / stretch * share, angle, wobble
        )
        inner = canvas.add(shape, core)
        if rng.random() < 0.5:
            canvas.clutter(inner, core, int(rng.integers(1, 4)), radius * 0.15)
        if rng.random() < 0.35:
            canvas.masks.append(whole)


def cells(canvas: SceneCanvas) -> None:
    """A cluster of many similar cells, touching and overlapping, with or without a nucleus."""
    rng = canvas.rng
    radius = canvas.side * math.exp(rng.uniform(math.log(0.01), math.log(0.08)))
    pitch = radius * rng.uniform(1.5, 3.2)
    crowd = field(rng, canvas.height, canvas.width, canvas.side * 0.3)
    kind, nucleus = canvas.kind(canvas.ground), canvas.kind(canvas.ground, 1.6)
    has_nucleus, limit, wobble = rng.random() < 0.4, rng.uniform(-0.8, 0.6), rng.uniform(0.05, 0.4)
    places = [
        (float(x + rng.normal(0, pitch * 0.25)), float(y + rng.normal(0, pitch * 0.25)))
        for y in np.arange(pitch / 2, canvas.height, pitch)
        for x in np.arange(pitch / 2, canvas.width, pitch)
    ]
    rng.shuffle(places)
    for x, y in places[:60]:
        column, row = min(canvas.width - 1, max(0, int(x))), min(canvas.height - 1, max(0, int(y)))
        if crowd[row, column] < limit:
            continue
        rx, ry = radius * rng.uniform(0.7, 1.3, 2)
        angle = rng.uniform(0, math.pi)
        canvas.add(canvas.blob(x, y, rx, ry, angle, wobble), canvas.vary(kind))
        if has_nucleus:
            shape = canvas.blob(x, y, rx * 0.45, ry * 0.45, angle, wobble)
            if rng.random() < 0.2:
                canvas.add(shape, nucleus, hides=False)
            else:
                canvas.paint(shape, nucleus)


def glands(canvas: SceneCanvas) -> None:
    """Round structures of many parts: a border of dots or a clear gap, a textured body, an empty lumen."""
    rng = canvas.rng
    wall, body, lumen = (
        canvas.kind(canvas.ground, 1.5),
        canvas.kind(canvas.ground),
        canvas.kind(canvas.ground, 1.5),
    )
    gap = canvas.kind(canvas.ground, 1.5)
    style = rng.integers(3)
    for _ in range(rng.integers(1, 7)):
        x, y = _place(canvas)
        radius = canvas.side * math.exp(rng.uniform(math.log(0.06), math.log(0.25)))
        rx, ry = radius * np.exp(rng.uniform(-0.35, 0.35, 2))
        angle, wobble = rng.uniform(0, math.pi), rng.uniform(0.05, 0.5)
        if style == 0:  # a ball in a clear gap; the ball is the object
            canvas.paint(canvas.blob(x, y, rx * 1.18, ry * 1.18, angle, wobble * 0.5), gap)
        shape = canvas.blob(x, y, rx, ry, angle, wobble)
        mask = canvas.add(shape, canvas.vary(body))
        if style == 1:
            canvas.rim(shape, wall, radius * rng.uniform(0.08, 0.3))
        canvas.clutter(
            mask, body, int(rng.integers(2, 14)), radius * rng.uniform(0.06, 0.2), rng.uniform(0.5, 1.5)
        )
        if style and rng.random() < 0.7:
            share = rng.uniform(0.2, 0.6)
            hole = canvas.blob(x, y, rx * share, ry * share, angle, wobble)
            if rng.random() < 0.4:
                canvas.add(hole, lumen, hides=rng.random() < 0.3)
            else:
                canvas.paint(hole, lumen)


def tubes(canvas: SceneCanvas) -> None:
    """Vessels, nerves, bowel: curved tubes of changing thickness."""
    rng = canvas.rng
    kind = canvas.kind(canvas.ground)
    for _ in range(rng.integers(1, 6)):
        path = canvas.curve(rng.uniform(0.3, 1.4), rng.uniform(0.02, 0.4))
        base = canvas.side * math.exp(rng.uniform(math.log(0.012), math.log(0.12)))
        thick = base * (1 + 0.35 * np.sin(np.linspace(0, rng.uniform(1, 9), len(path)) + rng.uniform(0, 6)))
        canvas.add(canvas.drawn(path, thick), canvas.vary(kind))


def layers(canvas: SceneCanvas) -> None:
    """Stacked bands between warped lines, thin and thick; some are objects."""
    rng = canvas.rng
    angle = rng.choice([0.0, math.pi / 2, rng.uniform(0, math.pi)])
    rows = np.arange(canvas.height, dtype=np.float32)[:, None] - canvas.height / 2
    columns = np.arange(canvas.width, dtype=np.float32)[None, :] - canvas.width / 2
    depth = rows * np.float32(math.cos(angle)) + columns * np.float32(math.sin(angle))
    bend = np.float32(canvas.side * rng.uniform(0.02, 0.15))
    depth = depth + bend * field(rng, canvas.height, canvas.width, canvas.side * float(rng.uniform(0.3, 0.8)))
    position = -canvas.side * rng.uniform(0.1, 0.5)
    before = canvas.ground
    for _ in range(rng.integers(2, 8)):
        thick = canvas.side * math.exp(rng.uniform(math.log(0.02), math.log(0.25)))
        middle = np.float32(position + thick / 2)
        bulge = np.float32(thick * 0.2) * field(rng, canvas.height, canvas.width, canvas.side * 0.3)
        shape = canvas.level(np.float32(thick / 2) - np.abs(depth - middle) + bulge)
        before = canvas.kind(before)
        if rng.random() < 0.7:
            canvas.add(shape, before)
        else:
            canvas.paint(shape, before)
        position += thick * rng.uniform(0.9, 1.5)


def chain(canvas: SceneCanvas) -> None:
    """Rounded blocks in a row along a curve (vertebrae, teeth) with small things in and between them."""
    rng = canvas.rng
    path = canvas.curve(rng.uniform(0.9, 1.5), rng.uniform(0.005, 0.06), int(rng.integers(5, 14)))
    step = float(np.linalg.norm(path[1] - path[0]))
    block, between = canvas.kind(canvas.ground), canvas.kind(canvas.ground)
    wide, tall = step * rng.uniform(0.35, 0.48), step * rng.uniform(0.4, 1.4)
    corners, wobble = float(rng.choice([2.0, 3.0, 4.0, 6.0])), rng.uniform(0.05, 0.25)
    side_kind = canvas.kind(canvas.ground)
    spots = rng.random() < 0.4
    for here, after in itertools.pairwise(path):
        angle = math.atan2(*(after - here)[::-1])
        size = rng.uniform(0.85, 1.1)
        if rng.random() < 0.6:
            middle = (here + after) / 2
            canvas.add(
                canvas.blob(middle[0], middle[1], step * 0.2, tall * size * 0.9, angle, wobble),
                canvas.vary(between),
            )
        shape = canvas.blob(here[0], here[1], wide * size, tall * size, angle, wobble, corners)
        kind = canvas.vary(block)
        canvas.add(shape, kind)
        if spots and rng.random() < 0.6:
            spot = here + rng.uniform(-0.8, 0.8, 2) * (wide, tall)
            radius = step * rng.uniform(0.06, 0.25)
            canvas.add(
                canvas.blob(spot[0], spot[1], radius, radius * rng.uniform(0.5, 1), angle, 0.4),
                canvas.kind(kind),
                hides=False,
            )
        if rng.random() < 0.3:
            aside = here + np.array([-math.sin(angle), math.cos(angle)]) * tall * 1.6
            canvas.add(
                canvas.blob(aside[0], aside[1], wide * 0.6, tall * 0.5, angle, 0.5), canvas.vary(side_kind)
            )


def lesion(canvas: SceneCanvas) -> None:
    """One or two blobs of weak contrast among distractors that are as salient: lesions, polyps, tumours."""
    rng = canvas.rng
    backdrop(canvas, int(rng.integers(1, 4)))
    for _ in range(rng.integers(0, 4)):
        x, y = _place(canvas, 0)
        radius = canvas.side * rng.uniform(0.03, 0.15)
        canvas.paint(
            canvas.blob(x, y, radius, radius * rng.uniform(0.3, 1), rng.uniform(0, 3)),
            canvas.kind(canvas.ground, 0.8),
        )
    for _ in range(rng.integers(1, 3)):
        x, y = _place(canvas, 0.2)
        radius = canvas.side * math.exp(rng.uniform(math.log(0.04), math.log(0.42)))
        stretch = math.exp(rng.uniform(-0.4, 0.4))
        kind = canvas.kind(canvas.ground, rng.uniform(0.4, 1.2))
        shape = canvas.blob(
            x, y, radius * stretch, radius / stretch, rng.uniform(0, math.pi), rng.uniform(0.0, 0.5)
        )
        mask = canvas.add(shape, kind)
        for _ in range(rng.integers(0, 3)):
            mottle(canvas, mask, kind, radius * rng.uniform(0.3, 1.2), rng.uniform(0.3, 1.2))
        if rng.random() < 0.5:  # lit from one side
            turn = rng.uniform(0, 2 * math.pi)
            x, y = x + radius * 0.35 * math.cos(turn), y + radius * 0.35 * math.sin(turn)
            glow = canvas.blob(x, y, radius * 0.7, radius * 0.7, 0, 0.2)
            soft = Shape(glow.rows, glow.columns, glow.cover * np.float32(rng.uniform(0.2, 0.7)))
            canvas.paint(soft, canvas.kind(kind), mask)
        if rng.random() < 0.4:
            canvas.clutter(
                mask, kind, int(rng.integers(1, 5)), radius * rng.uniform(0.15, 0.45), rng.uniform(0.4, 1.2)
            )


def specks(canvas: SceneCanvas) -> None:
    """A few small things of one kind, down to a pixel or two across: caries, vertebrae far away, people in a street."""
    rng = canvas.rng
    backdrop(canvas, int(rng.integers(0, 3)))
    kind = canvas.kind(canvas.ground, 1.2)
    usual = math.exp(rng.uniform(math.log(0.004), math.log(0.035)))
    for _ in range(rng.integers(4, 14)):
        x, y = _place(canvas, 0.03)
        radius = canvas.side * usual * math.exp(rng.normal(0, 0.4))
        stretch = math.exp(rng.normal(0, 0.35))
        canvas.add(
            canvas.blob(
                x, y, radius * stretch, radius / stretch, rng.uniform(0, math.pi), rng.uniform(0, 0.4),
                float(rng.choice([2.0, 2.0, 4.0])),
            ),
            canvas.vary(kind),
        )  # fmt: skip


def regions(canvas: SceneCanvas) -> None:
    """A label map from the strongest of several smooth fields; its pieces are the objects."""
    from scipy import ndimage

    rng = canvas.rng
    count = int(rng.integers(2, 6))
    cell = canvas.side * float(rng.uniform(0.12, 0.45))
    sheets = np.stack(
        [fractal(rng, canvas.height, canvas.width, cell, int(rng.integers(1, 4))) for _ in range(count)]
    )
    order = np.argmax(sheets, axis=0)
    kinds: list[Kind] = [canvas.kind(canvas.ground) for _ in range(count)]
    for label in range(count):
        others = np.max(np.delete(sheets, label, axis=0), axis=0)
        canvas.paint(canvas.level((sheets[label] - others) * np.float32(cell * 0.5)), kinds[label])
        pieces, found = ndimage.label(order == label)
        sizes = np.bincount(pieces.ravel())
        for piece in range(1, found + 1):
            if sizes[piece] > 0.003 * order.size:
                canvas.masks.append(pieces == piece)


def things(canvas: SceneCanvas) -> None:
    """Composite polygons of several parts with shadows before a ground of planes: cars, tools, buildings."""
    rng = canvas.rng
    backdrop(canvas, int(rng.integers(0, 3)))
    if rng.random() < 0.6:
        horizon = canvas.height * rng.uniform(0.2, 0.7)
        rows = np.broadcast_to(
            np.arange(canvas.height, dtype=np.float32)[:, None], (canvas.height, canvas.width)
        )
        canvas.paint(canvas.level(rows - np.float32(horizon)), canvas.kind(canvas.ground))
    for _ in range(rng.integers(1, 7)):
        x, y = _place(canvas)
        size = canvas.side * math.exp(rng.uniform(math.log(0.03), math.log(0.25)))
        kind, part = canvas.kind(canvas.ground, 1.3), canvas.kind(canvas.ground, 1.5)
        corners = int(rng.integers(4, 9))
        turn = np.sort(rng.uniform(0, 2 * math.pi, corners))
        reach = size * rng.uniform(0.7, 1.2, corners)
        points = np.stack(
            [x + reach * np.cos(turn) * rng.uniform(0.8, 1.6), y + reach * np.sin(turn) * 0.8], 1
        )
        if rng.random() < 0.5:
            canvas.paint(canvas.blob(x, y + size * 0.8, size * 1.1, size * 0.25), canvas.kind(canvas.ground))
        box = rng.random() < 0.4
        shape = (
            canvas.blob(x, y, size * rng.uniform(0.8, 1.5), size * 0.7, 0, 0.1, 5.0)
            if box
            else canvas.drawn(points, None)
        )
        mask = canvas.add(shape, kind)
        if rng.random() < 0.4:
            mottle(canvas, mask, kind, size * rng.uniform(0.5, 1.5), rng.uniform(0.4, 1.2))
        canvas.clutter(mask, part, int(rng.integers(0, 6)), size * rng.uniform(0.15, 0.4), 1.5)


LAYOUTS: tuple[tuple[Callable[[SceneCanvas], None], float], ...] = (
    (organs, 0.14), (nested, 0.10), (cells, 0.10), (glands, 0.11), (tubes, 0.04), (layers, 0.03), (chain, 0.10),
    (lesion, 0.17), (regions, 0.03), (things, 0.06), (specks, 0.12),
)  # fmt: skip
