#!/usr/bin/env bash
# A SLURM cluster of this one machine, to be run as root: cluster.sh start DIRECTORY | cluster.sh stop DIRECTORY.
# Needs Debian's or Ubuntu's packages slurmctld, slurmd, slurm-client and munge. Touches nothing outside DIRECTORY: configuration, keys,
# sockets, logs and state are there. SLURM_CONF must be DIRECTORY/slurm.conf for the commands that use it.
set -euo pipefail
place=$(realpath -m "$2")
socket=$place/munge.socket

start() {
    mkdir -p "$place"/{state,spool,log}
    chmod 755 "$place"
    dd if=/dev/urandom of="$place/munge.key" bs=64 count=1 status=none
    chmod 400 "$place/munge.key"
    host=$(hostname -s)
    cores=$(nproc)
    memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024))
    cat > "$place/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CryptoType=crypto/munge
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/log/slurmctld
SlurmdLogFile=$place/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
MpiDefault=none
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
MessageTimeout=60
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
# GraceTime: seconds between SIGTERM and SIGKILL for a job that makes room for one of the other partition.
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=120
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
    munged --key-file="$place/munge.key" --socket="$socket" --pid-file="$place/munged.pid" --log-file="$place/log/munged" --seed-file="$place/munge.seed" --force
    SLURM_CONF=$place/slurm.conf slurmctld
    SLURM_CONF=$place/slurm.conf slurmd
    for _ in $(seq 60); do
        [ "$(SLURM_CONF=$place/slurm.conf sinfo -h -p low -o %t 2> "$place/log/sinfo")" = idle ] && return
        sleep 1
    done
    cat "$place/log/sinfo" "$place"/log/slurm* >&2
    echo "the cluster did not come up" >&2
    exit 1
}

stop() {
    for name in slurmd slurmctld munged; do
        if [ -f "$place/$name.pid" ]; then
            kill "$(cat "$place/$name.pid")" 2> /dev/null || true
        fi
    done
}

"$1"
