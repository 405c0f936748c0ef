#!/usr/bin/env bash
# A real one would ask a database. What it prints is what follows gets.
set -euo pipefail

printf '%s;%s;%s\n' 1001 ann 12.50 1002 bob 7.00 1003 ann 3.25
