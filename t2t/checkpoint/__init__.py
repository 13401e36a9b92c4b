"""Checkpoints: save state, data position and metrics of a step as one unit, and start from parts of another run's checkpoint."""

from t2t.checkpoint.checkpoints import CheckpointError, Checkpoints
from t2t.checkpoint.from_decoders import encoder_decoder_params
from t2t.checkpoint.from_layers import params_of_layers
from t2t.checkpoint.frozen import Reference
from t2t.checkpoint.initialise import Initialised, initialise
from t2t.checkpoint.retention import CheckpointConfig

__all__ = [
    "CheckpointConfig",
    "CheckpointError",
    "Checkpoints",
    "Initialised",
    "Reference",
    "encoder_decoder_params",
    "initialise",
    "params_of_layers",
]
