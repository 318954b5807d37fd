"""Embeddings read in order from a store in a bucket: with and without reading ahead, and again from the cache.

    python benchmarks/bucket_read.py --count 256 --latency 0.1 --work 0.02

The bucket is moto's server in a process of its own, so what is measured is not a network: `--latency` seconds are
waited before each file, as a distant server would let us wait. A reader works `--work` seconds with each embedding, as
a training step does; told are the seconds in which it waited for the store. Embeddings have LiteMedSAM's size (2 MiB,
16 a shard). All sides must read the same bytes, or there are no figures.

Writes benchmarks/results/bucket_read.json and .md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from common import RESULTS, measured_with, provenance, write_result

from casam_cache.geometry import Geometry
from casam_cache.store import EmbeddingStore, ItemResult, StoreWriter, bucket_cache
from casam_cache.store.bucket_cache import local_stores
from casam_cache.store.copy import copy_stores
from casam_cache.store.places import Bucket

SHAPE = (256, 64, 64)
ADDRESS = "s3://lab/stores"


def write_store(path: Path, count: int) -> None:
    """A store of `count` seeded embeddings."""
    rng = np.random.default_rng(0)
    geometry = Geometry.fit(256, 256, 256, 4)
    with StoreWriter.open_or_create(
        path, {"made": "by a benchmark"}, embedding_shape=SHAPE, image_size=256, patch_size=4
    ) as writer:
        writer.plan([(f"i{index}", f"images/i{index}.png") for index in range(count)], 1)
        for batch in writer.pending():
            values = rng.standard_normal(SHAPE, dtype=np.float32)
            writer.append(batch, [ItemResult({"embedding": values}, geometry, bytes(32))])


def read_all(store: Path, work: float) -> tuple[float, int]:
    """Seconds in which a reader that works with each embedding waited for it, and a sum over their bits."""
    opened, waited, bits = EmbeddingStore.open(store), 0.0, 0
    for item in range(len(opened)):
        start = time.perf_counter()
        bits += int(opened.read(item).view(np.uint16).sum(dtype=np.uint64))
        waited += time.perf_counter() - start
        time.sleep(work)
    return waited, bits


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds waited by side."""
    write_store(folder / "stores" / "drawn" / "lite.zarr", options.count)
    copy_stores(str(folder / "stores"), ADDRESS)
    honest = Bucket.read

    def distant(self: Bucket, name: str) -> bytes | None:
        time.sleep(options.latency)
        return honest(self, name)

    Bucket.read = distant  # type: ignore[method-assign]
    found = {"on a disk": read_all(folder / "stores" / "drawn" / "lite.zarr", options.work)}
    opening = 0.0
    for ahead in (0, bucket_cache.AHEAD):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        bucket_cache.AHEAD = ahead
        bucket_cache._pool.cache_clear()
        start = time.perf_counter()
        store = local_stores(ADDRESS) / "drawn" / "lite.zarr"
        opening = time.perf_counter() - start
        found[f"bucket, {ahead} shards ahead"] = read_all(store, options.work)
    found["bucket, read before"] = read_all(local_stores(ADDRESS) / "drawn" / "lite.zarr", options.work)
    Bucket.read = honest  # type: ignore[method-assign]
    if len({bits for _, bits in found.values()}) > 1:
        sys.exit("the sides read other numbers: no figures")
    return {
        "count": options.count, "latency": options.latency, "work": options.work, "opening_seconds": round(opening, 3),
        "seconds_waited": {name: round(seconds, 3) for name, (seconds, _) in found.items()},
        **provenance(torch.device("cpu")),
    }  # fmt: skip


def page(made: dict[str, Any]) -> list[str]:
    """The table."""
    lines = [
        "# Reading from a bucket",
        "",
        f"| {made['count']} embeddings of 2 MiB | s waited | ms an embedding |",
        "|---|---|---|",
    ]
    for name, seconds in made["seconds_waited"].items():
        lines.append(f"| {name} | {seconds:.3g} | {1000 * seconds / made['count']:.3g} |")
    explained = (
        f"{1000 * made['latency']:.0f} ms of latency before each file, {1000 * made['work']:.0f} ms of work with each "
        f"embedding; opening the store for the first time took {made['opening_seconds']:.3g} s. {measured_with(made)}"
    )
    return [*lines, "", explained]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.1)
    parser.add_argument("--work", type=float, default=0.02)
    parser.add_argument(
        "--folder", type=Path, help="where to put the files: three times the embeddings' bytes"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        os.environ |= {
            "CASAM_CACHE_DIR": f"{scratch}/cache", "AWS_ENDPOINT_URL": server, "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await(server)
            made = measure(options, Path(scratch))
        finally:
            process.terminate()
            process.wait()
    write_result(options.out / "bucket_read", made, page(made))
    print("\n".join(page(made)))


def _await(server: str) -> None:
    for _ in range(200):
        try:
            if requests.put(f"{server}/lab", timeout=10).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    sys.exit("the server does not start: pip install 'moto[server]'")


if __name__ == "__main__":
    main()
