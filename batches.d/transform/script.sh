#!/usr/bin/env bash
# Reads the sales from stdin and prints one line per product: product, pieces, turnover.
set -euo pipefail

awk -F ';' '
  { pieces[$1] += $2; turnover[$1] += $2 * $3 }
  END { for (product in pieces) printf "%s;%d;%.2f\n", product, pieces[product], turnover[product] }
' | sort
