"""Where stages run: processes here, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from casam_cache.errors import CasamError, OptionError


@contextmanager
def open_executor(spec: str, jobs: int) -> Iterator[tuple[Executor | None, int]]:
    """The executor a text names, and how many stages it takes at once.

    Args:
        spec: `processes` (here; no executor is needed), `dask` (a cluster of processes on this machine), or
            `dask:ADDRESS` of a scheduler, e.g. `dask:tcp://host:8786`. All workers must see the folders of stores and
            runs under the same paths.
        jobs: processes here, or workers of a cluster on this machine.

    Raises:
        OptionError: an unknown kind of executor, or workers that run several stages in one process.
        CasamError: Dask is not installed, or the scheduler cannot be reached.
    """
    kind, _, address = spec.partition(":")
    if kind == "processes" and not address:
        yield None, jobs
        return
    if kind != "dask":
        raise OptionError(f"unknown executor '{spec}'", "available: processes, dask, dask:ADDRESS")
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise CasamError("Dask is not installed", "pip install 'casam-cache[cluster]'") from None
    cluster: Any = None
    if not address:
        cluster = LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
    try:
        client = Client(cluster or address, timeout="10s")
    except (OSError, ValueError) as error:
        raise CasamError(
            f"no Dask scheduler at {address}: {error}",
            "start one: dask scheduler; dask worker ADDRESS --nthreads 1",
        ) from None
    try:
        threads = client.nthreads()
        if not threads:
            raise CasamError(
                f"the Dask scheduler at {address} has no workers", f"dask worker {address} --nthreads 1"
            )
        if max(threads.values()) > 1:  # torch's number of threads belongs to a whole process
            raise OptionError("a Dask worker runs several threads", f"dask worker {address} --nthreads 1")
        yield client.get_executor(pure=False), len(threads)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()
