#!/usr/bin/env bash
# Fails unless its workspace (`batchd path --workspace fetch`) has a file `answer`.
set -euo pipefail

if ! [[ -f answer ]]; then
  echo "attempt $BATCHD_ATTEMPT: no answer" >&2
  exit 7
fi
cat answer
