"""Experiments and runs: the state, the step, the loop, evaluation."""
