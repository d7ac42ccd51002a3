#!/usr/bin/env bash
# Trains one model in several processes on this machine.

set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/local.sh --processes=N [options] -- --gin_file=FILE… [--workdir=DIR] …

Starts N processes of block_recurrent.train that train one model together. Arguments after -- are
passed to each process. A single process already uses all GPUs of a machine; this script is for
trying several processes on a CPU, and for running one process per GPU.

options:
  --processes=N            number of processes
  --devices_per_process=N  simulated CPU devices per process (default: 1)
  --gpus_per_process=N     use GPUs instead, N per process: process i gets the i-th group of N
  --port=N                 port of the coordinator (default: any free port)
  --dry_run                print the commands without running them
  --help                   show this text

Output lines of process i begin with [i]. SIGTERM and Ctrl-C are sent to all processes: the run is
saved, the exit status is 75, and the same command resumes it. If a process fails, the others are
ended and its exit status is returned. Set PYTHON to select the Python to use (default: python).
TEXT
}

fail() {
  echo "error: $1" >&2
  exit 2
}

whole_number() { # name, value, least
  [[ $2 =~ ^[0-9]{1,6}$ && $((10#$2)) -ge $3 ]] ||
    fail "$1=$2: give a whole number, at least $3"
}

processes='' devices='' gpus='' port='' dry_run=false
while (($#)); do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --devices_per_process=*) devices=${1#*=} ;;
    --gpus_per_process=*) gpus=${1#*=} ;;
    --port=*) port=${1#*=} ;;
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

python=${PYTHON:-python}
[[ $processes ]] || fail "--processes=N is missing (see --help)"
whole_number --processes "$processes" 1
[[ ! $devices ]] || whole_number --devices_per_process "$devices" 1
[[ ! $gpus ]] || whole_number --gpus_per_process "$gpus" 1
[[ ! $port ]] || whole_number --port "$port" 1
[[ ! $devices || ! $gpus ]] || fail "give --devices_per_process (CPU) or --gpus_per_process, not both"
(($#)) || fail "no arguments for the training: put them after --, as in -- --gin_file=gin/brt_fixed_gate.gin"
command -v "$python" >/dev/null || fail "$python not found: activate its environment, or set PYTHON"

if [[ ! $port ]] && $dry_run; then
  port=PORT # a free port, chosen at the start
elif [[ ! $port ]]; then
  port=$("$python" -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')
fi

# Set `words` to the environment and the command of process $1.
command_of() {
  if [[ $gpus ]]; then
    local first=$(($1 * gpus))
    words=(env "CUDA_VISIBLE_DEVICES=$(seq -s, "$first" $((first + gpus - 1)))")
  else
    local flags="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${devices:-1}"
    words=(env JAX_PLATFORMS=cpu "XLA_FLAGS=${flags# }")
  fi
  words+=("$python" -u -m block_recurrent.train "${arguments[@]}")
  ((processes == 1)) ||
    words+=("--coordinator_address=127.0.0.1:$port" "--num_processes=$processes" "--process_id=$1")
}

arguments=("$@")
if $dry_run; then
  for ((i = 0; i < processes; i++)); do
    command_of "$i"
    printf '%q ' "${words[@]}"
    echo
  done
  exit
fi

pids=()
signalled=false
forward() {
  signalled=true
  ((${#pids[@]} == 0)) || kill -TERM "${pids[@]}" 2>/dev/null || true
}
# Prefix the output lines of process $1. It ignores signals and ends after its process.
prefix() {
  trap '' TERM INT
  local line
  while IFS= read -r line || [[ $line ]]; do
    printf '[%s] %s\n' "$1" "$line"
  done
}
end_all() { kill -KILL "${pids[@]}" 2>/dev/null || true; }
trap forward TERM INT

set -m # each process gets its own group, otherwise Ctrl-C would reach it twice
for ((i = 0; i < processes; i++)); do
  command_of "$i"
  "${words[@]}" > >(prefix "$i") 2>&1 &
  pids+=($!)
done
set +m
! $signalled || forward # the signal arrived while the processes were starting

# Wait for all processes. The first failure determines the exit status. Once a process has ended, the
# others get some time to end by themselves and to print their messages.
running=("${!pids[@]}")
status=0 deadline=''
while ((${#running[@]})); do
  sleep 0.2 || true
  still=()
  for i in "${running[@]}"; do
    if kill -0 "${pids[i]}" 2>/dev/null; then
      still+=("$i")
      continue
    fi
    ended=0
    wait "${pids[i]}" || ended=$?
    case $ended in
      0 | 75) seconds=60 ;;
      *) seconds=5 ;;
    esac
    if ((status == 0 || (status == 75 && ended != 0))); then status=$ended; fi
    if ((ended != 0 && ended != 75)); then echo "process $i ended with status $ended" >&2; fi
    latest=$((SECONDS + seconds))
    if [[ ! $deadline ]] || ((latest < deadline)); then deadline=$latest; fi
  done
  running=("${still[@]+"${still[@]}"}")
  if ((${#running[@]})) && [[ $deadline ]] && ((SECONDS >= deadline)); then
    echo "ending the others: ${running[*]}" >&2
    end_all
    ((status != 0 && status != 75)) || status=1
  fi
done
wait # for the last lines of output
exit "$status"
