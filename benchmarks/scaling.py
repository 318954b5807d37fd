"""What a store costs as it grows: encode and write at 100, 1,000 and 10,000 images; open and verify a million items.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --images 100 1000 --items 20000      # shorter

Three parts, each of its own:

- *encode*: the whole of `casam encode` (read the dataset, plan, decode, encode, write, annotate) on drawn 32 x 32
  images with a tiny seeded SAM, so that what surrounds the encoder is what is measured; then once more with nothing to
  do. The cost of an image should not depend on how many there are.
- *open*: a store of a million items of (4, 2, 2), opened in fresh processes; importing the package is given apart.
- *verify*: every byte of that store, and of one with items of 2 MiB, read back and checked; beside it, reading the same
  files without checking anything. The files were just written and lie in the page cache.

Writes benchmarks/results/scaling.json and .md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, provenance
from PIL import Image
from safetensors.torch import save_file

from casam_cache.backbones.architecture import Architecture
from casam_cache.backbones.sam import backbone_state, seeded_backbone
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.geometry import Geometry
from casam_cache.store import ItemResult, StoreWriter
from casam_cache.store.verify import verify

TINY = Architecture(
    image_size=32, patch_size=8, width=16, depth=2, heads=2, window=3, global_blocks=(1,), channels=8,
    decoder_heads=2, decoder_mlp=16, mask_channels=4, iou_width=8,
)  # fmt: skip
SHAPE = (4, 2, 2)
LARGE = (256, 64, 64)
OPENED = """
import json, sys, time
start = time.perf_counter()
from casam_cache.store import EmbeddingStore
imported = time.perf_counter()
store = EmbeddingStore.open(sys.argv[1])
items = len(store)
opened = time.perf_counter()
store.read(items - 1)
read = time.perf_counter()
store.index(store.ids[-1])
listed = time.perf_counter()
print(json.dumps({"items": items, "import": imported - start, "open": opened - imported, "first_read": read - opened,
                  "list_ids": listed - read}))
"""


def draw(root: Path, count: int) -> Path:
    """A dataset of `count` tiny images, each with a mask."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        y, x = rng.integers(0, 20, 2)
        mask[y : y + 10, x : x + 8] = 255
        Image.fromarray(pixels).save(root / "images" / f"{index:07d}.png", compress_level=1)
        Image.fromarray(mask).save(root / "masks" / f"{index:07d}.png", compress_level=1)
    return root


def encode(folder: Path, count: int) -> dict[str, Any]:
    """The time of one run over `count` new images, and of a second one."""
    weights = folder / "tiny.safetensors"
    state = {name: value.contiguous() for name, value in backbone_state(seeded_backbone(TINY, 0)).items()}
    save_file(state, weights, metadata={"architecture": json.dumps(TINY.to_json())})
    data = draw(folder / f"data{count}" / "task", count)
    options = EncodeOptions(model="small", checkpoint=weights, name="tiny", device="cpu")
    start = time.perf_counter()
    (report,) = encode_dataset(data, folder / f"stores{count}", options)
    seconds = time.perf_counter() - start
    if report.encoded != count or report.masks != count:
        sys.exit(f"{report.encoded} of {count} images encoded: no figures")
    start = time.perf_counter()
    (again,) = encode_dataset(data, folder / f"stores{count}", options)
    second = time.perf_counter() - start
    if again.encoded:
        sys.exit("the second run encoded something: no figures")
    parts = {name: 1e3 * value / count for name, value in report.seconds.items() if name != "total"}
    parts["plan, annotate"] = 1e3 * (seconds - report.seconds["total"]) / count
    return {
        "images": count,
        "seconds": round(seconds, 3),
        "ms_per_image": round(1e3 * seconds / count, 3),
        "ms_per_image_by_part": {name: round(value, 3) for name, value in parts.items()},
        "ms_per_image_nothing_to_do": round(1e3 * second / count, 4),
    }


def write(path: Path, count: int, shape: tuple[int, ...]) -> None:
    """A store of `count` items of random features. Its files are not synced to disk: nothing of this is timed."""
    os.fsync, sync = (lambda descriptor: None), os.fsync
    try:
        _write(path, count, shape)
    finally:
        os.fsync = sync


def _write(path: Path, count: int, shape: tuple[int, ...]) -> None:
    grid, rng = shape[-1], np.random.default_rng(0)
    features = [rng.standard_normal(shape).astype(np.float16) for _ in range(64)]
    pooled = np.zeros(shape[0], np.float32)  # its own cost is part of `encode`
    geometry = Geometry(grid, grid, grid, grid, grid, 1)
    with StoreWriter.open_or_create(
        path, {"benchmark": "scaling"}, embedding_shape=shape, image_size=grid, patch_size=1
    ) as writer:
        items = [(f"patient{i // 100:06d}/slice{i % 100:03d}", f"images/{i:08d}.png") for i in range(count)]
        writer.plan(items, 1024)
        for batch in writer.pending():
            sha = hashlib.sha256(str(batch.start).encode()).digest()
            writer.append(
                batch,
                [
                    ItemResult({"embedding": features[i % 64]}, geometry, sha, pooled)
                    for i in range(batch.start, batch.stop)
                ],
            )


def opening(path: Path, repeat: int) -> dict[str, float]:
    """Median seconds of opening it in fresh processes, by part."""
    runs = []
    for _ in range(repeat):
        done = subprocess.run(
            [sys.executable, "-c", OPENED, str(path)], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    return {name: round(float(np.median([run[name] for run in runs])), 4) for name in runs[0]}


def verifying(path: Path, repeat: int) -> dict[str, Any]:
    """Seconds of `verify`, and of reading the same files, the best of turns."""
    files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    size = sum(file.stat().st_size for file in files)
    checked = plain = float("inf")
    buffer = bytearray(2**22)
    report = None
    for _ in range(repeat):
        start = time.perf_counter()
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass
        plain = min(plain, time.perf_counter() - start)
        start = time.perf_counter()
        report = verify(path)
        checked = min(checked, time.perf_counter() - start)
        if not (report.sound and report.complete):
            sys.exit(f"{path} is not sound: {report.describe()[:3]}")
    assert report is not None
    return {
        "items": report.meta.items,
        "files": len(files),
        "megabytes": round(size / 1e6, 1),
        "verify_seconds": round(checked, 3),
        "read_seconds": round(plain, 3),
        "items_per_second": round(report.meta.items / checked, 1),
        "megabytes_per_second": round(size / 1e6 / checked, 1),
        "read_megabytes_per_second": round(size / 1e6 / plain, 1),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All three parts."""
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="scaling-") as name:
        folder = Path(name)
        encode(folder, 8)  # imports and first kernels
        encoded = [encode(folder, count) for count in options.images]
        many, large = folder / "many" / "x.zarr", folder / "large" / "x.zarr"
        write(many, options.items, SHAPE)
        opened = opening(many, options.repeat)
        if opened["items"] != options.items:
            sys.exit(f"{opened['items']} items instead of {options.items}: no figures")
        verified = [verifying(many, 1)]
        write(large, options.large, LARGE)
        verified.append(verifying(large, options.repeat))
    return {
        "encode": encoded,
        "open": {**opened, "items": options.items},
        "verify": verified,
        **provenance(torch.device("cpu")),
    }


def markdown(found: dict[str, Any]) -> list[str]:
    """The tables of the three parts."""
    parts = list(found["encode"][0]["ms_per_image_by_part"])
    lines = [
        "# Scaling",
        "",
        "| images | encode, ms an image | " + " | ".join(parts) + " | second run, ms an image |",
        "|" + "---|" * (3 + len(parts)),
    ]
    for row in found["encode"]:
        cells = " | ".join(f"{row['ms_per_image_by_part'][part]:.2f}" for part in parts)
        lines.append(
            f"| {row['images']:,} | **{row['ms_per_image']:.2f}** | {cells} | {row['ms_per_image_nothing_to_do']:.3f} |"
        )
    opened = found["open"]
    lines += [
        "",
        "| items | import, s | open, s | first item, s | list and index all ids, s |",
        "|---|---|---|---|---|",
        f"| {opened['items']:,} | {opened['import']:.3f} | **{opened['open']:.4f}** | "
        f"{opened['first_read']:.4f} | {opened['list_ids']:.2f} |",
        "",
        "| items | files | MB | verify, s | items/s | MB/s | reading the same files, MB/s | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["verify"]:
        lines.append(
            f"| {row['items']:,} | {row['files']:,} | {row['megabytes']:,.0f} | {row['verify_seconds']:.2f} | "
            f"{row['items_per_second']:,.0f} | {row['megabytes_per_second']:,.0f} | "
            f"{row['read_megabytes_per_second']:,.0f} | "
            f"**{100 * row['read_seconds'] / row['verify_seconds']:.0f} %** |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    explained = (
        "*encode* is the whole of `casam encode` on 32 x 32 images with a tiny SAM, so that what surrounds the encoder "
        "shows; decode, encode and write are what the encoding thread spent on or waited for each. A store is opened "
        f"in fresh processes (median); its items are float16 {SHAPE}, in the last row {LARGE}. All files are in the "
        "page cache, for verifying and for plain reading alike: nothing is said of a disk."
    )
    return [
        *lines,
        "",
        explained,
        "",
        f"{found['date']}, {found['hardware']}, load average {found['load']}; {versions}; `{found['command']}`",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=128, help="items of 2 MiB")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to put the files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = measure(options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = markdown(found)
    (options.out / "scaling.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
