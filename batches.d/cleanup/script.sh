#!/usr/bin/env bash
set -euo pipefail

echo "$BATCHD_UPSTREAM_RUN $BATCHD_UPSTREAM_OUTCOME; temporary files removed"
