"""Muon: updates of matrices are made orthogonal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from t2t.limits import Epsilon, Momentum, Norm, Range, Weight
from t2t.nn.model import ParamSpec
from t2t.optim.optimizers import OptimizerConfig, add_weight_decay
from t2t.optim.paths import flatten_specs, path_name
from t2t.optim.per_layer import as_matrices, depth, matrix_view
from t2t.optim.schedules import Cosine, Schedule
from t2t.types import Params


@dataclass(frozen=True, kw_only=True)
class Muon(OptimizerConfig):
    """Muon for matrices (Jordan et al. 2024), with weight decay and AdamW for all other parameters (Liu et al. 2025, https://arxiv.org/abs/2502.16982).

    The update of a matrix is its momentum with all singular values moved close to 1. Each layer of a stacked parameter is a matrix of its own, and so is a
    projection to heads. Embeddings, heads with a row for each token, biases, norms and position embeddings have AdamW's update. One learning rate
    and weight decay apply to all.

    Args:
        momentum: decay rate of the running mean of the gradients of matrices.
        nesterov: look ahead by one step of the momentum.
        iterations: number of Newton-Schulz iterations.
        update_rms: root mean square of the update of a matrix before the learning rate. With 0.2, AdamW's learning rate and weight decay
            fit. None scales by sqrt(max(1, outputs / inputs)) instead (Jordan et al. 2024).
        b1: AdamW's decay rate of the running mean of gradients.
        b2: AdamW's decay rate of the running mean of squared gradients.
        eps: added to AdamW's denominator.
        weight_decay: weight decay rate. Biases, norms and position embeddings have no weight decay.
    """

    schedule: Schedule = field(default_factory=lambda: Cosine(steps=100_000, warmup=1_000))
    momentum: Momentum = 0.95
    nesterov: bool = True
    iterations: Annotated[int, Range(1, 100, typical=5)] = 5
    update_rms: Annotated[float, Range(1e-6, 1e6, typical=0.2)] | None = 0.2
    b1: Momentum = 0.9
    b2: Momentum = 0.95
    eps: Epsilon = 1e-8
    weight_decay: Weight = 0.1
    clip_norm: Norm | None = 1.0

    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return Muon for matrices and Adam for the rest, then weight decay and the learning rate."""
        flat = flatten_specs(specs)
        muon = optax.chain(
            contrib.scale_by_muon(
                ns_steps=self.iterations,
                beta=self.momentum,
                nesterov=self.nesterov,
                weight_dimension_numbers=_dimensions,
            ),
            _scaled(self.update_rms),
        )
        parts = {
            "matrix": as_matrices(muon, specs),
            "other": optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
        }
        labels = {path: "matrix" if is_matrix(spec) else "other" for path, spec in flat.items()}
        return [
            optax.partition(
                parts,
                lambda tree: jax.tree_util.tree_map_with_path(lambda path, leaf: labels[path_name(path)], tree),
            ),
            *add_weight_decay(self.weight_decay, specs),
            optax.scale_by_learning_rate(self.schedule.build()),
        ]


def is_matrix(spec: ParamSpec) -> bool:
    """Return whether Muon updates a parameter: a matrix between layers of units, not a table with a row for each token or position."""
    view = matrix_view(spec)
    return len(view.shape) - (depth(spec) is not None) == 2 and spec.decay and "vocab" not in spec.axes


def _dimensions(tree: Params) -> Any:
    """Return which two axes of each parameter are the matrix: the last two."""
    return jax.tree.map(lambda x: contrib.MuonDimensionNumbers(reduction_axis=x.ndim - 2, output_axis=x.ndim - 1), tree)


def _scaled(update_rms: float | None) -> optax.GradientTransformation:
    """Return the transformation that gives orthogonal matrices of any shape an update of the same size."""

    def one(update: jax.Array) -> jax.Array:
        inputs, outputs = update.shape[-2:]
        # An orthogonal matrix has min(inputs, outputs) singular values of 1, so its root mean square is 1 / sqrt(max(inputs, outputs)).
        factor = max(1.0, outputs / inputs) ** 0.5 if update_rms is None else update_rms * max(inputs, outputs) ** 0.5
        return jnp.asarray(factor, update.dtype) * update

    return optax.stateless(lambda updates, params: jax.tree.map(one, updates))
