"""The executor that a text names: processes here, a Dask cluster, or jobs of a batch system such as SLURM."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from casam_cache.errors import CasamError, OptionError

SPECS = "processes, dask, dask:ADDRESS, cluster:FILE.yaml"
SYSTEMS = {
    "slurm": ("SLURMCluster", "sbatch"),
    "pbs": ("PBSCluster", "qsub"),
    "sge": ("SGECluster", "qsub"),
    "lsf": ("LSFCluster", "bsub"),
    "oar": ("OARCluster", "oarsub"),
    "htcondor": ("HTCondorCluster", "condor_submit"),
}  # the class of dask_jobqueue, and the command that submits a job
LOOK_AGAIN = 10  # seconds between looks whether a job has started


@contextmanager
def open_executor(
    spec: str, jobs: int, say: Callable[[str], None] | None = None
) -> Iterator[tuple[Executor | None, int]]:
    """The executor a text names, and how many tasks it takes at once.

    Args:
        spec: `processes` (here; no executor is needed), `dask` (a cluster of processes on this machine),
            `dask:ADDRESS` of a scheduler, e.g. `dask:tcp://host:8786`, or `cluster:FILE.yaml`, jobs of a batch system
            (`read_cluster`). All workers must see the folders of data, stores and runs under the same paths.
        jobs: processes here, or workers of a cluster on this machine.
        say: called with a line for a person while jobs wait in a queue.

    Raises:
        OptionError: an unknown kind of executor, a file that cannot be used, or workers that run several tasks in one
            process.
        CasamError: Dask is not installed, the scheduler cannot be reached, or a worker died again and again.
    """
    kind, _, where = spec.partition(":")
    if kind == "processes" and not where:
        yield None, jobs
        return
    if kind not in ("dask", "cluster") or (kind == "cluster" and not where):
        raise OptionError(f"unknown executor '{spec}'", f"available: {SPECS}")
    try:
        from distributed import Client, KilledWorker, LocalCluster
    except ImportError:
        raise CasamError("Dask is not installed", "pip install 'casam-cache[cluster]'") from None
    with ExitStack() as stack:
        address: Any = where
        if kind == "cluster":
            address, jobs = _submitted(Path(where))
            stack.callback(address.close)
        elif not where:
            address = LocalCluster(
                n_workers=jobs, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                silence_logs=logging.ERROR,  # a worker that takes seconds to end is nothing to tell a person
            )  # fmt: skip
            stack.callback(address.close)
        try:
            client = Client(address, timeout="10s")
        except (OSError, ValueError) as error:
            raise CasamError(
                f"no Dask scheduler at {where}: {error}",
                "start one: dask scheduler; dask worker ADDRESS --nthreads 1",
            ) from None
        stack.callback(client.close)
        if kind == "cluster":
            _await_first(client, jobs, say)
        threads = client.nthreads()
        if not threads:
            raise CasamError(
                f"the Dask scheduler at {where} has no workers", f"dask worker {where} --nthreads 1"
            )
        if max(threads.values()) > 1:  # torch's number of threads belongs to a whole process
            fix = "cores: 1 in its file" if kind == "cluster" else f"dask worker {where} --nthreads 1"
            raise OptionError("a Dask worker runs several threads", fix)
        try:
            yield client.get_executor(pure=False), max(len(threads), jobs if kind == "cluster" else 0)
        except KilledWorker as error:
            raise CasamError(
                f"workers ended, one after the other, at the same task: {error}",
                "perhaps memory was short; the same command goes on from here",
            ) from error


def read_cluster(path: Path) -> tuple[str, int, dict[str, Any]]:
    """A file that describes jobs: the batch system, how many of them, and options of its class in `dask_jobqueue`.

        system: slurm
        workers: 8
        options: {queue: gpu, cores: 1, memory: 32GB, walltime: "08:00:00"}

    Raises:
        OptionError: it cannot be read or says something else.
    """
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"{path}: {' '.join(str(error).split())}") from None
    hint = "docs/clusters.md shows such a file"
    if not isinstance(found, dict) or set(found) - {"system", "workers", "options"}:
        raise OptionError(f"{path}: needs system, workers and options, and nothing else", hint)
    system, count, options = found.get("system"), found.get("workers"), found.get("options", {})
    if system not in SYSTEMS:
        raise OptionError(f"{path}: system is '{system}'", f"available: {', '.join(SYSTEMS)}")
    if not isinstance(count, int) or count < 1 or not isinstance(options, dict):
        raise OptionError(f"{path}: workers must be a number from 1, options a mapping", hint)
    return system, count, options


def _submitted(path: Path) -> tuple[Any, int]:
    """Jobs of a batch system, submitted, and how many."""
    system, count, options = read_cluster(path)
    kind, command = SYSTEMS[system]
    try:
        import dask_jobqueue
    except ImportError:
        raise CasamError("dask-jobqueue is not installed", "pip install 'casam-cache[cluster]'") from None
    if shutil.which(command) is None:
        raise CasamError(
            f"there is no {command} on this machine",
            f"run it where {system} jobs are submitted, e.g. a login node",
        )
    try:
        cluster = getattr(dask_jobqueue, kind)(
            **{"scheduler_options": {"dashboard_address": ":0"}, **options}
        )
    except (TypeError, ValueError) as error:
        raise OptionError(f"{path}: {error}", f"options are those of dask_jobqueue.{kind}") from None
    cluster.scale(jobs=count)
    return cluster, count


def _await_first(client: Any, jobs: int, say: Callable[[str], None] | None) -> None:
    """However long the queue is."""
    said = False
    while True:
        try:
            client.wait_for_workers(1, timeout=LOOK_AGAIN)
        except TimeoutError:
            if say is not None and not said:
                say(f"waiting until the first of {jobs} jobs starts; Ctrl-C withdraws them")
                said = True
        else:
            return
