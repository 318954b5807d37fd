"""What training and evaluation may see: chosen items, such as one split of one task, and nothing else.

The loop never holds a store. It gets `Items` that were chosen before, so that no method can reach the test split or
another task's images by mistake. Features and masks are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from casam_cache.cutout import Cutout
from casam_cache.datasets.folds import is_drawn
from casam_cache.errors import CasamError, StoreError
from casam_cache.fingerprint import digest
from casam_cache.geometry import Geometry
from casam_cache.store import Annotations, EmbeddingStore
from casam_cache.store.annotations import SPLITS
from casam_cache.store.runs import decode_cutout
from casam_cache.training.folds import rows_of
from casam_cache.training.pixels import INPUT_SIZE, PIXELS, pixel_reader
from casam_cache.training.slices import Slice, Slices
from casam_cache.training.tiles import TilePlace, Tiles
from casam_cache.views import View

EMBEDDING = "embedding"
VALID = "valid"
ALL = "all"  # of a set that nothing was trained on: its images of every split


@dataclass(frozen=True)
class Item:
    """One image, without its pixels.

    Attributes:
        id: unique in its task.
        task: the dataset it belongs to; joined items have several.
        group: patient or slide: what intervals resample.
        geometry: how it was put into the encoder's input.
        masks: how many masks it has; 0 for images that only feed routers.
        visits: mean number of visits an epoch, where it has masks; other than 1 where tasks are balanced.
        purpose: what its random choices belong to besides seed, task, epoch and id; replayed images say for
            which task they are replayed, so that they do not repeat the prompts of their own task's training.
        view: which cached view of the image this is; empty for the image itself.
        variants: where else among the items the same image is, as other views; a visit draws one of all its places.
        place: in a volume, where it is a slice of one.
        tile: where it lies in a larger image, where it is a tile of one.
    """

    id: str
    task: str
    group: str
    geometry: Geometry
    masks: int
    visits: float = 1.0
    purpose: tuple[str, ...] = ()
    view: str = ""
    variants: tuple[int, ...] = ()
    place: Slice | None = None
    tile: TilePlace | None = None


@dataclass(frozen=True)
class ItemMask:
    """One true mask with its frozen test prompts. Stored ones are decoded anew each time that pixels are asked for.

    Attributes:
        held: the mask, bool (H, W) at original resolution, or what decodes it.
        class_id, instance: which class or object it is.
        box: float32 (4,), x0, y0, x1, y1 in original pixels, inclusive.
        point: float32 (2,), x, y in original pixels.
    """

    held: np.ndarray | Callable[[], Cutout]
    class_id: int
    instance: int
    box: np.ndarray
    point: np.ndarray

    @property
    def cutout(self) -> Cutout:
        """The part of the image that holds it; of a stored mask its box."""
        return self.held() if callable(self.held) else Cutout.of(self.held)

    @property
    def bitmap(self) -> np.ndarray:
        """Bool (H, W) at original resolution."""
        return self.cutout.bitmap


@dataclass(frozen=True)
class Row:
    """An item and how it is read: a stored feature array by name, and its masks.

    The two are closures, not bound methods or partials, whose attributes would lead to the other items.
    """

    item: Item
    read: Callable[[str], np.ndarray]
    masks: Callable[[], Sequence[ItemMask]]
    ignored: Callable[[], np.ndarray | None] = lambda: None

    def feature(self, name: str) -> np.ndarray:
        """A stored feature array, or what the geometry tells."""
        geometry = self.item.geometry
        if name == INPUT_SIZE:
            return np.array([geometry.input_height, geometry.input_width])
        return geometry.valid_cells() if name == VALID else self.read(name)


@dataclass(frozen=True)
class Items:
    """Items in a fixed order, one split of one task or made of several; indexes start at 0.

    They offer no way to other items, to another split or to a store. Iteration gives the descriptions.

    Attributes:
        task: name of the task, or what joins several.
        embedding_shape: (C, g, g).
        rows: one an item.
        content: of a split of a store, SHA-256 over the store's identity and what each item holds: image, masks,
            prompts, group, place in a volume or larger image. Equal content gives equal results; other splits have no
            part in it.
    """

    task: str
    embedding_shape: tuple[int, int, int]
    rows: tuple[Row, ...] = field(repr=False)
    content: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Item]:
        return (row.item for row in self.rows)

    def item(self, index: int) -> Item:
        """What is known of an item without reading pixels or features."""
        return self._row(index).item

    def feature(self, name: str, index: int) -> np.ndarray:
        """What a head `needs` of an item: a feature array by name, read-only, or `valid`, which its geometry tells.

        `embedding` is float16 (C, g, g); `valid` is bool (g, g), the cells that hold image and not only padding.
        `pixels` is uint8 (3, S, S), the encoder's input, read from the dataset anew each time; `input_size` is int64
        (2,), the height and width that the image has in it.

        Raises:
            StoreError: there is no such array; the hint says how to add it.
            DatasetError, ImageError: of `pixels`, where the image is gone or another one than was encoded.
        """
        return self._row(index).feature(name)

    def masks(self, index: int) -> Sequence[ItemMask]:
        """The masks of an item, each decoded when its pixels are asked for."""
        return self._row(index).masks()

    def ignored(self, index: int) -> np.ndarray | None:
        """Bool (H, W): pixels of an item that count nowhere, neither in the loss nor in a score; None: all count."""
        return self._row(index).ignored()

    def _row(self, index: int) -> Row:
        if not 0 <= index < len(self.rows):
            raise IndexError(f"item {index} of the {len(self.rows)} of {self.task}")
        return self.rows[index]


def open_split(store: EmbeddingStore, split: str, task: str | None = None) -> Items:
    """The images of one split of a store; those that could not be encoded are not among them.

    Args:
        store: with annotations, completely encoded.
        split: `train`, `val` or `test`, a name that `training.folds.Fold` gives, or `all` of them.
        task: its name; by default the folder the store lies in.

    Raises:
        StoreError: if images are not encoded yet, there are no annotations, or the split has no images.
    """
    store.require_complete()
    annotations: Annotations = store.annotations
    name = task or store.path.parent.name
    available = store.available()
    places = range(len(annotations)) if split == ALL else rows_of(annotations, split)
    rows = [int(row) for row in places if available[annotations.item[row]]]
    if not rows:
        raise StoreError(
            f"task {name} has no {split} images in {store.path}: {_split_counts(annotations)}",
            _other_split(annotations),
        )
    slices, tiles = Slices(store, annotations), Tiles(store, annotations)
    held: list[list[Any]] = sorted(
        [
            store.ids[annotations.item[row]],
            annotations.group(row),
            store.source_sha256[annotations.item[row]].tobytes().hex(),
            annotations.sample_sha256[row].tobytes().hex(),
            *slices.facts(int(annotations.item[row])),
            *tiles.facts(int(annotations.item[row])),
        ]
        for row in rows
    )
    channels, height, width = store.embedding_shape
    pixels = pixel_reader(store)
    return Items(
        name,
        (channels, height, width),
        tuple(_stored_row(store, annotations, row, name, slices, tiles, pixels) for row in rows),
        content=digest([store.fingerprint, held]),
    )


def _split_counts(annotations: Annotations) -> str:
    counts = {name: len(annotations.rows(name)) for name in SPLITS}
    source = annotations.attributes.get("split_source", "")
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"its split has {told or 'no images'}{f', from {source}' if source else ''}"


def _other_split(annotations: Annotations) -> str:
    """What gives a store another split, which depends on where the present one is from."""
    again = "run `casam encode` on the dataset again with --test-fraction 0.3 (and --val-fraction)"
    if is_drawn(str(annotations.attributes.get("split_source", ""))):
        return f"{again}; nothing is encoded twice"
    return f"edit that, or take it away and {again}; nothing is encoded twice"


def _stored_row(
    store: EmbeddingStore,
    annotations: Annotations,
    row: int,
    task: str,
    slices: Slices,
    tiles: Tiles,
    pixels: Callable[[int], np.ndarray],
) -> Row:
    place = int(annotations.item[row])
    owned = [int(mask) for mask in annotations.masks_of(row)]

    def masks() -> list[ItemMask]:
        return [
            ItemMask(
                partial(decode_cutout, annotations.runs(mask), _size(annotations.size[mask])),
                int(annotations.class_id[mask]),
                int(annotations.instance[mask]),
                annotations.box[mask],
                annotations.point[mask],
            )
            for mask in owned
        ]

    item = Item(
        store.ids[place],
        task,
        annotations.group(row),
        store.geometry(place),
        len(owned),
        place=slices.place(place),
        tile=tiles.place(place),
    )
    return Row(
        item,
        lambda name: pixels(place) if name == PIXELS else store.read(place, name),
        masks,
        lambda: annotations.ignored(row),
    )


def _size(stored: np.ndarray) -> tuple[int, int]:
    return int(stored[0]), int(stored[1])


def items_from_arrays(
    task: str,
    items: Sequence[Item],
    embeddings: np.ndarray,
    bitmaps: Sequence[Sequence[ItemMask]],
    further: Mapping[str, np.ndarray] | None = None,
    ignored: Sequence[np.ndarray | None] | None = None,
) -> Items:
    """Items over arrays: for programs that have no store, and for tests.

    Args:
        task: their name.
        items: their descriptions.
        embeddings: float16 (N, C, g, g).
        bitmaps: the masks of each item.
        further: other feature arrays by name, (N, ...) each.
        ignored: of each item, pixels that count nowhere, bool (H, W) or None.

    Raises:
        ValueError: they are not equally many.
    """
    arrays = {EMBEDDING: embeddings, **(further or {})}
    if any(count != len(items) for count in (len(bitmaps), *map(len, arrays.values()))):
        raise ValueError("items, embeddings, bitmaps and further features must be as many")

    def row(index: int) -> Row:
        def read(name: str) -> np.ndarray:
            if name not in arrays:
                raise StoreError(f"{task} has no feature '{name}'", f"give it in further={{'{name}': array}}")
            found: np.ndarray = arrays[name][index]
            return found

        return Row(items[index], read, lambda: bitmaps[index], lambda: ignored[index] if ignored else None)

    channels, height, width = embeddings.shape[1:]
    return Items(task, (channels, height, width), tuple(map(row, range(len(items)))))


def join(
    parts: Sequence[Items],
    visits: Sequence[float] | None = None,
    purposes: Sequence[tuple[str, ...]] | None = None,
) -> Items:
    """The items of several parts, one part after the other.

    Random choices belong to each item's own task, so that joining changes none of them but what `visits` and
    `purposes` say.

    Args:
        parts: of one embedding shape.
        visits: for each part, by how much the visits of its items are multiplied; 1 unless given.
        purposes: for each part, what its random choices belong to besides (seed, task, epoch, sample).

    Raises:
        CasamError: there is no part, or their embeddings differ in shape.
    """
    shapes = {part.embedding_shape for part in parts}
    if len(shapes) != 1:
        raise CasamError(
            f"embeddings of shapes {sorted(shapes)} cannot be joined", "encode every task with one --model"
        )
    rows: list[Row] = []
    every = zip(parts, visits or [1.0] * len(parts), purposes or [()] * len(parts), strict=True)
    for part, times, purpose in every:
        start = len(rows)
        for row in part.rows:
            item = replace(
                row.item,
                visits=row.item.visits * times,
                purpose=row.item.purpose + purpose,
                variants=tuple(start + index for index in row.item.variants),
            )
            rows.append(replace(row, item=item))
    return Items(" + ".join(part.task for part in parts), shapes.pop(), tuple(rows))


def pick(tasks: Mapping[str, Items], exemplars: Sequence[tuple[str, str]]) -> Items:
    """Exactly the named images of some tasks: all that a method sees again of earlier ones, named "replay".

    They are in the order of their task and id, whenever and in whatever order they were remembered.

    Args:
        tasks: the training images of each task, by name.
        exemplars: (task, id) of each image; a repeated one counts once.

    Raises:
        CasamError: no image is named, or one that is not among its task's.
    """
    names = sorted(set(exemplars))
    if not names:
        raise CasamError("replay needs an image", "pass no items where nothing is remembered")
    wanted = {task for task, _ in names}
    held = {(task, row.item.id): row for task, items in tasks.items() if task in wanted for row in items.rows}
    missing = [f"{task}/{item}" for task, item in names if (task, item) not in held]
    if missing:
        raise CasamError(
            f"remembered image {missing[0]} is not in the training split of its task",
            "its annotations changed since: run the sequence anew",
        )
    return Items("replay", tasks[names[0][0]].embedding_shape, tuple(held[name] for name in names))


def add_views(items: Items, views: Sequence[View]) -> Items:
    """The items first, in their order, and then all of them again as each cached view: mirrored, turned, smaller.

    The embeddings of views were made by `casam encode --views`. An item with masks names its other places in
    `variants`; those are never visited by themselves, but each visit of the image draws which one it is shown as, by
    (seed, task, epoch, sample) like everything else. A crop that would cut a mask of the image is not among them.

    Args:
        items: for training.
        views: of which the store has the arrays.
    """
    count = len(items)
    plain = []
    for index, row in enumerate(items.rows):
        geometry, others = row.item.geometry, tuple[int, ...]()
        if row.item.masks:
            boxes = np.stack([mask.box for mask in row.masks()])
            places = enumerate(range(index + count, count * (1 + len(views)), count))
            others = tuple(
                place for at, place in places if views[at].keeps(boxes, geometry.height, geometry.width)
            )
        plain.append(replace(row, item=replace(row.item, variants=others)))
    shown = [_as_view(items.task, row, view) for view in views for row in items.rows]
    return Items(items.task, items.embedding_shape, (*plain, *shown))


def _as_view(task: str, row: Row, view: View) -> Row:
    geometry = row.item.geometry

    def read(name: str) -> np.ndarray:
        if name != EMBEDDING:
            raise StoreError(
                f"views of {task} have no '{name}': only embeddings are stored of them",
                "train this method with views=none",
            )
        return row.read(view.array)

    def masks() -> list[ItemMask]:
        return [
            replace(
                mask,
                held=partial(_seen, mask, view),
                box=view.boxes(mask.box, geometry.height, geometry.width),
                point=view.points(mask.point, geometry.height, geometry.width),
            )
            for mask in row.masks()
        ]

    def ignored() -> np.ndarray | None:
        return view.ignored(row.ignored(), geometry.height, geometry.width)

    item = replace(row.item, geometry=view.geometry(geometry), visits=0.0, view=view.name)
    return Row(item, read, masks, ignored)


def _seen(mask: ItemMask, view: View) -> Cutout:
    """Where a mask is in a view."""
    return view.mask(mask.cutout)
