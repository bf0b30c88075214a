#!/usr/bin/env bash
# A Slurm of one node for tests, as root and without systemd, accounting or cgroups.
#   slurm.sh start FOLDER [CPUS] [GPUS]   install what is missing, start; returns when the node is idle
#   slurm.sh controller FOLDER            start slurmctld again
#   slurm.sh stop FOLDER                  cancel its jobs and stop it
# FOLDER gets configuration, state, logs and pid files. While it runs, /etc/slurm has links to the configuration, because
# Snakemake's plugin does not pass SLURM_CONF on to jobs.
# Exit status 77: it cannot run here, and the last line says why.
set -euo pipefail
action=$1 folder=$2 cpus=${3:-16} gpus=${4:-0}
export SLURM_CONF=$folder/slurm.conf
host=$(hostname -s)

cannot() {
    echo "$1" >&2
    exit 77
}

running() { [ -s "$folder/$1.pid" ] && kill -0 "$(cat "$folder/$1.pid")" 2>/dev/null; }

# until SECONDS COMMAND...: repeat a command until it succeeds
until_true() {
    local tries=$(($1 * 10))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

ends() { ! running "$1"; }

stop() {
    running "$1" || return 0
    kill "$(cat "$folder/$1.pid")"
    until_true 20 ends "$1" || kill -9 "$(cat "$folder/$1.pid")"
}

install() {
    command -v slurmctld slurmd sbatch munged unmunge >/dev/null && return
    command -v apt-get >/dev/null || cannot "no Slurm here, and no apt-get to install it"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge; } \
        >"$folder/install.log" 2>&1 || cannot "apt-get cannot install Slurm: $(tail -n 1 "$folder/install.log")"
}

configure() {
    {
        cat <<CONF
ClusterName=avpipe
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=300
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
        if [ "$gpus" -gt 0 ]; then
            echo "GresTypes=gpu"
            echo "NodeName=$host CPUs=$cpus RealMemory=64000 Gres=gpu:$gpus"
        else
            echo "NodeName=$host CPUs=$cpus RealMemory=64000"
        fi
    } >"$SLURM_CONF"
    # A GPU of the test is an empty file.
    for number in $(seq 1 "$gpus"); do
        : >"$folder/gpu$number"
        echo "NodeName=$host Name=gpu File=$folder/gpu$number"
    done >"$folder/gres.conf"
}

link_configuration() {
    mkdir -p /etc/slurm
    for file in slurm.conf gres.conf; do
        [ ! -e /etc/slurm/$file ] || [ "$(realpath /etc/slurm/$file)" = "$folder/$file" ] ||
            cannot "this machine has a Slurm: /etc/slurm/$file; another test may use it"
        ln -sfn "$folder/$file" /etc/slurm/$file
    done
}

start_munge() {
    mkdir -p "$folder/munge"
    [ -s "$folder/munge/key" ] || head -c 256 /dev/urandom >"$folder/munge/key"
    chmod 700 "$folder/munge/key"
    chmod 755 "$folder" "$folder/munge"
    munged --socket="$folder/munge/socket" --key-file="$folder/munge/key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --force >/dev/null 2>&1
}

idle() { [ "$(sinfo -h -o %T)" = idle ]; }

no_jobs() { [ -z "$(squeue -h)" ]; }

case $action in
    start)
        [ "$(id -u)" = 0 ] || cannot "Slurm's daemons are started as root; this is $(id -un)"
        mkdir -p "$folder"/{state,spool}
        install
        configure
        link_configuration
        start_munge
        slurmctld
        slurmd
        until_true 30 idle || {
            tail -n 5 "$folder"/*.log >&2
            exit 1
        }
        sinfo -N -o '%N %T %c CPUs %m MB %G'
        ;;
    controller)
        slurmctld
        until_true 30 sinfo
        ;;
    stop)
        if running slurmctld; then
            timeout 10 squeue -h -o %A | xargs -r timeout 10 scancel --signal=KILL || true
            timeout 10 squeue -h -o %A | xargs -r timeout 10 scancel || true
            until_true 15 no_jobs || true
        fi
        for daemon in slurmd slurmctld munged; do stop $daemon; done
        for file in slurm.conf gres.conf; do
            [ "$(readlink /etc/slurm/$file)" != "$folder/$file" ] || rm /etc/slurm/$file
        done
        ;;
esac
