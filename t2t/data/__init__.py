"""From a task to batches. Nothing here imports SeqIO or TensorFlow but `pipeline` and what it needs."""

from t2t.data.config import Data

__all__ = ["Data"]
