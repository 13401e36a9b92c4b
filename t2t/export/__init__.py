"""Export a model to StableHLO (which needs only JAX to run) or safetensors."""

from t2t.export.stablehlo import write_stablehlo
from t2t.export.weights import Weights, read_safetensors, write_safetensors

__all__ = ["Weights", "read_safetensors", "write_safetensors", "write_stablehlo"]
