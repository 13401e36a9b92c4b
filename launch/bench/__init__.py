"""Benchmarks: what a recipe does on the machine at hand, beside what that machine can do."""
