#!/bin/sh
# Trains the small SAM and bundles it: RUN=folder sh benchmarks/small_sam/recipe.sh [--seed 1]
# First the encoder, which needs no decoder to learn; then everything on small inputs, where a step is cheap; then at the
# size that ships, while the rate falls, and last with objects however small. Two processes of one thread each, three hours.
# Interrupt it and start it again as often as you like: each line goes on from the checkpoint, and does nothing once its
# steps are done.
# For longer, multiply the steps: LONGER=4 sh ...; on a GPU: PARTS=1 sh ... --device cuda --images 32 --workers 8.
set -eu
cd "$(dirname "$0")/../.."
RUN=${RUN:-small_sam_run}
LONGER=${LONGER:-1}
train="python benchmarks/small_sam/train.py run --folder $RUN --parts ${PARTS:-2} --threads 1 --workers 0"
encoder=$((1100 * LONGER)) coarse=$((5000 * LONGER)) fine=$((6500 * LONGER)) small=$((6900 * LONGER))
$train --learn encoder --size 128 --steps $encoder --decay 400 --rate 0.002 --average 0.99 --ease 0.4 "$@"
$train --size 128 --prompts 12 --steps $coarse --rate 0.0015 --average 0.99 --ease 0.2 "$@"
$train --size 192 --prompts 12 --steps $fine --decay $((1200 * LONGER)) --rate 0.0013 --average 0.99 --ease 0.1 "$@"
$train --size 192 --prompts 12 --steps $small --decay $((400 * LONGER)) --rate 0.0007 --average 0.98 "$@"
[ -n "${NO_EXPORT:-}" ] || python benchmarks/small_sam/train.py export --folder "$RUN"
