"""What the exit codes mean."""

DONE, FAILED, MISTAKE, STOPPED = 0, 1, 2, 75
