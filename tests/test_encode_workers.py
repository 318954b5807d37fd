"""Shards of one store on several workers: the bytes of one process, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Casam, add_images, draw_dataset

from casam_cache.encode import shards
from casam_cache.encode.dataset import encode_dataset
from casam_cache.encode.options import EncodeOptions
from casam_cache.encode.shards import Workers
from casam_cache.errors import CasamError, HeldError
from casam_cache.store import EmbeddingStore
from casam_cache.store.lock import lock_shard, lock_store

SHARD = 3  # images


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casam_cache.store.writer.shard_length", lambda item_bytes: SHARD)


@pytest.fixture
def options(tiny_checkpoint: Path) -> EncodeOptions:
    return EncodeOptions(
        model="small", checkpoint=tiny_checkpoint, name="tiny", device="cpu", batch_size=2, views=("flip_h",)
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def one_thread() -> Iterator[Workers]:
    with ThreadPoolExecutor(1) as pool:
        yield Workers(pool, 1)


def spoil(data: Path, name: str) -> None:
    (path,) = (data / "images").glob(f"{name}.*")
    path.write_bytes(b"no image")


def test_shards_have_the_bytes_of_one_process(
    discs: Path, tmp_path: Path, options: EncodeOptions, one_thread: Workers
) -> None:
    """With an image that cannot be read, further views and images that come later; each file, the hidden ones too."""
    names = sorted(path.stem for path in (discs / "images").iterdir())
    spoil(discs, names[4])
    seen: list[tuple[int, int]] = []

    def note(task: str, done: int, total: int, *_: object) -> None:
        seen.append((done, total))

    reports = {
        folder: encode_dataset(discs, tmp_path / folder, options, workers=workers, progress=note)[0]
        for folder, workers in (("alone", None), ("shared", one_thread))
    }
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")
    assert reports["shared"].problems == reports["alone"].problems
    assert (reports["shared"].encoded, reports["shared"].failed) == (9, 1)
    assert seen[-1] == (20, 20)  # each image and its view
    add_images(discs, 4)
    for folder, workers in (("alone", None), ("shared", one_thread)):
        (report,) = encode_dataset(discs, tmp_path / folder, options, workers=workers)
        assert report.encoded == 4
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")


def test_an_interrupted_run_goes_on_without_workers(
    discs: Path, tmp_path: Path, options: EncodeOptions, one_thread: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = shards.encode_shard

    def fails_at_the_second(work: shards.ShardWork) -> shards.ShardDone:
        if work.shard:
            raise CasamError("the power is out")
        return encode(work)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "encode_shard", fails_at_the_second)
        patch.setattr(shards, "join_looks", lambda *_: None)  # ended before that
        with pytest.raises(CasamError, match="the power is out"):
            encode_dataset(discs, tmp_path / "shared", options, workers=one_thread)
    path = tmp_path / "shared" / "discs" / "tiny.zarr"
    assert EmbeddingStore.open(path).committed("embedding").sum() == SHARD
    assert list(path.parent.glob(".tiny.looks.*"))
    encode_dataset(discs, tmp_path / "shared", options)
    encode_dataset(discs, tmp_path / "alone", options)
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")


def test_a_worker_that_sees_another_store_says_so(
    discs: Path, tmp_path: Path, options: EncodeOptions, one_thread: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casam_cache.encode.one_shard.SEEN_WITHIN", 0.0)
    monkeypatch.setattr(shards, "metadata_of", lambda path: "of the disk of another machine")
    with pytest.raises(CasamError, match="sees another store"):
        encode_dataset(discs, tmp_path, options, workers=one_thread)


def test_a_held_shard_holds_its_store_but_not_the_others(
    discs: Path, tmp_path: Path, options: EncodeOptions, one_thread: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that its scheduler lost, and that goes on: nobody writes beside it."""
    path = tmp_path / "discs" / "tiny.zarr"
    path.parent.mkdir()
    held = lock_shard(path, 0)
    with pytest.raises(HeldError, match="writing into shard 0"):
        lock_store(path)
    held.release()
    encode, asked = shards.encode_shard, list[int]()

    def held_once(work: shards.ShardWork) -> shards.ShardDone:
        asked.append(work.shard)
        if asked == [0]:
            with lock_shard(path, 0):
                return encode(work)
        return encode(work)

    monkeypatch.setattr(shards, "encode_shard", held_once)
    monkeypatch.setattr(shards, "LOOK_AGAIN", 0.05)
    encode_dataset(discs, tmp_path, options, workers=one_thread)
    assert asked == [0, 1, 2, 3, 0]
    assert EmbeddingStore.open(path).committed("embedding").all()


@pytest.mark.slow
def test_a_cluster_of_which_a_worker_is_killed(tmp_path: Path, options: EncodeOptions) -> None:
    """Four processes of Dask; one is killed while it fills a shard."""
    from distributed import Client, LocalCluster

    data = draw_dataset(tmp_path / "discs", images=24)
    encode_dataset(data, tmp_path / "alone", options)
    locks = tmp_path / "shared" / "discs"
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 100
        while not killed and time.monotonic() < until:
            for lock in locks.glob(".tiny.shard-*.lock"):
                try:
                    pid = int(lock.read_text().split()[0])
                except (OSError, IndexError):
                    continue
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                break
            time.sleep(0.002)

    with (
        LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        client.run(_slow_down)
        assert len(set(client.run(os.getpid).values())) == 4
        thread = threading.Thread(target=kill)
        thread.start()
        (report,) = encode_dataset(
            data, tmp_path / "shared", options, workers=Workers(client.get_executor(pure=False), 4)
        )
        thread.join()
        assert killed
        assert killed[0] not in client.run(os.getpid).values()
    assert report.encoded == 24
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")


def _slow_down() -> None:
    """A shard takes half a second or so: there is time to kill its worker."""
    from casam_cache.store.shard_writer import ShardWriter

    append = ShardWriter.append

    def later(self: ShardWriter, *arguments: Any) -> None:
        time.sleep(0.1)
        append(self, *arguments)

    ShardWriter.append = later  # type: ignore[method-assign]


@pytest.mark.slow
def test_the_cluster_of_the_recipe(
    casam: Casam, discs: Path, options: EncodeOptions, tiny_checkpoint: Path
) -> None:
    """Workers that were there before, in another folder, behind an address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parents[1] / "recipes" / "local_cluster.sh"
    elsewhere = casam.folder / "elsewhere"
    elsewhere.mkdir()
    cluster = subprocess.Popen(
        ["sh", script, "2", str(port)], cwd=elsewhere, env={**os.environ, "PYTHON": sys.executable},
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    arguments = ("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")
    options_ = ("--views", "flip_h", "--batch-size", 2, "--device", "cpu", "--store", "shared")
    try:
        until = time.monotonic() + 60
        casam.code = 1
        while casam.code and time.monotonic() < until:  # until it has workers
            casam(*arguments, *options_, "--executor", f"dask:tcp://127.0.0.1:{port}")
        assert casam.code == 0, casam.err
    finally:
        cluster.terminate()
        cluster.wait(20)
    encode_dataset(discs, Path("alone"), options)
    assert tree(Path("shared")) == tree(Path("alone"))


SBATCH = """#!/bin/sh
# What a batch system does, on this machine: takes a script, which is deleted then, runs it, says its number.
cp "$1" "$1.job"
nohup sh "$1.job" > "$1.out" 2>&1 &
echo "Submitted batch job $!"
"""


@pytest.mark.slow
def test_jobs_of_a_batch_system(
    casam: Casam, discs: Path, options: EncodeOptions, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
) -> None:
    """`sbatch` and `scancel` stand in for SLURM; the rest is dask-jobqueue as it is."""
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/sh\nkill "$@"\n')):
        path = casam.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{casam.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    python = f"  python: {sys.executable}\n"
    Path("slurm.yaml").write_text(
        "system: slurm\nworkers: 2\noptions:\n  cores: 1\n  memory: 2GB\n  interface: lo\n" + python
    )
    arguments = ("encode", discs, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")
    options_ = ("--views", "flip_h", "--batch-size", 2, "--device", "cpu")
    casam(*arguments, *options_, "--store", "shared", "--executor", "cluster:slurm.yaml")
    assert casam.code == 0, casam.err
    encode_dataset(discs, Path("alone"), options)
    assert tree(Path("shared")) == tree(Path("alone"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("system: cron\nworkers: 2\n", "system is 'cron'"),
        ("system: slurm\nworkers: 0\n", "workers must be a number from 1"),
        ("system: slurm\nnodes: 2\n", "needs system, workers and options, and nothing else"),
        ("- slurm\n", "needs system"),
        ("system: slurm\nworkers: 2\n", "no sbatch on this machine"),
    ],
)
def test_a_file_of_jobs_that_cannot_be_used(
    casam: Casam, discs: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setenv("PATH", "")
    Path("jobs.yaml").write_text(text)
    casam("encode", discs, "--executor", "cluster:jobs.yaml")
    assert casam.code == 1
    assert said in casam.err
