"""Adapters in the format of the library PEFT: adapter_config.json and adapter_model.safetensors."""

from t2t.export.peft.files import Read
from t2t.export.peft.reading import read_adapter
from t2t.export.peft.writing import write_adapter

__all__ = ["Read", "read_adapter", "write_adapter"]
