#!/usr/bin/env bash
# Trains on a Cloud TPU, one host or a pod slice.
#
#   PROJECT=my-project ZONE=us-east5-b BUCKET=gs://my-bucket launch/tpu.sh [--dry-run] COMMAND [-- ARGUMENTS]
#
# ARGUMENTS are those of stvsr_jax.main: --config configs/videoinr.py --config.data.path=data/adobe240 ...
# The run writes to BUCKET/NAME and goes on from there. Commands:
#
#   create   ask for the TPU           setup    install the committed source on all workers, copy DATA there
#   run      start training on them    status   new, running, or the exit code, a line per worker
#   train    all of these; when the TPU is pre-empted, deletes it, asks for another and goes on; ends with the run
#   logs     the end of worker 0's log stop     end the run, its state saved
#   fetch    copy the run to runs/     delete   give the TPU back
#
# Settings, from the environment:
#   PROJECT, ZONE, BUCKET  of Google Cloud; needed
#   NAME         of the TPU and the run (stvsr)
#   ACCELERATOR  type and cores (v5litepod-8)
#   VERSION      of the TPU's software (v2-alpha-tpuv5-lite)
#   SPOT         yes: cheap, may be taken away (no)
#   QUEUED       yes: a queued resource, which waits until there is room (no)
#   DATA         gs:// directory of a prepared data set or videos, copied to data/ on each worker (none)
#   POLL         seconds between two looks at the TPU (60)
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/settings.sh"

parse_arguments take_command "$@"
NAME=${NAME:-stvsr} ACCELERATOR=${ACCELERATOR:-v5litepod-8} VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:-no} QUEUED=${QUEUED:-no} DATA=${DATA:-} POLL=${POLL:-60}
require PROJECT ZONE BUCKET
require_form ZONE '[a-z]+-[a-z]+[0-9]+-[a-z]' us-east5-b
require_form BUCKET 'gs://[^/ ]+(/[^ ]*[^/ ])?' gs://my-bucket
require_form NAME '[a-z][a-z0-9-]*' stvsr
require_form POLL '[0-9]+' 60
require_yes_no SPOT QUEUED
[ -z "$DATA" ] || require_form DATA 'gs://[^ ]+[^/ ]' gs://my-bucket/data/adobe240

require_program gcloud

place=(--project="$PROJECT" --zone="$ZONE" --quiet)
# On the workers; the log, process id and exit code of the run lie beside the source.
source_dir=stvsr_jax_run

tpu() {
  local verb=$1
  shift
  run gcloud compute tpus tpu-vm "$verb" "$NAME" "${place[@]}" "$@"
}

on_all() {
  tpu ssh --worker=all --command="$1"
}

create() {
  local spot=()
  [ "$SPOT" = no ] || spot=(--spot)
  if [ "$QUEUED" = yes ]; then
    run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${place[@]}" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$VERSION" ${spot[@]+"${spot[@]}"}
  else
    tpu create --accelerator-type="$ACCELERATOR" --version="$VERSION" ${spot[@]+"${spot[@]}"}
  fi
}

delete() {
  if [ "$QUEUED" = yes ]; then
    run gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force
  else
    tpu delete
  fi
}

# Each step is checked: where a function's result is asked for, bash does not end at a failure in it.
setup() {
  local archive data=
  archive=${TMPDIR:-/tmp}/$NAME-source.tar.gz
  run git -C "$here/.." archive --format=tar.gz --output="$archive" HEAD || return
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:stvsr_jax_source.tar.gz" "${place[@]}" --worker=all || return
  run rm -f "$archive"
  # The systems of TPU workers may bring a Python that is too old; uv brings its own.
  [ -z "$DATA" ] || data="mkdir -p data/$(basename "$DATA") && gcloud storage rsync --recursive $(quote "$DATA" "data/$(basename "$DATA")") && "
  on_all "set -e; mkdir -p $source_dir && tar -xzf stvsr_jax_source.tar.gz -C $source_dir && cd $source_dir && \
{ [ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh; } && \
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 .venv && \
~/.local/bin/uv pip install --quiet --python .venv/bin/python '.[tpu,gcs]' && ${data}touch ready"
}

start() {
  require_config ${arguments[@]+"${arguments[@]}"}
  local training
  training=$(quote .venv/bin/python -u -m stvsr_jax.main "${arguments[@]}" --workdir "$BUCKET/$NAME")
  on_all "cd $source_dir || exit; rm -f exit_code; nohup setsid bash -c \
$(quote "$training >> log.txt 2>&1; echo \$? > exit_code") > /dev/null 2>&1 < /dev/null & echo \$! > process"
}

# A line per worker: new, running, or the exit code; 143 where it was stopped or its machine started anew.
status() {
  on_all "cd $source_dir 2> /dev/null && [ -f ready ] || { echo worker new; exit; }; \
if [ -f exit_code ]; then echo worker \$(cat exit_code); \
elif [ ! -f process ]; then echo worker new; \
elif kill -0 \$(cat process) 2> /dev/null; then echo worker running; else echo worker 143; fi"
}

# Ends the training program, which saves its state first; the shell around it then notes the exit code.
stop() {
  on_all "pkill -TERM -P \$(cat $source_dir/process) || true"
}

logs() {
  tpu ssh --worker=0 --command="tail -n 40 $source_dir/log.txt"
}

fetch() {
  run mkdir -p "runs/$NAME"
  run gcloud storage rsync --recursive "$BUCKET/$NAME" "runs/$NAME"
}

# READY, ABSENT, the state that Google Cloud names, or UNKNOWN when it does not answer.
read_state() {
  local answer query=(tpu-vm describe "$NAME" "${place[@]}" --format='value(state)')
  if [ "$QUEUED" = yes ]; then
    query=(queued-resources describe "$NAME" "${place[@]}" --format='value(state.state)')
  fi
  if answer=$(gcloud compute tpus "${query[@]}" 2>&1); then
    answer=${answer##*$'\n'}
    if [ "$answer" = ACTIVE ]; then echo READY; else echo "$answer"; fi
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo ABSENT
  else
    echo "$answer" >&2
    echo UNKNOWN
  fi
}

say() {
  echo "$(date +%H:%M:%S) $*"
}

train() {
  require_config ${arguments[@]+"${arguments[@]}"}
  if [ "$dry_run" = yes ]; then
    create && setup && start
    echo "# every $POLL seconds:" && status
    echo "# when the TPU is pre-empted, before all of the above again:" && delete
    return
  fi
  local state answer workers codes failed
  while :; do
    state=$(read_state)
    case $state in
      READY) ;;
      ABSENT)
        say "asking for $ACCELERATOR as $NAME"
        if ! answer=$(create 2>&1); then
          echo "$answer" >&2
          [[ $answer =~ INVALID_ARGUMENT|PERMISSION_DENIED|UNAUTHENTICATED ]] && fail "asking again would not help"
          say "not granted; trying again"
        fi
        sleep "$POLL"
        continue
        ;;
      PREEMPTED | TERMINATED | STOPPED | SUSPENDED | FAILED)
        say "$NAME is $state: deleting it to ask for another"
        delete || say "not deleted yet"
        sleep "$POLL"
        continue
        ;;
      *)
        say "$NAME is $state"
        sleep "$POLL"
        continue
        ;;
    esac
    workers=$(status) || workers=
    codes=$(sed -n 's/^worker //p' <<< "$workers" | sort -u | tr '\n' ' ')
    failed=$(tr ' ' '\n' <<< "$codes" | grep -Evx -m 1 'new|running|0|143|' || true)
    if [ -n "$failed" ]; then
      stop || true # the others would wait for it
      logs || true
      fail "a worker ended with exit code $failed; above is the end of the log, the TPU is still there"
    fi
    case $codes in
      '0 ')
        say "the run is complete in $BUCKET/$NAME; $0 delete gives the TPU back"
        return
        ;;
      *running*) ;;
      *new*)
        say "installing on the workers"
        if setup && start; then say "training"; else say "that failed; trying again"; fi
        ;;
      *143*)
        say "the run was stopped: going on"
        start || say "that failed; trying again"
        ;;
      *) say "the workers do not answer" ;;
    esac
    sleep "$POLL"
  done
}

case $command in
  run) start ;;
  create | setup | status | train | logs | stop | fetch | delete) "$command" ;;
  '') fail "no command given; --help lists them" ;;
  *) fail "unknown command $command; --help lists them" ;;
esac
