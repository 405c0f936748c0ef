#!/usr/bin/env bash
# A real script would query a database. The next batch reads this output.
set -euo pipefail

printf '%s;%s;%s\n' 1001 ann 12.50 1002 bob 7.00 1003 ann 3.25
