#!/usr/bin/env bash
set -euo pipefail

printf '%s;%s\n' ann Hamburg bob Leeds
