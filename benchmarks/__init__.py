"""Measurements that are made by hand; not installed."""
