#!/usr/bin/env bash
# The names of the archives have the due date, not the date of the run.
set -euo pipefail

source_folder=${SOURCE:-$PWD}
target=${TARGET:-$PWD/packs}
mkdir -p "$target"

pack="$target/${BATCHD_DUE_AT:0:10}.tar.gz"
tar --create --gzip --file "$pack.new" --exclude ./packs --directory "$source_folder" .
mv "$pack.new" "$pack"
echo "$pack has $(stat --format %s "$pack") bytes"

# Names are dates, so the oldest come first.
packs=("$target"/*.tar.gz)
for ((old = 0; old < ${#packs[@]} - 7; old++)); do
  rm "${packs[old]}"
  echo "removed ${packs[old]}"
done
