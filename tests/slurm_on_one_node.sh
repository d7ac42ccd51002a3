#!/usr/bin/env bash
# A SLURM of one node on this machine, for tests: munged, slurmctld and slurmd, all in one folder.

set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tests/slurm_on_one_node.sh start|stop DIR

start  makes DIR, starts the three daemons there on free ports, waits until the node is idle and
       prints the path of slurm.conf: export SLURM_CONF to it and use sbatch, squeue, scancel
stop   ends the daemons that were started in DIR

Needs root, and the Debian packages slurm-wlm and munge (apt-get install slurm-wlm munge). Nothing
outside DIR is changed, and services of the system are left alone.
TEXT
}

fail() {
  echo "error: $1" >&2
  exit 2
}

[[ ${1:-} != --help ]] || { usage && exit; }
[[ $# == 2 && $1 =~ ^(start|stop)$ ]] || fail "start or stop, and a folder (see --help)"
mkdir -p "$2"
folder=$(cd "$2" && pwd)

stop() {
  local name pid
  for name in slurmd slurmctld munged; do
    [[ -s $folder/$name.pid ]] || continue
    pid=$(<"$folder/$name.pid")
    kill "$pid" 2>/dev/null || true
    for _ in {1..50}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
  done
}

if [[ $1 == stop ]]; then
  stop
  exit
fi

[[ $EUID == 0 ]] || fail "slurmd must run as root"
for program in munged slurmctld slurmd scontrol; do
  command -v "$program" >/dev/null || fail "no program $program: apt-get install slurm-wlm munge"
done

free_port() {
  python3 -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])'
}

mkdir -p "$folder"/{state,spool}
chmod 755 "$folder"
(umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=10 # also how long a requeued job waits
CredType=cred/munge
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=60
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
CONF
export SLURM_CONF=$folder/slurm.conf

munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" \
  >&2
slurmctld -f "$SLURM_CONF" >&2
slurmd -f "$SLURM_CONF" >&2
for _ in {1..100}; do
  if [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]]; then
    echo "$SLURM_CONF"
    exit
  fi
  sleep 0.3
done
tail -n 5 "$folder"/*.log >&2
stop
fail "the node did not become idle (its logs are above)"
