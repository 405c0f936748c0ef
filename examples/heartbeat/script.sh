#!/usr/bin/env bash
set -euo pipefail

read -r load _ </proc/loadavg
echo "$(uname -n) lives, load $load"
