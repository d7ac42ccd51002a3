#!/usr/bin/env bash
# Trains on a Cloud TPU: creates or reuses the TPU, installs the package, runs, follows the log.

set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh --name=NAME --zone=ZONE --type=TYPE --repository=URL [options] \
           -- --gin_file=FILE… …

Runs block_recurrent.train on all hosts of a Cloud TPU with gcloud, and follows the log of the first
host. Arguments after -- are passed to each process. The same command resumes a run: it reuses an
existing TPU, and if the training is still running, it only follows the log.

options:
  --name=NAME       name of the TPU VM and of its queued resource
  --zone=ZONE       for example us-west4-a
  --type=TYPE       accelerator type, for example v5litepod-8, v5p-16, v6e-8
  --repository=URL  git repository of the package, which the TPU's hosts must be able to clone
  --branch=NAME     branch of the repository (default: main)
  --version=NAME    runtime version (default: chosen by the type)
  --project=NAME    Google Cloud project (default: gcloud's current project)
  --queued          request the TPU through the queue and wait; needed for most large slices
  --spot            use a spot TPU: cheaper, but it may be preempted; implies --queued
  --bucket=NAME     Cloud Storage bucket: the run's folder is gs://BUCKET/runs/NAME, and all hosts
                    mount the bucket at ~/bucket with gcsfuse, for the corpus. A slice of several
                    hosts needs this, or a shared folder for the run, given by --workdir= after --
  --delete          delete the TPU instead of training
  --dry_run         print the commands without running them
  --help            show this text

The TPU costs money until it is deleted (--delete). The exit status is that of the training's first
process, and is 75 after SIGTERM. In that case, or if a spot TPU was preempted, run the same command
again.
TEXT
}

fail() {
  echo "error: $1" >&2
  exit 2
}

name='' zone='' type='' repository='' branch=main version='' bucket=''
queued=false spot=false delete=false dry_run=false where=()
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --repository=*) repository=${1#*=} ;;
    --branch=*) branch=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) where+=("$1") ;;
    --bucket=*) bucket=${1#*=} bucket=${bucket#gs://} bucket=${bucket%/} ;;
    --queued) queued=true ;;
    --spot) queued=true spot=true ;;
    --delete) delete=true ;;
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

[[ $name ]] || fail "--name=NAME is missing (see --help)"
[[ $name =~ ^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$ ]] || fail "--name=$name is not valid: use lower-case letters, digits and -"
[[ $zone ]] || fail "--zone=ZONE is missing, for example --zone=us-west4-a"
where+=("--zone=$zone" --quiet)
if ! $delete; then
  [[ $type ]] || fail "--type=TYPE is missing, for example --type=v5litepod-8"
  [[ $repository ]] || fail "--repository=URL is missing: the git repository to install from"
  (($#)) || fail "no arguments for the training: put them after --, as in -- --gin_file=gin/brt_fixed_gate.gin"
fi
if [[ ! $version ]]; then
  case $type in
    v5lite* | v5e*) version=v2-alpha-tpuv5-lite ;;
    v5p*) version=v2-alpha-tpuv5 ;;
    v6e*) version=v2-alpha-tpuv6e ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
fi
$dry_run || command -v gcloud >/dev/null ||
  fail "gcloud not found: install the Google Cloud CLI, or print the commands with --dry_run"

# Run a command, or print it with --dry_run.
run() {
  if $dry_run; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
tpus() { run gcloud compute tpus "$@" "${where[@]}"; }
on_hosts() { tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2"; } # hosts, command

state_of() { # tpu-vm or queued-resources, field of the state
  gcloud compute tpus "$1" describe "$name" "${where[@]}" "--format=value($2)" 2>/dev/null || true
}

if $delete; then
  if $dry_run || [[ $(state_of queued-resources state.state) ]]; then
    tpus queued-resources delete "$name" --force
  fi
  if $dry_run || [[ $(state_of tpu-vm state) ]]; then tpus tpu-vm delete "$name"; fi
  exit
fi

# 1. Create the TPU.

create() {
  if $queued; then
    local tier=()
    ! $spot || tier=(--spot)
    tpus queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" \
      "--runtime-version=$version" "${tier[@]}"
  else
    tpus tpu-vm create "$name" "--accelerator-type=$type" "--version=$version"
  fi
}

if $dry_run; then
  echo "# if the TPU $name does not exist:"
  create
else
  state=$(state_of tpu-vm state)
  request=$(state_of queued-resources state.state)
  case $request in # states after a spot TPU was preempted
    SUSPENDED | SUSPENDING | FAILED)
      tpus queued-resources delete "$name" --force
      state='' request=''
      ;;
  esac
  if [[ ! $state && ! $request ]]; then
    create
  elif [[ $state == PREEMPTED || $state == TERMINATED ]]; then
    tpus tpu-vm delete "$name"
    create
  fi
  until [[ $(state_of tpu-vm state) == READY ]]; do
    request=$(state_of queued-resources state.state)
    [[ $request != FAILED ]] || fail "the queued resource $name has failed: see gcloud compute tpus queued-resources describe $name"
    echo "waiting for the TPU $name ${request:+(${request})}" >&2
    sleep 30
  done
fi

# 2. Install on all hosts. They run bash; %q quotes for it.

folder=block_recurrent_$name
running="test -s $folder/pid && kill -0 \$(cat $folder/pid) 2>/dev/null" # whether the training is running on that host
install="if $running; then exit; fi
set -e
if test -d $folder; then
  cd $folder && git fetch --depth=1 origin $(printf %q "$branch") && git checkout --force FETCH_HEAD
else
  git clone --depth=1 --branch=$(printf %q "$branch") $(printf %q "$repository") $folder && cd $folder
fi
python3 -m pip install --quiet --user uv
test -d .venv || python3 -m uv venv --quiet --python=3.12 .venv
python3 -m uv pip install --quiet --python=.venv/bin/python '.[tpu,gcs]'"
if [[ $bucket ]]; then
  install+="
if ! mountpoint --quiet ~/bucket; then
  if ! command -v gcsfuse >/dev/null; then
    echo \"deb https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg |
      sudo tee /etc/apt/trusted.gpg.d/gcsfuse.asc >/dev/null
    sudo apt-get update -qq && sudo apt-get install -qq gcsfuse
  fi
  mkdir -p ~/bucket && gcsfuse --implicit-dirs $(printf %q "$bucket") ~/bucket
fi"
fi
on_hosts all "$install"

# 3. Run on all hosts, in the background, so that a lost connection does not end the training.

arguments=("$@")
if [[ $bucket && " $* " != *' --workdir'* ]]; then
  arguments+=("--workdir=gs://$bucket/runs/$name")
fi
training=$(printf '%q ' .venv/bin/python -u -m block_recurrent.train "${arguments[@]}")
on_hosts all "if $running; then exit; fi
cd $folder && rm -f status && true >log
nohup bash -c $(printf %q "${training}; echo \$? >status") >log 2>&1 </dev/null &
echo \$! >pid"

# 4. Follow the log of the first host until its process ends, and return its exit status.

on_hosts 0 "cd $folder
tail -n +1 --follow log &
until test -s status; do sleep 2; done
sleep 2; kill \$!
exit \$(cat status)"
