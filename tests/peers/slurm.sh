#!/usr/bin/env bash
# A real Slurm on this machine, for tests: a controller and some nodes, all of it in one folder.
#
#   eval "$(bash tests/peers/slurm.sh start)"       starts it; prints the two `export` lines that clients and tests need
#   EMBEVAL_SLURM=1 cargo test --test slurm
#   bash tests/peers/slurm.sh stop                  ends every daemon and job, and removes the folder
#
#   slurm.sh restart                                the daemons anew; queue and jobs stay
#   slurm.sh controller stop|start                  the controller alone
#   slurm.sh node NAME start|stop|crash             one node: its daemon, or with its jobs as if the power went
#
# Settings, by environment: EMBEVAL_SLURM_FOLDER (default /tmp/embeval-slurm), EMBEVAL_SLURM_NODES (2: n1, n2),
# EMBEVAL_SLURM_CPUS (2 a node, however many the machine has), EMBEVAL_SLURM_PORT (26817, and those after it, one a node).
# Slurm's array limit is set low (EMBEVAL_SLURM_ARRAY, 101) so that tests reach it. Partitions: `debug` (all nodes, no time limit)
# and `short` (all nodes, 2 minutes). Made for Debian 12's Slurm 22.05; needs neither systemd nor cgroups. The packages slurm-wlm
# and munge are installed where they are missing, which takes root; running it does not. Nothing outside the folder is written.
set -euo pipefail

folder=${EMBEVAL_SLURM_FOLDER:-/tmp/embeval-slurm}
nodes=${EMBEVAL_SLURM_NODES:-2}
cpus=${EMBEVAL_SLURM_CPUS:-2}
port=${EMBEVAL_SLURM_PORT:-26817}
array=${EMBEVAL_SLURM_ARRAY:-101}
export SLURM_CONF=$folder/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "slurm.sh: $*" >&2
    exit 1
}

# Waits until a command succeeds: until SECONDS COMMAND…
until_ok() {
    local seconds=$1
    shift
    for _ in $(seq $((seconds * 5))); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.2
    done
    return 1
}

install() {
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
    [ "$(id -u)" = 0 ] || fail "slurm-wlm and munge are not installed, and only root may install them"
    # Runlevel 1 keeps the packages from starting services of their own.
    {
        apt-get update -qq
        RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
    } >&2
}

configure() {
    local host user memory
    host=$(uname -n | cut -d. -f1)
    user=$(id -un)
    memory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    mkdir -p "$folder"/{state,spool,log,munge}
    chmod 755 "$folder" "$folder/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    cat >"$folder/slurm.conf" <<CONF
ClusterName=embeval-test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0,requeue_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MaxArraySize=$array
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdSpoolDir=$folder/spool/%n
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmdLogFile=$folder/log/slurmd.%n.log
SlurmdParameters=config_overrides
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=2
UnkillableStepTimeout=30
ReturnToService=2
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=2 State=UP
CONF
}

munge_start() {
    local force=()
    # Root's munged wants to be told that the folder's owners are fine.
    [ "$(id -u)" = 0 ] && force=(--force)
    munged "${force[@]}" --socket="$folder/munge/socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed" 2>>"$folder/log/start.log"
    until_ok 10 munge -n -S "$folder/munge/socket" || fail "munged does not answer: see $folder/log/munged.log"
}

controller_start() {
    slurmctld >>"$folder/log/start.log" 2>&1 || fail "slurmctld does not start: see $folder/log"
    until_ok 30 sinfo || fail "slurmctld does not answer: see $folder/log/slurmctld.log"
}

node_start() {
    local pid
    pid=$(cat "$folder/slurmd.$1.pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null && return
    slurmd -N "$1" >>"$folder/log/start.log" 2>&1 || fail "slurmd of $1 does not start: see $folder/log/slurmd.$1.log"
}

# The nodes of the running Slurm, whatever the environment says now.
names() { scontrol show hostnames "$(sed -n 's/^NodeName=\([^ ]*\).*/\1/p' "$SLURM_CONF")"; }

# Processes of this Slurm's jobs with the daemons that watch over them, on one node or on all. A job's process carries slurm.conf's
# path and its node in its environment; so a shell that merely has the path is none.
processes() {
    local pid parent
    # Processes that end meanwhile are no concern.
    for pid in $(comm -12 <(having -F "SLURM_CONF=$SLURM_CONF") <(having -E "SLURMD_NODENAME=${1:-.*}")); do
        parent=$(awk '/^PPid:/ {print $2}' "/proc/$pid/status" 2>/dev/null) || continue
        [ "$(cat "/proc/$parent/comm" 2>/dev/null)" = slurmstepd ] && echo "$parent"
        echo "$pid"
    done | sort -un
}

# Processes with a variable in their environment, sorted as text: having -F|-E VARIABLE=VALUE
having() { grep -slzx "$1" -e "$2" /proc/[0-9]*/environ | cut -d/ -f3 | sort; }

# Ends the process of a pid file, and waits until it is gone: end FILE [SIGNAL]
end() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    kill "-${2:-TERM}" "$pid" 2>/dev/null || true
    for _ in $(seq 150); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$1"
}

# Ends the processes of the jobs on a node, or on all.
end_jobs() {
    local pid
    for pid in $(processes "${1:-}"); do
        # A job may have started this very script.
        [ "$pid" = $$ ] || kill -KILL "$pid" 2>/dev/null || true
    done
}

daemons_stop() {
    local file
    end "$folder/slurmctld.pid"
    for file in "$folder"/slurmd.*.pid; do end "$file"; done
}

nodes_are_up() {
    local states
    states=$(sinfo -h -N -o %T) && [ -n "$states" ] && ! grep -qE 'unk|down|\*' <<<"$states"
}

daemons_start() {
    local name
    controller_start
    for name in $(names); do node_start "$name"; done
    until_ok 30 nodes_are_up || fail "the nodes do not come up: see $folder/log"
}

stop() {
    [ -d "$folder" ] || return 0
    end_jobs
    daemons_stop
    # What was starting meanwhile.
    end_jobs
    end "$folder/munged.pid"
    rm -rf "$folder"
}

running() { [ -f "$SLURM_CONF" ] || fail "nothing runs in $folder: start it first"; }

known() {
    running
    names | grep -qxF "$1" || fail "there is no node $1: $(names | tr '\n' ' ')"
}

usage="usage: slurm.sh start | stop | restart | controller start|stop | node NAME start|stop|crash"
case "${1:-} ${3:-${2:-}}" in
"start ")
    install
    stop
    configure
    munge_start
    daemons_start
    echo "export SLURM_CONF=$SLURM_CONF"
    echo "export EMBEVAL_SLURM_FOLDER=$folder"
    ;;
"stop ") stop ;;
"restart ")
    running
    daemons_stop
    daemons_start
    ;;
"controller start") running && controller_start ;;
"controller stop") running && end "$folder/slurmctld.pid" ;;
"node start") known "$2" && node_start "$2" ;;
"node stop") known "$2" && end "$folder/slurmd.$2.pid" ;;
"node crash")
    known "$2"
    end "$folder/slurmd.$2.pid" KILL
    end_jobs "$2"
    ;;
*) fail "$usage" ;;
esac
