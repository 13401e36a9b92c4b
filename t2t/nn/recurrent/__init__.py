"""Recurrent mixers, which keep a state of constant size instead of keys and values, and the parts that they share."""
