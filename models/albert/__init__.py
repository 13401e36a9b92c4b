"""ALBERT (Lan et al. 2020): BERT with parameters shared by all layers, and embeddings narrower than the layers."""
