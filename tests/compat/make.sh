#!/usr/bin/env bash
# Makes a folder with a past by some batchd, to be kept beside this file: make.sh BATCHD FOLDER
set -euo pipefail
batchd=$(realpath "$1")
mkdir "$2"
cd "$2"

batch() { # NAME TOML SCRIPT
    mkdir -p "batches.d/$1"
    printf '%s\n' "$2" >"batches.d/$1/batch.toml"
    printf '%s\n' "$3" >"batches.d/$1/script.sh"
}

never="cron = '0 0 29 2 *'"
batch tick "cron = '* * * * * *'
overlap = 'queue'" 'echo "$BATCHD_RUN"'
batch left "after = 'tick'
use_previous_output = true" 'cat; echo complaint >&2'
batch right "after = 'tick'" 'true'
batch join "after = ['left', 'right']" 'true'
batch bad "on_error = 'mend'
retries = 1
retry_delay = '10ms'" 'exit 3'
batch mend '' 'true'
batch one '' 'true'
batch two '' 'true'
batch both "after = ['one', 'two']" 'true'
batch off "cron = '* * * * * *'
enabled = false" 'true'
batch long '' 'echo begun; sleep 1000'

"$batchd" daemon 2>daemon.log &
daemon=$!
until "$batchd" list >/dev/null 2>&1 && grep -q 'tick.2' daemon.log; do sleep 0.1; done
"$batchd" start --wait bad || true
"$batchd" start --wait --downstream one
"$batchd" start --wait --downstream two
"$batchd" disable right --reason 'it is looked after'
sleep 2
batch tick "$never
overlap = 'queue'" 'echo "$BATCHD_RUN"'
batch off "$never
enabled = false" 'true'
"$batchd" reload
"$batchd" start long
until [[ -s runs/long.1/stdout.log ]]; do sleep 0.1; done
# The next daemon finds a run that was under way, and nothing of it that lives.
kill -TERM "$daemon"
wait "$daemon"
pid() { sed 's/.*"pid": *\([0-9]*\).*/\1/' "runs/long.1/$1"; }
script=$(pid started.json)
kill -KILL "$(pid claim)"
kill -KILL -- "-$script"
"$batchd" runs -n 1000 --json >runs.json
# One file: what is in its WAL is brought into it.
sqlite3 state/journal.db 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null
rm -rf daemon.log state/daemon.lock state/socket state/reserve state/journal.db-*
