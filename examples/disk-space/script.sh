#!/usr/bin/env bash
set -euo pipefail

used=$(df --output=pcent "$BATCHD_RUNS" | tr -dc '0-9')
echo "$used % used"
((used <= PERCENT_MAX)) || exit 3
