"""Adapters: what they are (`config`), and how a network gets them (`attach`)."""

from t2t.adapters.attach import is_of_adapter
from t2t.adapters.config import Adapter

__all__ = ["Adapter", "is_of_adapter"]
