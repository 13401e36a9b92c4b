"""Attention as a function of queries, keys and values, with several backends (Vaswani et al. 2017).

Every backend computes the same function or raises an error. The table `ABILITIES` has the features of each.
"""

from t2t.nn.attention.abilities import ABILITIES, Abilities, Backend, Needs, check_abilities, portable
from t2t.nn.attention.call import BACKENDS, Bias, attention
from t2t.nn.attention.step import Shared, attend_step

__all__ = [
    "ABILITIES",
    "BACKENDS",
    "Abilities",
    "Backend",
    "Bias",
    "Needs",
    "Shared",
    "attend_step",
    "attention",
    "check_abilities",
    "portable",
]
