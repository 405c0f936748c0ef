#!/usr/bin/env bash
# $BATCHD_INPUT_DIR has the output of each upstream, under its name.
set -euo pipefail

awk -F ';' '
  FILENAME ~ /customers/ { city[$1] = $2; next }
  { turnover[city[$2]] += $3 }
  END { for (name in turnover) printf "%-10s %8.2f\n", name, turnover[name] }
' "$BATCHD_INPUT_DIR/load-customers.out" "$BATCHD_INPUT_DIR/load-orders.out" | sort
