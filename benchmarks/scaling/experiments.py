"""Experiments and batches to measure."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from t2t import models
from t2t.data import Data
from t2t.nn.model import ModelConfig
from t2t.optim import Adafactor, AdamW, Constant, OptimizerConfig
from t2t.sharding import MeshConfig
from t2t.train.experiment import Experiment
from t2t.train.program import Program
from t2t.types import Batch

OPTIMIZERS: dict[str, type[OptimizerConfig]] = {"adamw": AdamW, "adafactor": Adafactor}
KINDS = ("decoder", "encoder_decoder")
TASKS = {"decoder": "c4_causal_lm", "encoder_decoder": "c4_span_corruption", "encoder": "c4_masked_lm"}


def experiment(
    kind: str,
    *,
    batch_size: int,
    length: int,
    targets_length: int | None = None,
    mesh: dict[str, int] | None = None,
    optimizer: str = "adamw",
    **model: Any,
) -> Experiment:
    """Return the experiment of a GPT, T5 1.1 or BERT of any size.

    length:         positions in a row; for encoder-decoders, in a row of the encoder.
    targets_length: positions in a row of the decoder of an encoder-decoder (default: `length`).
    mesh:           sizes of the mesh axes (default: {"data": 1}).
    """
    if kind == "decoder":
        config: ModelConfig = models.gpt.gpt(**{"max_length": length, "dropout": 0.0, **model})
        lengths: dict[str, Any] = {"inputs_length": 1, "targets_length": length - 1}
    elif kind == "encoder":
        config = models.bert.bert(**{"max_length": length, "dropout": 0.0, **model})
        lengths = {"inputs_length": length, "targets_length": length}
    else:
        config = models.t5.t5(**{"dropout": 0.0, **model})
        lengths = {"inputs_length": length, "targets_length": length if targets_length is None else targets_length}
    sizes: dict[str, Any] = {"data": 1} if mesh is None else dict(mesh)
    return Experiment(
        model=config,
        data=Data(task=TASKS[kind], batch_size=batch_size, **lengths),
        optimizer=OPTIMIZERS[optimizer](schedule=Constant(peak=1e-3)),
        mesh=MeshConfig(**sizes),
    )


def host_batch(program: Program) -> Batch:
    """Return a batch of random ids as NumPy arrays [B L], without padding and with weight 1 for all targets."""
    random = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].name
        if name in ("ids", "targets"):
            return random.integers(1, program.experiment.model.vocab_size, leaf.shape).astype(leaf.dtype)
        if name == "positions":
            return np.broadcast_to(np.arange(leaf.shape[1], dtype=leaf.dtype), leaf.shape).copy()
        return np.full(leaf.shape, name in ("segments", "weights"), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, program.abstract_batch())


def device_batch(program: Program) -> Batch:
    """Return `host_batch` on the program's devices."""
    return jax.device_put(host_batch(program), program.batch_sharding())
