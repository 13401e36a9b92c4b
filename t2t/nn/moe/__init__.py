"""Mixture of experts: feed-forward layers that compute, for each token, only the few experts that a router chooses."""
