"""Adapters: few trained parameters beside the frozen kernel of a linear layer, or beside another frozen matrix."""

from t2t.nn.adapters.bank import ADAPTERS, NONE, AdapterBank, adapters_of_rows
from t2t.nn.adapters.dora import DoRA
from t2t.nn.adapters.ia3 import IA3
from t2t.nn.adapters.lora import LoRA
from t2t.nn.adapters.low_rank import Adaptable, Adapters, LowRank
from t2t.nn.adapters.parameters import disabled, merged, started

__all__ = [
    "ADAPTERS",
    "IA3",
    "NONE",
    "Adaptable",
    "AdapterBank",
    "Adapters",
    "DoRA",
    "LoRA",
    "LowRank",
    "adapters_of_rows",
    "disabled",
    "merged",
    "started",
]
