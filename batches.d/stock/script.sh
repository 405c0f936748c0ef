#!/usr/bin/env bash
# Reads the sales from stdin and prints the products that sold more than five pieces.
set -euo pipefail

awk -F ';' '
  { pieces[$1] += $2 }
  END { for (product in pieces) if (pieces[product] > 5) print product, pieces[product] }
' | sort
