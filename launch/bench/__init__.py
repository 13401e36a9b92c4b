"""Benchmarks: measure a recipe on this machine and compare it with the limits of the machine."""
