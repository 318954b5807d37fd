#!/bin/sh
# Trains the small SAM and bundles it: RUN=folder sh benchmarks/small_sam/recipe.sh [--device cuda --images 32]
# Small inputs first, where a step is cheap, then the size that ships, then the decoder alone, then its IoU head.
# Interrupt it and start it again as often as you like: each line goes on from the checkpoint, and does nothing once its
# steps are done.
set -eu
cd "$(dirname "$0")/../.."
RUN=${RUN:-small_sam_run}
train="python benchmarks/small_sam/train.py run --folder $RUN"
$train --size 64 --prompts 16 --steps 2000 --ease 0.8 "$@"
$train --size 128 --steps 12000 --ease 0.4 "$@"
$train --size 192 --steps 20000 --decay 6000 --average 0.995 "$@"
$train --size 192 --steps 30000 --decay 10000 --average 0.98 --learn decoder --window 256 "$@"
$train --size 192 --steps 30500 --decay 500 --rate 0.002 --average 0.95 --learn quality "$@"
python benchmarks/small_sam/train.py export --folder "$RUN"
