#!/usr/bin/env bash
# A real training of two tasks on a SLURM cluster of this machine: told to save by SIGUSR1, as before a time limit, it goes on from the
# queue; preempted by a job of a better partition, again; and comes to its end with every step made once. To be run as root from the
# repository's root (make test-slurm); about ten minutes, most of them SLURM's own wait before a requeued job starts.
set -euo pipefail
here=$(dirname "$0")
python=${PYTHON:-.venv/bin/python}
place=$(mktemp -d)
run=$place/run
steps=${STEPS:-300}
export SLURM_CONF=$place/cluster/slurm.conf

finish() {
    code=$?
    if [ $code -ne 0 ]; then
        cat "$place"/t2t-*.log >&2 || true
        echo "failed; everything is in $place" >&2
    fi
    "$here/cluster.sh" stop "$place/cluster"
    [ $code -ne 0 ] || rm -rf "$place"
}
trap finish EXIT

say() { echo "# $*"; }

shown() { # a command, and what it prints
    echo "\$ $*" | sed "s#$python -m t2t.launch#t2t#; s#$place/##g"
    "$@" | sed "s#$place/##g"
}

wait_for() { # WHAT SECONDS COMMAND...
    local what=$1 limit=$((SECONDS + $2))
    shift 2
    until "$@" > /dev/null 2>&1; do
        if [ $SECONDS -gt $limit ]; then
            echo "waited in vain for: $what" >&2
            exit 1
        fi
        sleep 1
    done
}

field() { scontrol -o show job "$job" | tr ' ' '\n' | sed -n "s/^$1=//p"; }
is() { [ "$(field "$1")" = "$2" ]; }
last_step() { tail -n 1 "$run/metrics.jsonl" | "$python" -c 'import json, sys; print(json.loads(sys.stdin.readline())["step"])'; }
beyond() { [ "$(last_step)" -gt "$1" ]; }
told() { [ "$(grep -c "$1" "$place/t2t-$job.log")" -ge "$2" ]; }

"$here/cluster.sh" start "$place/cluster"
shown sinfo
shown "$python" -m t2t.launch launch slurm --gpus-per-node 0 --tasks-per-node 2 --partition low --time 1:00:00 --signal-before 60 \
    --output "$place/%x-%j.log" -- train t5:quickstart --dir "$run" --steps "$steps" --batch-size 8 \
    --data.task reverse_words --data.inputs-length 64 --data.targets-length 32 --data.shards 2 --evaluation.tasks reverse_words --eval-every 0 --checkpoint-every 100000 --log-every 5
job=$(squeue -h -o %A)

wait_for "the first steps" 600 beyond 9
say "as SLURM does before the time limit"
shown scancel --signal=USR1 "$job"
wait_for "the requeue" 300 is Restarts 1
shown squeue -o "%.6A %.9P %.6j %.3t %.20R"
saved=$(last_step)
wait_for "the second start" 600 beyond "$saved"

say "a job of a better partition wants the machine"
shown sbatch --partition high --exclusive --output /dev/null --wrap "sleep 10"
wait_for "the second requeue" 300 is Restarts 2
shown squeue -o "%.6A %.9P %.6j %.3t %.20R"
wait_for "the end" 900 is JobState COMPLETED
shown scontrol show job "$job" | grep -E "JobState|Restarts"

shown grep -vE "Gloo|note:|^ *$" "$place/t2t-$job.log"
told "resuming from step" 2
told "ended with code 75" 2
told "ended with code 0" 1
"$python" - "$run/metrics.jsonl" "$steps" <<'CODE'
import json, sys

steps = [entry["step"] for entry in map(json.loads, open(sys.argv[1])) if "loss" in entry]
assert steps == sorted(set(steps)), steps
assert steps[-1] == int(sys.argv[2]), steps
print(f"# {len(steps)} lines of metrics, each step once, the last {steps[-1]}")
CODE
