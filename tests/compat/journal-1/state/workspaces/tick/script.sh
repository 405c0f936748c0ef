echo "$BATCHD_RUN"
