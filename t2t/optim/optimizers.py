"""Optimizers as configurations that build Optax transformations."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from t2t.limits import Configuration, Epsilon, Momentum, Norm, Range, Share, Weight, Width
from t2t.nn.model import ParamSpec
from t2t.optim.balance import split_loads, with_load_rule
from t2t.optim.eight_bit import in_eight_bits
from t2t.optim.norms import clip_by_norm
from t2t.optim.paths import flatten_specs, path_name
from t2t.optim.per_layer import as_matrices, depth, per_layer
from t2t.optim.schedules import Constant, Cosine, InverseSquareRoot, Schedule
from t2t.types import Params


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Configuration, abc.ABC):
    """Base class of optimizer configurations. A subclass defines its options as fields, and `rules`.

    Args:
        schedule: the learning rate schedule. Each optimizer has its own default.
        clip_norm: maximum norm of the gradients of all trainable parameters together. Larger gradients are scaled down. None disables clipping.
        state_dtype: type of the moments of large parameters: "int8" stores them in eight bits by blocks (Dettmers et al. 2022), see `t2t.optim.eight_bit`.
        state_memory: where the state is between updates: "device", or "host" for the memory of the host of a GPU or a TPU. The result is the same.
    """

    schedule: Schedule = field(default_factory=Constant)
    clip_norm: Norm | None = None
    state_dtype: Literal["float32", "int8"] = "float32"
    state_memory: Literal["device", "host"] = "device"

    def build(self, specs: Any) -> optax.GradientTransformation:
        """Return the transformation from gradients to updates. specs: the nested dict of ParamSpec of the trainable parameters.

        Raises UserError if `state_dtype` is "int8" and no moment of the optimizer can have eight bits.
        """
        learned, _ = split_loads(specs, specs)
        parts = [] if self.clip_norm is None else [clip_by_norm(self.clip_norm, learned)]
        transform = optax.chain(*parts, *self.rules(learned))
        if self.state_dtype != "float32":
            transform = in_eight_bits(transform, learned)
        return with_load_rule(transform, specs)

    @abc.abstractmethod
    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return the transformations after clipping, with the learning rate (`schedule`), for parameters like `specs`."""


@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019). The learning rate multiplies both.

    Args:
        b1: decay rate of the running mean of gradients.
        b2: decay rate of the running mean of squared gradients.
        eps: added to the square root of the second moment, the denominator of the update.
        weight_decay: weight decay rate. Biases, norms and position embeddings have no weight decay.
    """

    schedule: Schedule = field(default_factory=lambda: Cosine(steps=100_000, warmup=1_000))
    b1: Momentum = 0.9
    b2: Momentum = 0.95
    eps: Epsilon = 1e-8
    weight_decay: Weight = 0.1
    clip_norm: Norm | None = 1.0

    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return Adam, weight decay and the learning rate."""
        return [
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            *add_weight_decay(self.weight_decay, specs),
            optax.scale_by_learning_rate(self.schedule.build()),
        ]


@dataclass(frozen=True, kw_only=True)
class StableAdamW(AdamW):
    """AdamW whose step shrinks for a parameter with unusually large gradients (Wortsman et al. 2023, https://arxiv.org/abs/2304.13013, algorithm 2).

    The learning rate of a parameter is divided by the root mean square of gradient / sqrt(second moment) if that is more than 1. Each layer of a stacked
    parameter counts as a parameter. This replaces clipping. ModernBERT was trained with it (Warner et al. 2024).
    """

    clip_norm: Norm | None = None

    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return Adam with weight decay, divided for each parameter, and the learning rate."""
        return [
            _stable_adam(self.b1, self.b2, self.eps, self.weight_decay, flatten_specs(specs)),
            optax.scale_by_learning_rate(self.schedule.build()),
        ]


def _stable_adam(
    b1: float, b2: float, eps: float, weight_decay: float, specs: Mapping[str, ParamSpec]
) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        steps, state = adam.update(updates, state, params)
        unbiased = 1 - b2 ** state.count.astype(jnp.float32)

        def one(path: tuple[Any, ...], step: jax.Array, gradient: jax.Array, nu: jax.Array, param: jax.Array) -> Any:
            spec = specs[path_name(path)]
            axes = None if depth(spec) is None else tuple(range(1, gradient.ndim))
            ratios = jnp.square(gradient) / jnp.maximum(nu / unbiased, eps**2)
            size = jnp.sqrt(jnp.mean(ratios, axis=axes, keepdims=True))
            return (step + weight_decay * spec.decay * param) / jnp.maximum(1.0, size)

        return jax.tree_util.tree_map_with_path(one, steps, updates, state.nu, params), state

    return optax.GradientTransformation(adam.init, update)


@dataclass(frozen=True, kw_only=True)
class Adafactor(OptimizerConfig):
    """Adafactor as used to train T5 (Shazeer & Stern 2018).

    Second moments are factored into rows and columns, there is no first moment, and updates are relative to the root mean square of the
    parameter. Each layer of a stacked parameter counts as a parameter, and a projection to heads as a matrix.

    Args:
        decay_rate: second moments decay by 1 - step ** -decay_rate, with steps counted from 1.
        clip_threshold: maximum root mean square of an update. Larger updates are scaled down. None disables this.
        min_scale: minimum root mean square of a parameter for `relative`.
        relative: multiply updates by the root mean square of the parameter, which is at least `min_scale`.
        min_dimension: minimum size of the two largest dimensions for which second moments are factored.
        eps: added to squared gradients.
        weight_decay: weight decay rate, multiplied by the learning rate. Biases, norms and position embeddings have no weight decay.
    """

    schedule: Schedule = field(default_factory=InverseSquareRoot)
    decay_rate: Share = 0.8
    clip_threshold: Norm | None = 1.0
    relative: bool = True
    min_scale: Annotated[float, Range(1e-12, 1.0, typical=1e-3)] = 1e-3
    min_dimension: Width = 128
    eps: Epsilon = 1e-30
    weight_decay: Weight = 0.0

    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return Adafactor for each layer, weight decay and the learning rate."""
        whole = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_dimension, epsilon=self.eps
            )
        ]
        if self.clip_threshold is not None:
            whole.append(optax.clip_by_block_rms(self.clip_threshold))
        if self.relative:
            whole.append(optax.scale_by_param_block_rms(self.min_scale))
        return [
            as_matrices(per_layer(optax.chain(*whole), specs), specs),
            *add_weight_decay(self.weight_decay, specs),
            optax.scale_by_learning_rate(self.schedule.build()),
        ]


def decay_mask(specs: Any) -> Callable[[Params], Any]:
    """Return the function that maps a tree of parameters to a tree of bools: whether weight decay applies."""
    decays = {path: spec.decay for path, spec in flatten_specs(specs).items()}
    return lambda tree: jax.tree_util.tree_map_with_path(lambda path, leaf: decays[path_name(path)], tree)


def add_weight_decay(rate: float, specs: Any) -> list[optax.GradientTransformation]:
    """Return the transformation that adds weight decay to updates, in a list that is empty if the rate is 0."""
    return [optax.add_decayed_weights(rate, mask=decay_mask(specs))] if rate else []
