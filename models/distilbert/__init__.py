"""DistilBERT (Sanh et al. 2019): BERT at half the depth, without token types."""
