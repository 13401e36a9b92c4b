"""What is measured, a module a process: each answers the requests of `benchmarks.protocol` in an environment of its own."""
