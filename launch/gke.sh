#!/usr/bin/env bash
# Trains on GPUs of a GKE cluster with JobSet, one pod per machine and one process per GPU.
#
#   PROJECT=my-project ZONE=us-east5-b BUCKET=gs://my-bucket CLUSTER=my-cluster IMAGE=us-docker.pkg.dev/my-project/my-repo/stvsr:1 \
#     launch/gke.sh [--dry-run] COMMAND [-- ARGUMENTS]
#
# ARGUMENTS are those of stvsr_jax.main: --config configs/videoinr.py --config.data.path=/data/adobe240 ...
# The run writes to BUCKET/NAME and goes on from there, also when machines are taken away. Commands:
#
#   build    make IMAGE from this directory with Cloud Build
#   train    start the run        render   print its YAML
#   status   of its pods          logs     follow those of the first process
#   fetch    copy the run to runs/         delete   end the run
#
# The cluster has JobSet (https://jobset.sigs.k8s.io), a node pool with the GPUs, and a Kubernetes service account that
# may write to BUCKET.
#
# Settings, from the environment:
#   PROJECT, ZONE, BUCKET, CLUSTER, IMAGE  of Google Cloud; needed. ZONE may be a region
#   NAME         of the run (stvsr)
#   NODES        machines (1)
#   GPUS         of each machine (8)
#   GPU_TYPE     as GKE calls it (nvidia-h100-80gb)
#   SPOT         yes: machines that may be taken away (no)
#   RESTARTS     how often the run may start again (100)
#   DATA_CLAIM   a persistent volume claim, mounted at /data read-only (none)
#   SERVICE_ACCOUNT  of Kubernetes (default)
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/settings.sh"

parse_arguments take_command "$@"
NAME=${NAME:-stvsr} NODES=${NODES:-1} GPUS=${GPUS:-8} GPU_TYPE=${GPU_TYPE:-nvidia-h100-80gb} SPOT=${SPOT:-no}
RESTARTS=${RESTARTS:-100} DATA_CLAIM=${DATA_CLAIM:-} SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default}
require PROJECT ZONE BUCKET CLUSTER IMAGE
require_form ZONE '[a-z]+-[a-z]+[0-9]+(-[a-z])?' us-east5-b
require_form BUCKET 'gs://[^/ ]+(/[^ ]*[^/ ])?' gs://my-bucket
require_form NAME '[a-z]([a-z0-9-]*[a-z0-9])?' stvsr
require_form IMAGE '[a-z0-9][A-Za-z0-9_./:@-]*' us-docker.pkg.dev/my-project/my-repo/stvsr:1
require_form NODES '[1-9][0-9]*' 2
require_form GPUS '[1-9][0-9]*' 8
require_form RESTARTS '[0-9]+' 100
require_form GPU_TYPE '[a-z0-9-]+' nvidia-h100-80gb
require_form SERVICE_ACCOUNT '[a-z0-9.-]+' default
[ -z "$DATA_CLAIM" ] || require_form DATA_CLAIM '[a-z0-9.-]+' adobe240
require_yes_no SPOT

# yaml_list WORD...: a list of strings.
yaml_list() {
  local word list=''
  for word in "$@"; do
    word=${word//\\/\\\\}
    list+="${list:+, }\"${word//\"/\\\"}\""
  done
  echo "[$list]"
}

render() {
  require_config ${arguments[@]+"${arguments[@]}"}
  local spot='' mounts='' volumes=''
  if [ "$SPOT" = yes ]; then
    spot='
              cloud.google.com/gke-spot: "true"'
  fi
  if [ -n "$DATA_CLAIM" ]; then
    mounts='
              - {name: data, mountPath: /data, readOnly: true}'
    volumes="
            - name: data
              persistentVolumeClaim: {claimName: $DATA_CLAIM, readOnly: true}"
  fi
  # Exit code 2 is a wrong input, which no restart mends; anything else starts all processes again.
  cat << END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
    rules:
    - action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: worker
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        completions: $NODES
        parallelism: $NODES
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: train, operator: In, values: [2]}
        template:
          spec:
            restartPolicy: Never
            serviceAccountName: $SERVICE_ACCOUNT
            terminationGracePeriodSeconds: 120
            nodeSelector:
              cloud.google.com/gke-accelerator: $GPU_TYPE$spot
            tolerations:
            - {key: nvidia.com/gpu, operator: Exists}
            - {key: cloud.google.com/gke-spot, operator: Exists}
            containers:
            - name: train
              image: $IMAGE
              command: $(yaml_list bash launch/gpus.sh -- "${arguments[@]}" --workdir "$BUCKET/$NAME")
              ports:
              - containerPort: 8476
              env:
              - {name: PYTHON, value: python}
              - {name: DEVICES, value: "$(seq -s, 0 $((GPUS - 1)))"}
              - {name: COORDINATOR_ADDRESS, value: "$NAME-worker-0-0.$NAME:8476"}
              - {name: NUM_PROCESSES, value: "$NODES"}
              - name: PROCESS_ID
                valueFrom:
                  fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
              resources:
                limits: {nvidia.com/gpu: $GPUS}
              volumeMounts:
              - {name: shared-memory, mountPath: /dev/shm}$mounts
            volumes:
            - name: shared-memory
              emptyDir: {medium: Memory}$volumes
END
}

connect() {
  require_program gcloud
  require_program kubectl
  run gcloud container clusters get-credentials "$CLUSTER" --project="$PROJECT" --location="$ZONE"
}

train() {
  local yaml
  yaml=$(render)
  connect
  if [ "$dry_run" = yes ]; then
    printf '%s\n' "kubectl apply -f - << 'END'" "$yaml" END
  else
    kubectl apply -f - <<< "$yaml"
  fi
}

build() {
  require_program gcloud
  run gcloud builds submit "$here/.." --project="$PROJECT" \
    --config="$here/cloudbuild.yaml" --substitutions="_IMAGE=$IMAGE"
}

fetch() {
  require_program gcloud
  run mkdir -p "runs/$NAME"
  run gcloud storage rsync --recursive "$BUCKET/$NAME" "runs/$NAME"
}

case $command in
  build | train | render | fetch) "$command" ;;
  status) connect && run kubectl get pods --selector="jobset.sigs.k8s.io/jobset-name=$NAME" --output=wide ;;
  logs)
    connect && run kubectl logs --follow --container=train \
      --selector="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
    ;;
  delete) connect && run kubectl delete jobset "$NAME" ;;
  '') fail "no command given; --help lists them" ;;
  *) fail "unknown command $command; --help lists them" ;;
esac
