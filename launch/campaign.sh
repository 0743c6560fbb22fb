#!/usr/bin/env bash
# Trains on the GPUs of this machine for one cycle of the campaign that made the weights that ship.
#
#   NETWORK=videoinr CLIPS=frames PHOTOS=photos STEPS=20000 launch/campaign.sh [--dry-run] [-- ARGUMENTS]
#
# Half of the samples are scenes of real video, half are moving layers made of photographs. ARGUMENTS are more of those of
# stvsr_jax.main, such as --workdir or --config.init_from for the next cycle; launch/parameters.py takes parameters
# to and from machines that come and go.
#
# Settings, from the environment: those of launch/gpus.sh, and
#   NETWORK  zooming_slowmo, videoinr, or video: Zooming Slow-Mo on degraded input, to begin with the parameters of
#            clean training (-- --config.init_from=DIR)
#   CLIPS    a folder of scenes that `python -m stvsr_jax.data.decode` wrote
#   PHOTOS   a folder of photographs
#   STEPS    length of the one cosine cycle
#   RATE     learning rate at its start (4e-4)
#   BATCH    samples of a step on each GPU (16 for zooming_slowmo and video, 24 for videoinr)
#   WORKERS  processes that make samples for each GPU (13)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/settings.sh"

parse_arguments take_nothing "$@"
require CLIPS PHOTOS
require_form STEPS '[1-9][0-9]*' 20000
export DEVICES=${DEVICES:-${CUDA_VISIBLE_DEVICES:-}}
if [ -z "$DEVICES" ]; then
  command -v nvidia-smi > /dev/null || fail "nvidia-smi is not installed on this machine; set DEVICES, like DEVICES=0,1"
  DEVICES=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd, -)
fi
IFS=, read -ra devices <<< "$DEVICES"

config=${NETWORK:-} recipe=()
case ${NETWORK:-} in
  zooming_slowmo | video)
    BATCH=${BATCH:-16}
    # At stride 2 twice as much moves between given frames, as in clips of fast motion.
    path="[('$CLIPS', 1, {'time_stride': (1, 2)}), ('layers:$PHOTOS', 1)]"
    recipe=(--config.loss.name=psnr)
    if [ "$NETWORK" = video ]; then
      config=zooming_slowmo recipe+=(--config.data.degrade=video)
    fi
    ;;
  videoinr)
    BATCH=${BATCH:-24}
    # Video of 240 frames a second, as the published recipe has, is not at hand: short windows too, and slow layers.
    path="[('$CLIPS', 1, {'window': 3, 'time_stride': (1, 2, 3)}), ('$CLIPS', 1, {'window': 5, 'time_stride': (1, 2)}),"
    path+=" ('$CLIPS', 1), ('layers:$PHOTOS', 3, {'speed': (0.125, 1.0)})]"
    recipe=(--config.data.recipe.hr_reduce=1 --config.data.recipe.num_times=3 --config.data.recipe.num_scales=3
      --config.data.recipe.reverse_time=True)
    ;;
  *) fail "NETWORK=${NETWORK:-} must be zooming_slowmo, videoinr or video" ;;
esac

options=()
[ "$dry_run" = no ] || options=(--dry-run)
exec "$here/gpus.sh" ${options[@]+"${options[@]}"} -- --config "configs/$config.py" --config.dtype=bfloat16 \
  --config.data.path="$path" --config.data.batch_size=$((BATCH * ${#devices[@]})) \
  --config.data.num_workers="${WORKERS:-13}" --config.data.validation_fraction=0.04 \
  --config.data.validation_windows=64 --config.optimizer.learning_rate="${RATE:-4e-4}" \
  --config.optimizer.cycle_steps="$STEPS" --config.train.num_steps="$STEPS" \
  ${recipe[@]+"${recipe[@]}"} ${arguments[@]+"${arguments[@]}"}
