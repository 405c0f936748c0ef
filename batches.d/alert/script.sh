#!/usr/bin/env bash
# A real script would send this by mail.
set -euo pipefail

exit_code=${BATCHD_UPSTREAM_EXIT_CODE:-none}
echo "$BATCHD_UPSTREAM_RUN $BATCHD_UPSTREAM_OUTCOME (exit code $exit_code), due at $BATCHD_DUE_AT"
echo "The last lines of its stderr:"
tail -n 5 "$BATCHD_INPUT_DIR/supplier.err"
