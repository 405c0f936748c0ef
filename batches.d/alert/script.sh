#!/usr/bin/env bash
# A real one would send this by mail.
set -euo pipefail

echo "$BATCHD_UPSTREAM_RUN $BATCHD_UPSTREAM_OUTCOME (exit code ${BATCHD_UPSTREAM_EXIT_CODE:-none}), due at $BATCHD_DUE_AT"
echo "Its last words:"
tail -n 5 "$BATCHD_INPUT_DIR/supplier.err"
