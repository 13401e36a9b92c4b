"""Optimizers, learning rate schedules, and the sharding of their state."""

from t2t.optim.by_name import Optax
from t2t.optim.ema import Ema
from t2t.optim.muon import Muon
from t2t.optim.optimizers import Adafactor, AdamW, OptimizerConfig, StableAdamW, decay_mask
from t2t.optim.per_layer import per_layer
from t2t.optim.schedules import Constant, Cosine, InverseSquareRoot, Linear, Schedule, WarmupStableDecay
from t2t.optim.state_axes import state_axes
from t2t.optim.trainable import Trainable

__all__ = [
    "Adafactor",
    "AdamW",
    "Constant",
    "Cosine",
    "Ema",
    "InverseSquareRoot",
    "Linear",
    "Muon",
    "Optax",
    "OptimizerConfig",
    "Schedule",
    "StableAdamW",
    "Trainable",
    "WarmupStableDecay",
    "decay_mask",
    "per_layer",
    "state_axes",
]
