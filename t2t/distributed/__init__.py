"""Multi-process runs: how the processes connect, check that they agree, and end together."""
