#!/usr/bin/env bash
# Prints one line per sale: product, pieces, price per piece.
set -euo pipefail

products=(apples bread cheese dates)
prices=(0.40 2.90 7.50 3.20)
for sale in {1..12}; do
  index=$((RANDOM % ${#products[@]}))
  echo "${products[index]};$((RANDOM % 5 + 1));${prices[index]}"
  echo "$((sale * 100 / 12)) sale $sale of 12" >>"$BATCHD_PROGRESS"
done
echo "sales of the minute that was due at $BATCHD_DUE_AT" >&2
