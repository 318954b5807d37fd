"""Reading embeddings back: our store against memmap, safetensors, HDF5, zarr-python and tensorstore.

    python benchmarks/store_io.py --items vit --count 128
    python benchmarks/store_io.py --items small --count 96

Real embeddings of the bundled small model, from phantoms that are drawn for it: `small` are those themselves;
`vit` are float16 (256, 64, 64), 2 MiB, the size of SAM's ViTs: each has the channels of four of them, resized
bilinearly to 64 x 64. Every side holds the same items in files of its own and copies one item after the other into the
same array, in order and in one random order. Sides take turns every eight items, and a side's time is the sum of its
best turns. What it read must equal what was written. The files were just written: they are read from the page cache,
and nothing is said of a disk.

memmap is the floor: one .npy file, no checksum. Our store checks an item's checksum when a process first reads it;
in *verified always* it is opened anew for every turn, so that every read is checked. Packages that are not installed
are skipped by name (h5py: pip install casam-cache[benchmarks]). Exit code 1 if sides differ. Beside it stands what
lossless compression, which the store does not use for features, would save.

Writes benchmarks/results/store_io.json and .md, a row for each size of items.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, merge_rows, provenance

from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import resize_for_encoder, stack_inputs
from casam_cache.backbones.registry import load_backbone
from casam_cache.datasets.phantoms import TASKS, draw_phantom
from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore, ItemResult, StoreWriter

FLOOR, OURS, ALWAYS, INT8 = "numpy memmap", "our store", "our store, verified always", "our store, int8"
VIT = (256, 64, 64)
BLOCK = 8  # items that one side reads before the next takes its turn
Read = Callable[[int, np.ndarray], None]
"""(item, out): copies the item into `out`."""


def real_embeddings(count: int) -> np.ndarray:
    """float16 (count, C, g, g): the bundled model's embeddings of phantoms of every look."""
    encoder = FrozenEncoder(load_backbone("small"))
    architecture = encoder.backbone
    found = []
    for index in range(count):
        turn = index // len(TASKS)
        image, _ = draw_phantom(TASKS[index % len(TASKS)], turn, patient=turn // 2, seed=0)
        geometry = Geometry.fit(*image.shape[:2], architecture.image_size, architecture.patch_size)
        pixels, sizes = stack_inputs([resize_for_encoder(image, geometry)], architecture.image_size)
        found.append(
            encoder(torch.from_numpy(pixels), torch.from_numpy(sizes))["embedding"][0].half().numpy()
        )
    return np.stack(found)


def resampled(small: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """`count` items of ViT size, each from another choice of small ones."""
    parts = VIT[0] // small.shape[1]
    for index in range(count):
        chosen = np.random.default_rng(index).choice(len(small), parts, replace=len(small) < parts)
        channels = torch.from_numpy(small[chosen]).float().flatten(0, 1)[None]
        item = torch.nn.functional.interpolate(channels, VIT[1:], mode="bilinear", align_corners=False)
        yield item[0].half().numpy()


def write_store(path: Path, items: np.ndarray, dtype: str) -> None:
    """All items into a store of ours."""
    grid = items.shape[-1]
    geometry = Geometry(grid, grid, grid, grid, grid, 1)
    with StoreWriter.open_or_create(
        path,
        {"benchmark": "store_io"},
        embedding_shape=items.shape[1:],
        image_size=grid,
        patch_size=1,
        dtype=dtype,
    ) as writer:
        writer.plan([(str(index), f"{index}.png") for index in range(len(items))], 8)
        for batch in writer.pending():
            part = items[batch.start : batch.stop]
            sha = hashlib.sha256(str(batch).encode()).digest()
            writer.append(batch, [ItemResult({"embedding": item}, geometry, sha) for item in part])


def ours(folder: Path, items: np.ndarray, dtype: str = "float16") -> Callable[[], Read]:
    """Our store; reading opens it anew."""
    path = folder / "casam" / f"{dtype}.zarr"
    write_store(path, items, dtype)

    def opened() -> Read:
        store = EmbeddingStore.open(path)

        def read(index: int, out: np.ndarray) -> None:
            out[...] = store.read(index)

        return read

    return opened


def memmap(folder: Path, items: np.ndarray) -> Callable[[], Read]:
    """One .npy file."""
    np.save(folder / "items.npy", items)

    def opened() -> Read:
        array = np.load(folder / "items.npy", mmap_mode="r")

        def read(index: int, out: np.ndarray) -> None:
            out[...] = array[index]

        return read

    return opened


def safetensors(folder: Path, items: np.ndarray) -> Callable[[], Read]:
    """One file with a tensor an item."""
    library = importlib.import_module("safetensors")
    save = importlib.import_module("safetensors.numpy").save_file
    save({str(index): item for index, item in enumerate(items)}, folder / "items.safetensors")

    def opened() -> Read:
        file = library.safe_open(folder / "items.safetensors", "numpy")

        def read(index: int, out: np.ndarray) -> None:
            out[...] = file.get_tensor(str(index))

        return read

    return opened


def hdf5(folder: Path, items: np.ndarray) -> Callable[[], Read]:
    """One dataset, one chunk an item, uncompressed."""
    library = importlib.import_module("h5py")
    with library.File(folder / "items.h5", "w") as file:
        file.create_dataset("items", data=items, chunks=(1, *items.shape[1:]))

    def opened() -> Read:
        dataset = library.File(folder / "items.h5", "r")["items"]

        def read(index: int, out: np.ndarray) -> None:
            dataset.read_direct(out, np.s_[index])

        return read

    return opened


def zarr_python(folder: Path, items: np.ndarray) -> Callable[[], Read]:
    """One array, one chunk an item, uncompressed."""
    library = importlib.import_module("zarr")
    chunks = (1, *items.shape[1:])
    array = library.create_array(
        folder / "items.zarr", shape=items.shape, chunks=chunks, dtype=items.dtype, compressors=None
    )
    array[...] = items

    def opened() -> Read:
        array = library.open_array(folder / "items.zarr", mode="r")

        def read(index: int, out: np.ndarray) -> None:
            out[...] = array[index]

        return read

    return opened


def tensorstore(folder: Path, items: np.ndarray) -> Callable[[], Read]:
    """The same layout as zarr-python's, without a cache."""
    library = importlib.import_module("tensorstore")
    base = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/items.ts/"}}
    chunk = {"name": "regular", "configuration": {"chunk_shape": [1, *items.shape[1:]]}}
    layout = {"shape": items.shape, "data_type": items.dtype.name, "chunk_grid": chunk}
    library.open({**base, "metadata": layout}, create=True).result().write(items).result()

    def opened() -> Read:
        array = library.open(base, open=True).result()

        def read(index: int, out: np.ndarray) -> None:
            out[...] = array[index].read().result()

        return read

    return opened


PEERS: dict[str, tuple[str, Callable[[Path, np.ndarray], Callable[[], Read]]]] = {
    FLOOR: ("numpy", memmap),
    "safetensors": ("safetensors", safetensors),
    "HDF5 (h5py)": ("h5py", hdf5),
    "zarr-python": ("zarr", zarr_python),
    "tensorstore": ("tensorstore", tensorstore),
}


def take_turns(
    sides: dict[str, Callable[[], Read]], items: np.ndarray, repeat: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Seconds of a pass by order and side, the best of each block, and the largest difference of what a side read."""
    count = len(items)
    orders = {"random": np.random.default_rng(0).permutation(count), "sequential": np.arange(count)}
    kept = {name: opened() for name, opened in sides.items()}
    differences = dict.fromkeys(sides, 0.0)
    out = np.empty(items.shape[1:], items.dtype)
    for name, read in kept.items():  # also the first turn, which warms up
        for index in range(count):
            read(index, out)
            difference = np.abs(out.astype(np.float32) - items[index].astype(np.float32)).max()
            differences[name] = max(differences[name], float(difference / np.abs(items[index]).max()))
    names = list(sides)
    best = {order: {name: np.full(-(-count // BLOCK), np.inf) for name in sides} for order in orders}
    for turn in range(repeat):
        for order, indexes in orders.items():
            kept[ALWAYS] = sides[ALWAYS]()
            for block, first in enumerate(range(0, count, BLOCK)):
                places = indexes[first : first + BLOCK].tolist()
                begin = (turn + block) % len(names)
                for name in names[begin:] + names[:begin]:
                    read, taken = kept[name], best[order][name]
                    start = time.perf_counter()
                    for index in places:
                        read(index, out)
                    taken[block] = min(taken[block], time.perf_counter() - start)
    return {
        order: {name: float(t.sum()) for name, t in found.items()} for order, found in best.items()
    }, differences


def compression(items: np.ndarray) -> dict[str, dict[str, float]]:
    """What lossless codecs would save: the share of the bytes that is left, and GB/s of decoding, item by item."""
    from numcodecs import Shuffle, Zstd

    codecs = {"zstd 3": [Zstd(level=3)], "shuffle, zstd 3": [Shuffle(elementsize=2), Zstd(level=3)]}
    found = {}
    for name, codec in codecs.items():
        encoded = []
        for item in items:
            data: Any = item.tobytes()
            for step in codec:
                data = step.encode(data)
            encoded.append(data)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            for data in encoded:
                for step in reversed(codec):
                    data = step.decode(data)
            best = min(best, time.perf_counter() - start)
        left = sum(memoryview(data).nbytes for data in encoded) / items.nbytes
        found[name] = {
            "bytes_left": round(left, 3),
            "decode_gb_per_second": round(items.nbytes / best / 1e9, 3),
        }
    return found


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """An empty folder for the files, removed afterwards."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="store_io-") as name:
        yield Path(name)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One row of the results."""
    small = real_embeddings(options.count if options.items == "small" else min(options.count, 32))
    items = small if options.items == "small" else np.stack(list(resampled(small, options.count)))
    sides: dict[str, Callable[[], Read]] = {}
    versions, skipped = {}, []
    with scratch(options.folder) as folder:
        for name, (package, make) in PEERS.items():
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                skipped.append(name)
                continue
            sides[name] = make(folder, items)
        sides[OURS] = sides[ALWAYS] = ours(folder, items)
        sides[INT8] = ours(folder, items, "int8")
        best, differences = take_turns(sides, items, options.repeat)
    wrong = [name for name, value in differences.items() if value > (0.01 if name == INT8 else 0)]
    if wrong:
        sys.exit(f"{', '.join(wrong)} read other numbers than were written: no figures")
    rates = {
        order: {name: round(len(items) / seconds, 1) for name, seconds in times.items()}
        for order, times in best.items()
    }
    return {
        "items": options.items,
        "count": len(items),
        "shape": list(items.shape[1:]),
        "item_bytes": items[0].nbytes,
        "repeat": options.repeat,
        "items_per_second": rates,
        "share_of_memmap": {
            order: {name: round(rate / found[FLOOR], 3) for name, rate in found.items()}
            for order, found in rates.items()
        },
        "int8_largest_difference": differences[INT8],
        "compression": compression(items[:32]),
        "skipped": skipped,
        **provenance(torch.device("cpu"), **versions),
    }


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """One table a size of items."""
    lines = ["# Reading embeddings", ""]
    for row in rows:
        shape = ", ".join(map(str, row["shape"]))
        size = row["item_bytes"] / 2**20
        lines += [
            f"## {row['items']}: float16 ({shape}), {size:.3g} MiB an item, {row['count']} items",
            "",
            "| | random, items/s | GB/s | of memmap | sequential, items/s | GB/s | of memmap |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in row["items_per_second"]["random"]:
            cells = []
            for order in ("random", "sequential"):
                rate = row["items_per_second"][order][name]
                cells.append(f"{rate:.0f} | {rate * row['item_bytes'] / 1e9:.2f}")
                cells.append(f"**{100 * row['share_of_memmap'][order][name]:.0f} %**")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        saved = "; ".join(
            f"{name}: {100 * codec['bytes_left']:.0f} % of the bytes, "
            f"decoded at {codec['decode_gb_per_second']:.2f} GB/s"
            for name, codec in row["compression"].items()
        )
        skipped = f" Not installed, skipped: {', '.join(row['skipped'])}." if row["skipped"] else ""
        lines += [
            "",
            f"Best of {row['repeat']}; int8 is decoded to float16 (largest difference "
            f"{row['int8_largest_difference']:.1e} of the largest value). Lossless compression would leave of these "
            f"embeddings: {saved}.{skipped} {row['date']}, {row['hardware']}, "
            f"load average {row['load']}; {versions}; `{row['command']}`",
            "",
        ]
    explained = (
        "All sides in one process, taking turns over the same items in the page cache, each copying one item after "
        "the other into the same array; every side but int8 gave back exactly what was written. memmap is the floor: "
        "no checksum, one file. *our store* checks an item's checksum at its first read in a process, before the turns "
        "that count; *verified always* is opened anew for each turn, so that every read is checked. `vit` items are "
        "real embeddings of the bundled small model, four of them resized and joined to the size of a ViT's."
    )
    return [*lines, explained]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", default="vit", choices=["vit", "small"])
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to put the files: 7 times the items' bytes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    row = measure(options)
    path = options.out / "store_io.json"
    lines = markdown(merge_rows(path, row, ("items",)))
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
