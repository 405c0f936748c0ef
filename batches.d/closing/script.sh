#!/usr/bin/env bash
# stdin is the outputs one after the other, in the order of `after`; each by itself is in $BATCHD_INPUT_DIR.
set -euo pipefail

echo "== The report"
cat "$BATCHD_INPUT_DIR/report.out"
echo "== To be ordered"
cat "$BATCHD_INPUT_DIR/stock.out"
