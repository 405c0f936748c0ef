#!/usr/bin/env bash
# Reads the sums from stdin. $BATCHD_INPUT is the path of the same text as a file.
set -euo pipefail

echo "Sales, due at $BATCHD_DUE_AT (this is $BATCHD_RUN of the chain $BATCHD_CHAIN)"
printf '%-10s %8s %10s\n' product pieces turnover
while IFS=';' read -r product pieces turnover; do
  printf '%-10s %8d %10.2f\n' "$product" "$pieces" "$turnover"
done
echo "$(wc -l <"$BATCHD_INPUT") products"
