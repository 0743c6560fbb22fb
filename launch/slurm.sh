#!/usr/bin/env bash
# Trains on a SLURM cluster, one process per GPU.
#
#   WORKDIR=/shared/runs/one NODES=2 GPUS=8 launch/slurm.sh [--dry-run] -- ARGUMENTS
#
# ARGUMENTS are those of stvsr_jax.main: --config configs/videoinr.py --config.data.path=/shared/data/adobe240 ...
# Submits a job that runs in this directory. Five minutes before its time is up, or when it is pre-empted, the run saves
# its state and the job goes back into the queue, to go on from there; other failures end it. --dry-run prints the
# batch script and the command.
#
# Settings, from the environment:
#   WORKDIR    directory of the run, on a file system that all nodes share; needed
#   NODES      machines (1)
#   GPUS       of each machine (8)
#   CPUS       cores for each GPU (8)
#   TIME       limit of the job (24:00:00)
#   PARTITION, ACCOUNT, QOS  of the cluster (its defaults)
#   NAME       of the job (stvsr)
#   PYTHON     with the project installed: pip install '.[cuda]' (.venv/bin/python)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/settings.sh"

parse_arguments take_nothing "$@"
NODES=${NODES:-1} GPUS=${GPUS:-8} CPUS=${CPUS:-8} TIME=${TIME:-24:00:00} NAME=${NAME:-stvsr}
PARTITION=${PARTITION:-} ACCOUNT=${ACCOUNT:-} QOS=${QOS:-} PYTHON=${PYTHON:-.venv/bin/python}
require WORKDIR
require_form WORKDIR '/[^[:space:]]*' /shared/runs/one
require_form NODES '[1-9][0-9]*' 2
require_form GPUS '[1-9][0-9]*' 8
require_form CPUS '[1-9][0-9]*' 8
require_form TIME '([0-9]+-)?[0-9]+(:[0-9]+){0,2}' 24:00:00
require_form NAME '[A-Za-z0-9_.-]+' stvsr
require_config ${arguments[@]+"${arguments[@]}"}
require_program sbatch

write_script() {
  cat << END
#!/usr/bin/env bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$GPUS
#SBATCH --gpus-per-node=$GPUS
#SBATCH --cpus-per-task=$CPUS
#SBATCH --time=$TIME
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$WORKDIR/slurm-%j.log
END
  [ -z "$PARTITION" ] || echo "#SBATCH --partition=$PARTITION"
  [ -z "$ACCOUNT" ] || echo "#SBATCH --account=$ACCOUNT"
  [ -z "$QOS" ] || echo "#SBATCH --qos=$QOS"
  # The processes find each other through SLURM's own variables. 143: stopped by a signal, with the state saved.
  cat << END
cd $(quote "$(dirname "$here")") || exit
code=0
srun --cpus-per-task=$CPUS $(quote "$PYTHON" -u -m stvsr_jax.main "${arguments[@]}" --workdir "$WORKDIR") || code=\$?
if [ "\$code" = 143 ]; then scontrol requeue "\$SLURM_JOB_ID"; fi
exit "\$code"
END
}

script=$(write_script)
if [ "$dry_run" = yes ]; then
  printf '%s\n' "mkdir -p $(quote "$WORKDIR")" "sbatch << 'END'" "$script" END
else
  mkdir -p "$WORKDIR"
  sbatch <<< "$script"
fi
