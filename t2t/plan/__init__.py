"""Training on hardware that is not there: what a step would hold, compute and send, from the step's own compiled program."""
