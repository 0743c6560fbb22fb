#!/usr/bin/env bash
# Trains on the GPUs of this machine, one process for each: a single one has to start the kernels of all of them.
#
#   launch/gpus.sh [--dry-run] -- ARGUMENTS
#
# ARGUMENTS are those of stvsr_jax.main: --config configs/videoinr.py --config.data.path=CLIPS ...
# Waits for all processes; only the first one reports. If one fails the others are ended. SIGTERM and Ctrl-C are handed on:
# the run saves its state and ends with exit code 143. --dry-run prints the commands.
#
# Settings, from the environment:
#   DEVICES   numbers of the GPUs, like 0,1,2,3 (CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists)
#   COORDINATOR_ADDRESS, NUM_PROCESSES, PROCESS_ID  of several machines, each with as many GPUs: host:port of the first,
#             how many machines there are and which this is, from 0 (one machine: a free port of it)
#   MODULE    what is run: stvsr_jax.main, or stvsr_jax.benchmark with arguments of its own
#   PYTHON    with the project installed: pip install '.[cuda]' (.venv/bin/python)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/settings.sh"

parse_arguments take_nothing "$@"
machines=${NUM_PROCESSES:-1} machine=${PROCESS_ID:-0} COORDINATOR_ADDRESS=${COORDINATOR_ADDRESS:-}
DEVICES=${DEVICES:-${CUDA_VISIBLE_DEVICES:-}} MODULE=${MODULE:-stvsr_jax.main} PYTHON=${PYTHON:-.venv/bin/python}
[ ${#arguments[@]} -gt 0 ] || fail "no arguments given; put those of $MODULE behind --, like: -- --config configs/videoinr.py"
[[ $machines =~ ^[1-9][0-9]*$ && $machine =~ ^[0-9]+$ ]] || fail "NUM_PROCESSES=$machines and PROCESS_ID=$machine should look like 2 and 0"
[ "$machine" -lt "$machines" ] || fail "PROCESS_ID=$machine must be a number from 0 to below NUM_PROCESSES=$machines"
if [ -z "$COORDINATOR_ADDRESS" ] && [ "$machines" -eq 1 ]; then
  COORDINATOR_ADDRESS=localhost:$(find_free_port)
fi
require_form COORDINATOR_ADDRESS '[^[:space:]]+:[0-9]+' first-machine:12355
if [ -z "$DEVICES" ]; then
  command -v nvidia-smi > /dev/null || fail "nvidia-smi is not installed on this machine; set DEVICES, like DEVICES=0,1"
  DEVICES=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd, -)
fi
require_form DEVICES '[0-9]+(,[0-9]+)*' 0,1,2,3
IFS=, read -ra devices <<< "$DEVICES"

processes=()
for index in "${!devices[@]}"; do
  variables=("CUDA_VISIBLE_DEVICES=${devices[index]}")
  count=$((machines * ${#devices[@]}))
  if [ "$count" -gt 1 ]; then
    variables+=("COORDINATOR_ADDRESS=$COORDINATOR_ADDRESS" "NUM_PROCESSES=$count")
    variables+=("PROCESS_ID=$((machine * ${#devices[@]} + index))")
  fi
  words=(env "${variables[@]}" "$PYTHON" -u -m "$MODULE" "${arguments[@]}")
  if [ "$dry_run" = yes ]; then
    echo "$(quote "${words[@]}") &"
  else
    "${words[@]}" &
    processes+=("$!")
  fi
done

# Processes in the background do not see Ctrl-C; a run of several asks for SIGTERM anyway.
trap 'kill -TERM ${processes[@]+"${processes[@]}"} 2> /dev/null || true' TERM INT
code=0
while [ ${#processes[@]} -gt 0 ]; do
  wait -n "${processes[@]}" || true # or until a signal comes
  running=()
  for process in "${processes[@]}"; do
    if kill -0 "$process" 2> /dev/null; then
      running+=("$process")
    else
      status=0
      wait "$process" || status=$?
      [ "$code" -ne 0 ] || code=$status
    fi
  done
  processes=(${running[@]+"${running[@]}"})
  # The others would wait for one that failed, in their next step. After a signal (128 and more) all end by themselves.
  if [ "$code" -ne 0 ] && [ "$code" -lt 128 ] && [ ${#processes[@]} -gt 0 ]; then
    echo "a process failed with exit code $code: ending the others" >&2
    kill -KILL "${processes[@]}" 2> /dev/null || true
    wait
    break
  fi
done
exit "$code"
