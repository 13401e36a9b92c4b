"""t2t: the forward and backward pass of decoders of one layer, read from options of transformers' config.json."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import batches
from benchmarks.cases import Case
from benchmarks.protocol import Answer, Prepared
from benchmarks.published_layers import options
from t2t.export.family import Options
from t2t.export.huggingface import write_huggingface
from t2t.models.families import exportable, family_of
from t2t.nn.model import Model, ModelConfig
from t2t.plan import flops
from t2t.types import Batch, Params, Tokens
from t2t.vocabularies import Bytes


def config(case: Case) -> ModelConfig:
    """Return the model configuration of the case."""
    values = options(case)
    read = Options(values, where=case.name)
    made = family_of(values["model_type"], where=case.name).config(read, SimpleNamespace(names=()))  # type: ignore[arg-type]
    read.finish()
    return made


def batch(case: Case) -> Batch:
    """Return rows of the case's ids, which have no targets."""
    rows = batches.rows(case, case.length)
    tokens = Tokens(ids=batches.layer_ids(case), positions=rows.positions, segments=rows.segments)
    return Batch(encoder=None, decoder=tokens, targets=tokens.ids, weights=np.zeros(tokens.ids.shape, np.float32))


def mean_square(model: Model, params: Params, batch: Batch) -> jax.Array:
    """Return the mean square of the output of the last norm: what is differentiated."""
    return jnp.mean(jnp.square(model.hidden(params, batch)))


def layer(case: Case) -> Prepared:
    """Prepare the gradient of all parameters."""
    model = config(case).build()
    params, rows = jax.jit(model.init)(jax.random.key(0)), jax.device_put(batch(case))

    def value(params: Params, rows: Batch) -> jax.Array:
        return mean_square(model, params, rows)

    step = jax.jit(jax.value_and_grad(value))
    facts: dict[str, Any] = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
    facts["flops"] = 3 * flops.dots(value, params, rows).total()
    return Prepared(
        run=lambda: jax.block_until_ready(step(params, rows)), tokens=batches.layer_ids(case).size, facts=facts
    )


def check(case: Case, directory: str) -> Answer:
    """Write a model with random parameters in the format of transformers. Return the mean square of its output, and of the gradient of its parameters."""
    made = config(case)
    model = made.build()
    params = jax.jit(model.init)(jax.random.key(0))
    _, found, tensors = exportable(made)
    write_huggingface(params, found, tensors, Bytes(), Path(directory), kind=made.kind, overwrite=True)
    loss = jax.jit(mean_square, static_argnums=0)(model, params, batch(case))
    return {"loss": float(loss), "parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
