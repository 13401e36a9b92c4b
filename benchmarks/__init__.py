"""Benchmarks to run by hand. Not part of the installed package."""
