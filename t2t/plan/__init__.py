"""Planning for hardware that you do not have: the memory, computation and communication of a training step, from its compiled program."""
