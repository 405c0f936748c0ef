#!/usr/bin/env bash
set -euo pipefail
source ./_common/lib.sh

log "the function comes from _common/lib.sh"
echo done
