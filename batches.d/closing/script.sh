#!/usr/bin/env bash
# stdin holds both outputs in the order of `after`; $BATCHD_INPUT_DIR has a file for each upstream.
set -euo pipefail

echo "== The report"
cat "$BATCHD_INPUT_DIR/report.out"
echo "== To order"
cat "$BATCHD_INPUT_DIR/stock.out"
