"""ALBERT (Lan et al. 2020): BERT whose layers share their parameters, with embeddings narrower than the layers."""
