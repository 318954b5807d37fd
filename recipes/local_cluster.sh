#!/bin/sh
# A Dask cluster on this machine, to try `--executor dask:ADDRESS` with: a scheduler and WORKERS processes, until Ctrl-C.
#
#   recipes/local_cluster.sh [WORKERS] [PORT]         # in one terminal
#   casam encode DATA --executor dask:tcp://127.0.0.1:8786         # in another
set -eu
workers=${1:-4}
port=${2:-8786}
python=${PYTHON:-python3}
"$python" -m distributed.cli.dask_scheduler --host 127.0.0.1 --port "$port" --no-dashboard &
scheduler=$!
trap 'kill "$scheduler" 2>/dev/null || true' EXIT INT TERM
"$python" -m distributed.cli.dask_worker "tcp://127.0.0.1:$port" --nworkers "$workers" --nthreads 1 --no-dashboard &
worker=$!
trap 'kill "$worker" "$scheduler" 2>/dev/null || true' EXIT INT TERM
wait "$worker"
