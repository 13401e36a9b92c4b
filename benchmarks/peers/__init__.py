"""The peers. Each module runs as a process in its own environment and answers the requests of `benchmarks.protocol`."""
