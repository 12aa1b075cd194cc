#!/bin/bash
# A throw-away Slurm without systemd and without accounting: one controller and three node daemons on this machine.
#
#   tests/slurm_cluster.sh start DIR      ready when it returns;  `. DIR/env` points sbatch and squeue at it
#   tests/slurm_cluster.sh kill DIR NAME  kill -9 of one daemon: slurmctld, n1, n2 or n3;  start brings it back
#   tests/slurm_cluster.sh stop DIR       jobs cancelled, daemons ended, nothing left
#
# The first start of a DIR reads PORT, the first of ten free ports. Packages: slurmctld slurmd slurm-client munge.
set -u
NODES=3 CPUS=4 MEM=8000                        # per node; daemons are told to believe it (config_overrides)
fail() { echo "slurm_cluster: $*" >&2; exit 1; }
[ $# -ge 2 ] || fail "usage: $0 start|kill|stop DIR [NAME]"
DIR=$(realpath -m "$2")
[[ $DIR =~ ^/[A-Za-z0-9._/+-]{1,80}$ ]] || fail "DIR must be a plain path of at most 80 characters (unix sockets): $DIR"
export SLURM_CONF=$DIR/slurm.conf PATH=$PATH:/usr/sbin:/sbin

pid_of() { cat "$DIR/run/$1.pid" 2>/dev/null; }
# A pid file may name a zombie or a pid given out again; the environment of a live daemon of ours names our SLURM_CONF.
ours() { [ -n "$1" ] && grep -zqxF "SLURM_CONF=$SLURM_CONF" "/proc/$1/environ" 2>/dev/null; }
alive() { ours "$(pid_of "$1")"; }
dead() { ! alive "$1"; }
idle() { [ "$(sinfo -hNp main -o '%N %t' | grep -cE ' (idle|mix|alloc|comp)$')" = $NODES ]; }
empty() { local queue; queue=$(squeue -ho %i) && [ -z "$queue" ]; }
await() {                                      # await SECONDS COMMAND...
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done
}
daemon() {                                     # daemon NAME COMMAND...
    local name=$1; shift
    alive "$name" && return
    setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 &
    echo $! >"$DIR/run/$name.pid"
}

configure() {
    local host port=${PORT:-27400}
    host=$(hostname -s)
    umask 022
    mkdir -p "$DIR"/{run,log,state,spool} || fail "cannot make $DIR"
    (umask 077; head -c 128 /dev/urandom >"$DIR/munge.key")
    echo "export SLURM_CONF=$SLURM_CONF" >"$DIR/env"
    # MinJobAge: ended jobs stay visible for a while. cred_expire: a requeued job waits for it (120 s by default, 5 at least).
    # BatchStartTimeout: a busy machine may take its time to launch. Munge's socket stands in AuthInfo; linuxproc and task/none need no cgroups.
    cat >"$SLURM_CONF" <<CONF
ClusterName=test$port
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((port + 1))
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthInfo=socket=$DIR/run/munge.sock,cred_expire=5
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.own
SlurmdPidFile=$DIR/run/%n.own
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=300
BatchStartTimeout=120
KillWait=5
MinJobAge=60
MailProg=/bin/true
NodeName=n[1-$NODES] NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2))-$((port + 1 + NODES)) CPUs=$CPUS RealMemory=$MEM
PartitionName=main Nodes=ALL Default=YES DefaultTime=60 MaxTime=INFINITE DefMemPerCPU=100 State=UP
PartitionName=brief Nodes=ALL MaxTime=1 DefMemPerCPU=100 State=UP
CONF
}

resumed() {                                    # a crash can drain a node, also a while after its daemon is back
    local n
    for n in $(seq $NODES); do scontrol update NodeName="n$n" State=RESUME >/dev/null 2>&1; done
    idle
}

start() {
    local n
    [ -f "$SLURM_CONF" ] || configure
    daemon munged munged --foreground --key-file="$DIR/munge.key" --socket="$DIR/run/munge.sock" \
        --pid-file="$DIR/run/munged.own" --log-file="$DIR/log/munged.log" --seed-file="$DIR/run/munge.seed"
    await 10 munge -n -S "$DIR/run/munge.sock" || fail "munged does not answer, see $DIR/log"
    daemon slurmctld slurmctld -D
    await 30 scontrol ping || fail "slurmctld does not answer, see $DIR/log"
    for n in $(seq $NODES); do
        daemon "n$n" slurmd -D -N "n$n"
    done
    await 30 resumed || fail "nodes are not ready: $(sinfo -hN)"
}

halt() {                                       # TERM, after 10 s KILL
    alive "$1" || return
    kill "$(pid_of "$1")"
    await 10 dead "$1" || kill -9 "$(pid_of "$1")"
}

stop() {
    local name process
    if alive slurmctld; then scancel --user="$(id -un)"; await 15 empty || echo "slurm_cluster: jobs left in the queue" >&2; fi
    for name in n1 n2 n3 slurmctld munged; do halt $name; done
    for process in /proc/[0-9]*; do            # job steps survive the death of their daemon
        ours "${process#/proc/}" && { grep -qx slurmstepd "$process/comm" || grep -zq '^SLURM_JOB_ID=' "$process/environ"; } 2>/dev/null &&
            kill -9 "${process#/proc/}"
    done
    return 0
}

case $1 in
    start) start ;;
    kill) alive "$3" || fail "$3 is not running"; kill -9 "$(pid_of "$3")"; await 10 dead "$3" ;;
    stop) stop ;;
    *) fail "unknown command $1" ;;
esac
