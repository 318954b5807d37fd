#!/usr/bin/env bash
# The main job on a folder of datasets: encode each once, fit an Alignment Layer to each, one table against frozen SAM.
#
#   recipes/frozen_vs_fitted.sh DATA OUT                                  the default model, on two cores
#   recipes/frozen_vs_fitted.sh DATA OUT --model vit_b --resize stretch   the paper's setting: ViT-B, 1024 x 1024 stretched
#
# What follows OUT goes to casam encode. FIT holds options of the fits; by default they are the backbone's recipe.
# Interrupt it and run it again: nothing finished is repeated.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 DATA OUT [options of casam encode]" >&2
    exit 2
fi
data=$1 out=$2
shift 2
model=lite_medsam name=
previous=
for word in "$@"; do
    case $previous in --model) model=$word ;; --name) name=$word ;; esac
    previous=$word
done
here=$(cd "$(dirname "$0")" && pwd)
casam encode "$data" --store "$out/store" "$@"
# shellcheck disable=SC2086
python "$here/../benchmarks/frozen_vs_fitted.py" "$out/store" --runs "$out/runs" --model "${name:-$model}" --out "$out/table" ${FIT:-}
