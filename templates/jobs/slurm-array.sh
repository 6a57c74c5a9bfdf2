#!/bin/bash
# One long `rsgen generate` (or extract-masks, filter, scenes) as a Slurm job array.
#
#   rsgen templates jobs/slurm-array.sh > slurm-array.sh     edit the settings
#   bash slurm-array.sh                                      on the login node: submits all
#
# Each task makes its share of the parts; the last job, when all of them are done, commits the
# run. Before the time limit a task is told to stop, ends with exit code 75 and is queued again:
# it goes on where it stopped. Folders must lie on a file system that all nodes share.
#SBATCH --job-name=rsgen
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=rsgen-%j.log
##SBATCH --gres=gpu:1
set -u

tasks=16
line=(/srv/rsgen/.venv/bin/rsgen generate model --pool pool --count 20000 --out images)
# New images with each submission: add --series NAME to the line.

run() {
    "${line[@]}" "$@" &
    child=$!
    told=0
    # Slurm signals this script alone: pass it on, once (a second signal would end it at once).
    trap 'trap "" USR1; told=1; kill -USR1 "$child"' USR1
    wait "$child"
    code=$?
    if [ "$told" = 1 ]; then # the signal ended the first wait
        wait "$child"
        code=$?
    fi
    if [ "$code" = 75 ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$code"
}

case "${1:-submit}" in
submit)
    array=$(sbatch --parsable --array="0-$((tasks - 1))" "$0" slice) || exit
    sbatch --dependency="afterok:${array%%;*}" "$0" commit
    ;;
slice) run --slice "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" ;;
commit) run ;;
*)
    echo "usage: bash $0 [submit]" >&2
    exit 2
    ;;
esac
