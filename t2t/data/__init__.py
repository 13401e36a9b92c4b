"""Batches from SeqIO tasks. Importing this package loads neither SeqIO nor TensorFlow; `t2t.data.pipeline` loads both."""

from t2t.data.config import Data

__all__ = ["Data"]
