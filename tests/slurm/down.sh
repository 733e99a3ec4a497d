#!/usr/bin/env bash
# Stop the Slurm that up.sh started in a folder; its logs stay there.
set -uo pipefail
folder=$(cd "$1" && pwd)
export SLURM_CONF=$folder/slurm.conf
[ -f "$SLURM_CONF" ] && scancel --user="$(id -un)" 2>/dev/null
safe=$(cat "$folder/munge/where" 2>/dev/null)
for pid in "$folder/slurmd.pid" "$folder/slurmctld.pid" "${safe:-/nowhere}/pid"; do
    [ -f "$pid" ] || continue
    number=$(cat "$pid")
    kill "$number" 2>/dev/null
    for _ in $(seq 40); do
        kill -0 "$number" 2>/dev/null || break
        sleep 0.25
    done
    kill -KILL "$number" 2>/dev/null
done
case "${safe:-}" in /run/equibench-munge.*) rm -rf "$safe" ;; esac
exit 0
