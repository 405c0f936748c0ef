#!/usr/bin/env bash
set -euo pipefail

echo "$BATCHD_UPSTREAM_RUN has $BATCHD_UPSTREAM_OUTCOME with exit code ${BATCHD_UPSTREAM_EXIT_CODE:-none}"
echo "see: batchd logs $BATCHD_UPSTREAM_RUN"
