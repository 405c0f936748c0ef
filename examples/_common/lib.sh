# Copied next to each script whose batch has `include = ["_common"]`.

log() { echo "[$BATCHD_BATCH] $*" >&2; }
