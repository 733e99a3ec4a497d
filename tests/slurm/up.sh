#!/usr/bin/env bash
# Start a Slurm with one node in a folder. It has its own key, socket, ports and files, so it disturbs nothing else.
#
#   tests/slurm/up.sh FOLDER     then: export SLURM_CONF=FOLDER/slurm.conf
#   tests/slurm/down.sh FOLDER
#
# Needs root and Debian's slurm-wlm and munge. The node has as many processors as this process may use.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
port=${2:-16817}
host=$(hostname -s)
mkdir -p "$folder/state" "$folder/spool" "$folder/munge"
chmod 711 "$folder" && chmod 700 "$folder/munge"
# munge refuses keys and sockets that others could replace, so they lie in a folder of root's own.
safe=$(mktemp -d /run/equibench-munge.XXXXXX)
chmod 755 "$safe" && echo "$safe" >"$folder/munge/where"
dd if=/dev/urandom of="$safe/key" bs=128 count=1 status=none && chmod 600 "$safe/key"
munged --force --key-file="$safe/key" --socket="$safe/socket" --pid-file="$safe/pid" \
    --log-file="$safe/log" --seed-file="$safe/seed"

cat >"$folder/slurm.conf" <<CONF
ClusterName=equibench
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$safe/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,batch_sched_delay=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=${CPUS:-$(nproc)} State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF

export SLURM_CONF=$folder/slurm.conf
slurmctld -f "$SLURM_CONF" -c
slurmd -f "$SLURM_CONF" -c
for _ in $(seq 60); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q '^idle'; then
        echo "$SLURM_CONF"
        exit 0
    fi
    sleep 0.5
done
tail -n 20 "$folder"/*.log >&2
echo "Slurm did not come up within 30 s; its logs stand above" >&2
exit 1
