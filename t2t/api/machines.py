"""Changes of a preset for the machines that it needs: the mesh, and the options of large models."""

from __future__ import annotations

from dataclasses import replace

from t2t import models
from t2t.models import TransformerConfig
from t2t.nn.attention import Backend
from t2t.nn.model import ModelConfig
from t2t.sharding import MeshConfig

LARGE, HUGE = 1_000_000_000, 5_000_000_000
"""Parameter counts from which `mesh_for` uses `fsdp`, and `fsdp` with `tensor`. See docs/planning.md."""


def mesh_for(config: ModelConfig) -> MeshConfig:
    """Return a suitable mesh for a model of this size, for any number of devices.

    Small models are replicated. Large models are sharded over `fsdp`, which sends the parameters twice and their gradients once a step.
    For huge models that is too much traffic, so their matrices are also sharded over eight neighbours (`tensor`).
    """
    size = models.count(config)  # type: ignore[arg-type]
    if size < LARGE:
        return MeshConfig()
    return MeshConfig(data=1, fsdp=-1, tensor=8 if size >= HUGE else 1)


def for_accelerators(config: TransformerConfig, length: int) -> TransformerConfig:
    """Return the preset with changes for training on accelerators, if it has at least a billion parameters.

    The changes are bfloat16 and full rematerialisation, without which such a model does not fit on accelerators, and chunked attention for rows
    of 2,048 tokens or more. The vocabulary size is rounded up to a multiple of 128, so that it divides evenly over any mesh: GPT's 50,257 does not.
    """
    if models.count(config) < LARGE:
        return config
    attention: Backend = "chunked" if length >= 2048 else config.attention
    rows = -(-config.vocab_size // 128) * 128
    return replace(config, vocab_size=rows, dtype="bfloat16", remat="full", attention=attention)
