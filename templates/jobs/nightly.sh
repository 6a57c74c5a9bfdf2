#!/bin/sh
# One turn of a series, for cron: it needs nothing of cron's bare environment.
#
#   rsgen templates jobs/nightly.sh > nightly.sh     edit the four settings
#   sh nightly.sh; echo $?                           try it by hand, then see jobs/cron.txt
#
# Each complete turn leaves new images in WORK/nightly-0001, -0002 ... and a data set that holds
# all of them so far. A turn that was stopped or killed is taken up again by the next call.
# WORK/nightly-NNNN/summary.json says how each turn ended; WORK/nightly.log holds the details.
set -u

rsgen=/srv/rsgen/.venv/bin/rsgen        # absolute: cron's PATH is /usr/bin:/bin
pipeline=/srv/rsgen/factory.yaml        # rsgen init DATASET > factory.yaml
work=/srv/rsgen/work
limit=9h                                # stop in time for the day

PATH=${PATH:-/usr/bin:/bin}
HOME=${HOME:-$work}                     # caches of models lie below it
LC_ALL=${LC_ALL:-C.UTF-8}
export PATH HOME LC_ALL

mkdir -p "$work" || exit 4
cd "$(dirname "$pipeline")" || exit 2   # paths in the pipeline file are relative to it

# Results go to summary.json; what is left on stderr is worth a mail from cron.
exec "$rsgen" run "$pipeline" --work "$work" --series nightly --if-locked skip \
    --max-time "$limit" --log-file "$work/nightly.log" --quiet >/dev/null
