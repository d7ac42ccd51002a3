#!/usr/bin/env bash
# Fills in k8s_jobset.yaml and applies it.

set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/k8s.sh --image=IMAGE --processes=N [options] -- --gin_file=FILE… [--workdir=DIR] …

Starts a JobSet of N pods that train one model. Arguments after -- are passed to
block_recurrent.train.

options:
  --image=IMAGE    an image built with launch/Dockerfile, in a registry that the cluster can access
  --processes=N    number of pods, one per machine
  --gpus=N         GPUs per pod (default: 8)
  --name=NAME      name of the JobSet (default: block-recurrent)
  --claim=NAME     persistent volume claim to mount at /runs in all pods (default: runs)
  --namespace=NAME namespace of the JobSet (default: kubectl's current namespace)
  --dry_run        print the manifest without applying it
  --help           show this text

The run's folder is /runs/NAME unless --workdir is given. Follow the log with
kubectl logs --follow jobs/NAME-train-0 ; end the run with kubectl delete jobset NAME .
TEXT
}

fail() {
  echo "error: $1" >&2
  exit 2
}

image='' processes='' gpus=8 name=block-recurrent claim=runs namespace=() dry_run=false
while (($#)); do
  case $1 in
    --image=*) image=${1#*=} ;;
    --processes=*) processes=${1#*=} ;;
    --gpus=*) gpus=${1#*=} ;;
    --name=*) name=${1#*=} ;;
    --claim=*) claim=${1#*=} ;;
    --namespace=*) namespace=("$1") ;;
    --dry_run) dry_run=true ;;
    --help | -h) usage && exit ;;
    --)
      shift
      break
      ;;
    *) fail "unknown option $1 (arguments for the training go after --; see --help)" ;;
  esac
  shift
done

[[ $image ]] || fail "--image=IMAGE is missing (see --help)"
[[ $image =~ ^[A-Za-z0-9._/:@-]+$ ]] || fail "--image=$image is not a valid image name"
[[ $processes =~ ^[1-9][0-9]{0,4}$ ]] || fail "--processes=$processes: give a whole number, at least 1"
[[ $gpus =~ ^[1-9][0-9]{0,2}$ ]] || fail "--gpus=$gpus: give a whole number, at least 1"
for word in "$name" "$claim"; do
  [[ $word =~ ^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$ ]] ||
    fail "$word is not a valid Kubernetes name: use lower-case letters, digits and - (at most 42 characters)"
done
(($#)) || fail "no arguments for the training: put them after --, as in -- --gin_file=gin/brt_fixed_gate.gin"

workdir=("--workdir=/runs/$name")
for argument in "$@"; do
  [[ $argument != --workdir* ]] || workdir=()
done

# Write each argument as a quoted YAML string on its own line. Escape $(, which Kubernetes would expand.
lines=''
for argument in "$@" "${workdir[@]}"; do
  [[ $argument != *$'\n'* ]] || fail "an argument contains a line break: $argument"
  argument=${argument//\\/\\\\}
  argument=${argument//\"/\\\"}
  # shellcheck disable=SC2016
  argument=${argument//'$('/'$$('}
  lines+="                    - \"$argument\""$'\n'
done

manifest=''
while IFS= read -r line; do
  line=${line//__NAME__/"$name"}
  line=${line//__IMAGE__/"$image"}
  line=${line//__PROCESSES__/"$processes"}
  line=${line//__GPUS__/"$gpus"}
  line=${line//__CLAIM__/"$claim"}
  if [[ $line == *__ARGUMENTS__* ]]; then manifest+=$lines; else manifest+=$line$'\n'; fi
done < <(sed '1,/^apiVersion/ { /^#/d; }' "$(dirname "${BASH_SOURCE[0]}")/k8s_jobset.yaml")

if $dry_run; then
  printf '%s' "$manifest"
  exit
fi
command -v kubectl >/dev/null || fail "kubectl not found: install it, or print the manifest with --dry_run"
printf '%s' "$manifest" | kubectl apply "${namespace[@]}" --filename=-
echo "follow the log: kubectl logs ${namespace[*]} --follow jobs/$name-train-0"
