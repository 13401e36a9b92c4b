"""DistilBERT (Sanh et al. 2019): BERT with half the depth and without token types."""
