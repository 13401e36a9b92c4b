"""Exit codes."""

DONE, FAILED, MISTAKE, STOPPED = 0, 1, 2, 75
