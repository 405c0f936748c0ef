echo begun; sleep 1000
