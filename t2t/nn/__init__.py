"""Layers: parameters and their axes, attention, feed-forward layers, norms, embeddings and positions. Also the interface of models."""
