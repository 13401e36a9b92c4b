"""Layers: parameters and their axes, attention, feed-forwards, norms, embeddings, positions; and the interface of models."""
