# Brought in as the folder _common beside each script whose batch says `include = ["_common"]`.

log() { echo "[$BATCHD_BATCH] $*" >&2; }
